package files

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarima/proxy/coding"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestNames(t *testing.T) {
	x := newSite(t, Config{}, map[string]string{
		"index.html": "<p>index", "sub/index.html": "<p>sub", "a b/ñ.txt": "text", ".hidden": "hidden", "sub/.git/config": "hidden",
		"../secret": "secret", "empty.css": "", "sub/.app.js.made.br": "hidden",
	})
	for link, to := range map[string]string{"outside": "../secret", "absolute": x.base + "/secret", "inside": "sub/index.html", "tohidden": ".hidden"} {
		if err := os.Symlink(to, x.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..", x.path("up")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(x.path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mknod(x.path("null"), syscall.S_IFCHR|0o600, 1<<8|3); err != nil {
		t.Fatalf("a device file needs root: %v", err)
	}
	for _, c := range []struct{ name, want string }{
		{"", "<p>index"},
		{"index.html", "<p>index"},
		{"sub", "<p>sub"},
		{"sub/", "<p>sub"},
		{"/sub//index.html", "<p>sub"},
		{"a b/ñ.txt", "text"},
		{"inside", "<p>sub"},
		{"empty.css", ""},
		{"index.html/", "-"},
		{".hidden", "-"},
		{"sub/.git/config", "-"},
		{"sub/.app.js.made.br", "-"},
		{"../secret", "-"},
		{"sub/../../secret", "-"},
		{"..", "-"},
		{".", "-"},
		{"outside", "-"},
		{"absolute", "-"},
		{"up/secret", "-"},
		{"pipe", "-"},
		{"null", "-"},
		{"nothing", "-"},
		{"index.html\x00", "-"},
		{"\xff\xfe", "-"},
		{"sub\\index.html", "-"},
		{"a\nb", "-"},
		{strings.Repeat("x", 300), "-"},
		{strings.Repeat("x/", 3000), "-"},
	} {
		got := x.get(c.name)
		if c.want == "-" {
			if !errors.Is(got.err, ErrNotFound) || got.Body.Len() > 0 || len(got.Header()) > 0 {
				t.Errorf("%q: %v, %q", c.name, got.err, got.Body)
			}
			continue
		}
		if got.err != nil || got.Body.String() != c.want || got.Code != 200 {
			t.Errorf("%q: %v, %d, %q", c.name, got.err, got.Code, got.Body)
		}
	}
	// A folder that is none.
	w := x.s
	if _, err := w.Serve(nil, &http.Request{Header: http.Header{}}, Ask{Base: x.base, Root: "none"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no folder: %v", err)
	}
	if _, err := w.Serve(nil, &http.Request{Header: http.Header{}}, Ask{Base: x.base, Root: "../../etc", Name: "passwd"}); err == nil {
		t.Error("a root outside of the base is served")
	}
}

func TestSinglePage(t *testing.T) {
	x := newSite(t, Config{}, map[string]string{"index.html": "<p>index", "app.3f9a77c2.js": "js", "docs/a.txt": "a"})
	for name, want := range map[string]string{
		"": "<p>index", "course/course-v1:Uni+CS1.1+2024.T1/home": "<p>index", "docs": "<p>index", "app.3f9a77c2.js": "js",
		"old.0a9b8c7d.js": "", "old.0a9b8c7d.js.map": "", ".hidden": "",
	} {
		r, _ := http.NewRequest(http.MethodGet, "/", nil)
		w := httptest.NewRecorder()
		_, err := x.s.Serve(w, r, Ask{Base: x.base, Root: "app", Name: name, SPA: true})
		if want == "" != errors.Is(err, ErrNotFound) || w.Body.String() != want {
			t.Errorf("%q: %v %q", name, err, w.Body)
		}
	}
	if n := x.s.Stats().Files; n > 3 {
		t.Errorf("%d files are known: names that visitors make up are kept", n)
	}
}

func TestHeaders(t *testing.T) {
	for name, want := range map[string][2]string{
		"app.3f9a77c2.js":          {"text/javascript; charset=utf-8", cacheForever},
		"3f9a77c2d1.chunk.css":     {"text/css; charset=utf-8", cacheForever},
		"app.3f9a77c2.js.map":      {"application/json", cacheForever},
		"font-0a1b2c3d4e5f.woff2":  {"font/woff2", cacheForever},
		"index.html":               {"text/html; charset=utf-8", cacheAsk},
		"calendar-20241231.pdf":    {"application/pdf", cacheAsk},
		"facade.decade.JPG":        {"image/jpeg", cacheAsk},
		"deadbeef.png":             {"image/png", cacheAsk}, // could be a word
		"app.3f9a77c.js":           {"text/javascript; charset=utf-8", cacheAsk},
		"app.3F9A77C2.js":          {"text/javascript; charset=utf-8", cacheAsk},
		"3f9a77c2":                 {"application/octet-stream", cacheAsk},
		"app.3f9a77c2-and-more.js": {"text/javascript; charset=utf-8", cacheAsk},
	} {
		x := newSite(t, Config{}, map[string]string{name: "content"})
		got := x.get(name)
		if got.err != nil || got.Header().Get("Content-Type") != want[0] || got.Header().Get("Cache-Control") != want[1] {
			t.Errorf("%s: %v, %v", name, got.err, got.Header())
		}
		if got.Header().Get("X-Content-Type-Options") != "nosniff" || got.Header().Get("Accept-Ranges") != "bytes" {
			t.Errorf("%s: %v", name, got.Header())
		}
		when, err := http.ParseTime(got.Header().Get("Last-Modified"))
		if err != nil || when.After(time.Now()) {
			t.Errorf("%s: Last-Modified %q", name, got.Header().Get("Last-Modified"))
		}
	}
}

// From memory, from memory that keeps nothing, and from disk.
func TestEncodings(t *testing.T) {
	for _, cfg := range []Config{{}, {Memory: -1}, {MemoryEach: 1}} {
		plain := script("app", 30_000)
		files := map[string]string{"app.js": plain, "small.js": "x", "pic.png": plain, "pic.png.gz": encode(t, coding.Gzip, plain)}
		for c := range coding.Identity {
			files["app.js"+endings[c]] = encode(t, c, plain)
		}
		x := newSite(t, cfg, files)
		etags := map[string]bool{}
		for _, c := range []struct {
			accept, coding string
			err            error
		}{
			{"", "", nil},
			{"gzip, deflate, br, zstd", "?", nil},
			{"gzip", "gzip", nil},
			{"zstd", "zstd", nil},
			{"br", "br", nil},
			{"gzip;q=0.9, br;q=0.8", "gzip", nil},
			{"identity;q=0", "", ErrNotAcceptable},
			{"identity;q=0, gzip", "gzip", nil},
			{"deflate", "", nil},
		} {
			got := x.get("app.js", "Accept-Encoding", c.accept)
			if !errors.Is(got.err, c.err) {
				t.Errorf("%q: %v", c.accept, got.err)
			}
			if c.err != nil {
				continue
			}
			coded := got.Header().Get("Content-Encoding")
			want := plain
			for k := range coding.Identity {
				if k.String() == coded {
					want = files["app.js"+endings[k]]
				}
			}
			if coded != c.coding && (c.coding != "?" || coded == "") || got.Body.String() != want {
				t.Errorf("%q: %q, %d bytes", c.accept, coded, got.Body.Len())
			}
			if got.Header().Get("Content-Type") != "text/javascript; charset=utf-8" || got.Header().Get("Vary") != "Accept-Encoding" {
				t.Errorf("%q: %v", c.accept, got.Header())
			}
			etags[got.Header().Get("ETag")] = true
		}
		if len(etags) != 4 {
			t.Errorf("entity tags of 4 forms: %v", etags)
		}
		// Not worth it, or compressed already: no encoding, and none is promised.
		for _, name := range []string{"small.js", "pic.png"} {
			got := x.get(name, "Accept-Encoding", "gzip")
			if got.err != nil || got.Header().Get("Content-Encoding") != "" || got.Header().Get("Vary") != "" {
				t.Errorf("%s: %v %v", name, got.err, got.Header())
			}
			if got := x.get(name, "Accept-Encoding", "gzip, identity;q=0"); !errors.Is(got.err, ErrNotAcceptable) {
				t.Errorf("%s: %v", name, got.err)
			}
		}
	}
}

// An encoding of something else is never served as one of the file.
func TestForeignEncodings(t *testing.T) {
	plain := script("app", 5000)
	for what, encoded := range map[string]string{
		"of another release": encode(t, coding.Gzip, script("old", 5000)),
		"of the beginning":   encode(t, coding.Gzip, plain[:4000]),
		"of more":            encode(t, coding.Gzip, plain+"x"),
		"of far more":        encode(t, coding.Gzip, plain+strings.Repeat("\x00", 3<<20)),
		"cut off":            encode(t, coding.Gzip, plain)[:60],
		"no gzip":            "nothing of the kind",
		"empty":              "",
		"with a tail":        encode(t, coding.Gzip, plain) + "tail",
	} {
		x := newSite(t, Config{}, map[string]string{"app.js": plain, "app.js.gz": encoded})
		got := x.get("app.js", "Accept-Encoding", "gzip")
		if got.err != nil || got.Header().Get("Content-Encoding") != "" || got.Body.String() != plain {
			t.Errorf("%s: %v, %v", what, got.err, got.Header())
		}
		if got := x.get("app.js.gz"); got.Body.String() != encoded || got.Header().Get("Content-Type") != "application/gzip" {
			t.Errorf("%s: asked for by its own name: %v %v", what, got.err, got.Header())
		}
	}
	x := newSite(t, Config{}, map[string]string{"app.js": plain, "elsewhere.gz": encode(t, coding.Gzip, plain)})
	if err := os.Symlink("elsewhere.gz", x.path("app.js.gz")); err != nil {
		t.Fatal(err)
	}
	if got := x.get("app.js", "Accept-Encoding", "gzip"); got.Header().Get("Content-Encoding") != "" {
		t.Error("an encoding behind a link is used")
	}
}

func TestPreconditions(t *testing.T) {
	x := newSite(t, Config{}, map[string]string{"a.css": script("a", 3000), "a.css.br": encode(t, coding.Brotli, script("a", 3000))})
	plain := x.get("a.css").Header()
	etag, changed := plain.Get("ETag"), plain.Get("Last-Modified")
	coded := x.get("a.css", "Accept-Encoding", "br").Header().Get("ETag")
	if !strings.HasPrefix(etag, `"`) || coded == etag {
		t.Fatalf("entity tags %s and %s", etag, coded)
	}
	day := func(d int) string {
		when, err := http.ParseTime(changed)
		if err != nil {
			t.Fatal(err)
		}
		return when.AddDate(0, 0, d).Format(http.TimeFormat)
	}
	for i, c := range []struct {
		status int
		header []string
	}{
		{304, []string{"If-None-Match", etag}},
		{304, []string{"If-None-Match", "W/" + etag}},
		{304, []string{"If-None-Match", `"x", W/"y,z" ,` + etag}},
		{304, []string{"If-None-Match", `"x"`, "If-None-Match", etag}},
		{304, []string{"If-None-Match", "*"}},
		{304, []string{"If-None-Match", coded, "Accept-Encoding", "br"}},
		{200, []string{"If-None-Match", etag, "Accept-Encoding", "br"}},
		{200, []string{"If-None-Match", coded}},
		{200, []string{"If-None-Match", `"x"`}},
		{200, []string{"If-None-Match", strings.Trim(etag, `"`)}},
		{200, []string{"If-None-Match", ""}},
		{200, []string{"If-None-Match", `"x`}},
		{200, []string{"If-None-Match", `"x"` + etag}},
		{304, []string{"If-Modified-Since", changed}},
		{304, []string{"If-Modified-Since", day(1)}},
		{200, []string{"If-Modified-Since", day(-1)}},
		{200, []string{"If-Modified-Since", "yesterday"}},
		{200, []string{"If-None-Match", `"x"`, "If-Modified-Since", changed}}, // the tag decides
		{200, []string{"If-Match", etag}},
		{200, []string{"If-Match", "*"}},
		{412, []string{"If-Match", "W/" + etag}}, // strong comparison
		{412, []string{"If-Match", `"x"`}},
		{412, []string{"If-Match", `"x"`, "If-None-Match", etag}}, // the order
		{304, []string{"If-Match", etag, "If-None-Match", etag}},
		{200, []string{"If-Unmodified-Since", changed}},
		{412, []string{"If-Unmodified-Since", day(-1)}},
		{200, []string{"If-Unmodified-Since", "never"}},
		{200, []string{"If-Match", etag, "If-Unmodified-Since", day(-1)}},
		{304, []string{"If-None-Match", etag, "Range", "bytes=0-1"}},
		{412, []string{"If-Match", `"x"`, "Range", "bytes=0-1"}},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			got := x.ask(method, "a.css", c.header...)
			if got.err != nil || got.Code != c.status {
				t.Errorf("%d: %s %v: %d, %v", i, method, c.header, got.Code, got.err)
			}
			if (c.status != 200 || method == http.MethodHead) && got.Body.Len() > 0 {
				t.Errorf("%d: %s has a body", i, method)
			}
			h := got.Header()
			if c.status == 304 && (h.Get("ETag") == "" || h.Get("Cache-Control") == "" || h.Get("Vary") == "" || h.Get("Content-Length") != "" || h.Get("Content-Encoding") != "") {
				t.Errorf("%d: 304 with %v", i, h)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	text := script("a", 3000)
	encoded := encode(t, coding.Brotli, text)
	for _, cfg := range []Config{{}, {MemoryEach: 1}} {
		x := newSite(t, cfg, map[string]string{"a.css": text, "a.css.br": encoded, "empty.css": ""})
		if err := os.Chtimes(x.path("a.css"), time.Now(), time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		x.age()
		plain := x.get("a.css").Header()
		etag, size := plain.Get("ETag"), int64(len(text))
		coded := x.get("a.css", "Accept-Encoding", "br").Header().Get("ETag")
		for i, c := range []struct {
			ranges     string
			start, end int64 // end 0: the whole; -1: 416
			header     []string
		}{
			{"bytes=0-9", 0, 10, nil},
			{"bytes=10-", 10, size, nil},
			{"bytes=-5", size - 5, size, nil},
			{"bytes=-9999", 0, size, nil},
			{"bytes=2990-9999", 2990, size, nil},
			{"Bytes = 1-1", 1, 2, nil},
			{"bytes=0-99999999999999999999", 0, size, nil},
			{"bytes=3000-", 0, -1, nil},
			{"bytes=99999999999999999999-", 0, -1, nil},
			{"bytes=-0", 0, -1, nil},
			{"bytes=5-4", 0, 0, nil},
			{"bytes=a-b", 0, 0, nil},
			{"bytes=--5", 0, 0, nil},
			{"bytes=-", 0, 0, nil},
			{"bytes=", 0, 0, nil},
			{"lines=0-1", 0, 0, nil},
			{"bytes=0-1,x", 0, 0, nil},
			{"lines=0-1,2-3", 0, 0, nil},
			{"bytes=,", 0, 0, nil},
			{"bytes=0-2000,0-2000", 0, 0, nil}, // more than the file
			{"bytes=" + strings.Repeat("0-0,", 17), 0, 0, nil},
			{"bytes=3000-,4000-5000", 0, -1, nil},
			{"bytes=3000-,7-8", 7, 9, nil},
			{"bytes=7-8,", 7, 9, nil},
			{"bytes=0-4,10-14", 0, 0, []string{"If-Range", `"x"`}},
			{"0-1", 0, 0, nil},
			{"bytes=0-9", 0, 10, []string{"If-Range", etag}},
			{"bytes=0-9", 0, 0, []string{"If-Range", "W/" + etag}},
			{"bytes=0-9", 0, 0, []string{"If-Range", `"x"`}},
			{"bytes=0-9", 0, 0, []string{"If-Range", plain.Get("Last-Modified")}}, // changed just now: the date is weak
			{"bytes=0-9", 0, 0, []string{"If-Range", "Thu, 01 Jan 1970 00:00:00 GMT"}},
			{"bytes=3000-", 0, 0, []string{"If-Range", `"x"`}},
			{"bytes=0-9", 0, 0, []string{"If-Range", coded}},
		} {
			got := x.get("a.css", append([]string{"Range", c.ranges}, c.header...)...)
			want, status, about := text, 200, ""
			switch {
			case c.end > 0:
				want, status, about = text[c.start:c.end], 206, fmt.Sprintf("bytes %d-%d/%d", c.start, c.end-1, size)
			case c.end < 0:
				want, status, about = "", 416, fmt.Sprintf("bytes */%d", size)
			}
			if got.err != nil || got.Code != status || got.Body.String() != want || got.Header().Get("Content-Range") != about {
				t.Errorf("%d: %s %v: %d, %d bytes, %v, %v", i, c.ranges, c.header, got.Code, got.Body.Len(), got.Header(), got.err)
			}
			if head := x.ask(http.MethodHead, "a.css", "Range", c.ranges); head.Code != 200 || head.Header().Get("Content-Length") != itoa(len(text)) {
				t.Errorf("%d: HEAD with a range: %d %v", i, head.Code, head.Header())
			}
		}
		// A part of an encoding.
		got := x.get("a.css", "Range", "bytes=3-9", "Accept-Encoding", "br", "If-Range", coded)
		if got.Code != 206 || got.Body.String() != encoded[3:10] || got.Header().Get("Content-Encoding") != "br" || got.Header().Get("Content-Range") != fmt.Sprintf("bytes 3-9/%d", len(encoded)) {
			t.Errorf("range of brotli: %d %v", got.Code, got.Header())
		}
		// Several parts are of the file as it is.
		got = x.get("a.css", "Range", "bytes=0-4, 10-14", "Accept-Encoding", "br")
		kind, parameters, err := mime.ParseMediaType(got.Header().Get("Content-Type"))
		if got.Code != 206 || err != nil || kind != "multipart/byteranges" {
			t.Fatalf("two ranges: %d %v", got.Code, got.Header())
		}
		parts := multipart.NewReader(got.Body, parameters["boundary"])
		for _, want := range []string{text[0:5], text[10:15]} {
			part, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			if data, err := io.ReadAll(part); err != nil || string(data) != want || part.Header.Get("Content-Type") != "text/css; charset=utf-8" {
				t.Errorf("part %q, %v, %v", data, part.Header, err)
			}
		}
		if got := x.get("empty.css", "Range", "bytes=0-"); got.Code != 416 {
			t.Errorf("range of nothing: %d", got.Code)
		}
	}
}

// A date is a strong validator when nothing can have changed within its second.
func TestIfRangeDate(t *testing.T) {
	changed := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := http.Header{"If-Range": {changed.Format(http.TimeFormat)}}
	for after, want := range map[time.Duration]bool{0: false, time.Second: false, 2 * time.Second: true, time.Hour: true} {
		if got := rangeStands(h, `"x"`, changed, changed.Add(after)); got != want {
			t.Errorf("after %v: %v", after, got)
		}
	}
	if rangeStands(h, `"x"`, changed.Add(time.Second), changed.Add(time.Hour)) || rangeStands(h, `"x"`, time.Time{}, changed) {
		t.Error("another date stands")
	}
}

package compress

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var page = strings.Repeat("<p>Bienvenidos al curso.</p>\n", 200)

// visit is a request of an anonymous visitor, with more headers.
func visit(header ...string) Visit {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept-Encoding", "gzip, deflate, br, zstd")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return Visit{Request: r, Secure: true, Own: func(host string) bool { return host == "apps.example.org" }}
}

func answer(text string, header ...string) *http.Response {
	h := http.Header{"Content-Type": {"text/html; charset=utf-8"}, "Content-Length": {"5600"}, "Etag": {`"abc"`}}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text))}
}

func decode(t interface{ Fatal(...any) }, resp *http.Response) string {
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	switch resp.Header.Get("Content-Encoding") {
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if data, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	case "zstd":
		r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if data, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return string(data)
}

func TestApply(t *testing.T) {
	idle := Config{MaxLoad: -1}
	insecure := visit("Cookie", "sessionid=1")
	insecure.Secure = false
	head := visit()
	head.Request.Method = http.MethodHead
	status := func(code int) *http.Response {
		a := answer(page)
		a.StatusCode = code
		return a
	}
	endless := answer(page)
	endless.ContentLength = -1
	for what, c := range map[string]struct {
		visit  Visit
		answer *http.Response
		coding string
		vary   string
	}{
		"a browser":                 {visit(), answer(page), "zstd", "Accept-Encoding"},
		"gzip alone":                {visit("Accept-Encoding", "gzip"), answer(page), "gzip", "Accept-Encoding"},
		"gzip is liked better":      {visit("Accept-Encoding", "zstd;q=0.5, gzip"), answer(page), "gzip", "Accept-Encoding"},
		"nothing is accepted":       {visit("Accept-Encoding", "identity"), answer(page), "", "Accept-Encoding"},
		"brotli alone":              {visit("Accept-Encoding", "br"), answer(page), "", "Accept-Encoding"},
		"of unknown length":         {visit(), endless, "zstd", "Accept-Encoding"},
		"small":                     {visit(), answer(page[:1023]), "", "Accept-Encoding"},
		"just large enough":         {visit(), answer(page[:1024]), "zstd", "Accept-Encoding"},
		"not found":                 {visit(), status(404), "zstd", "Accept-Encoding"},
		"failed":                    {visit(), status(500), "zstd", "Accept-Encoding"},
		"json":                      {visit(), answer(page, "Content-Type", "application/json"), "zstd", "Accept-Encoding"},
		"a picture":                 {visit(), answer(page, "Content-Type", "image/png"), "", ""},
		"of no type":                {visit(), answer(page, "Content-Type", ""), "", ""},
		"of a broken type":          {visit(), answer(page, "Content-Type", "text/html; charset"), "", ""},
		"events":                    {visit(), answer(page, "Content-Type", "text/event-stream"), "", ""},
		"events with a charset":     {visit(), answer(page, "Content-Type", "text/event-stream; charset=utf-8"), "", ""},
		"encoded":                   {visit(), answer(page, "Content-Encoding", "br"), "br", ""},
		"not to be transformed":     {visit(), answer(page, "Cache-Control", "public, No-Transform"), "", ""},
		"not to be, says the other": {visit("Cache-Control", "no-transform"), answer(page), "", ""},
		"signed":                    {visit(), answer(page, "Content-Digest", "sha-256=:x:"), "", ""},
		"piece by piece":            {visit(), answer(page, "X-Accel-Buffering", "no"), "", ""},
		"a range":                   {visit("Range", "bytes=0-9"), answer(page), "", ""},
		"a part":                    {visit(), status(206), "", ""},
		"nothing":                   {visit(), status(204), "", ""},
		"HEAD":                      {head, answer(page), "", "Accept-Encoding"},
		"varies":                    {visit(), answer(page, "Vary", "Cookie, accept-encoding"), "zstd", "Cookie, accept-encoding"},
		"varies by everything":      {visit(), answer(page, "Vary", "*"), "zstd", "*"},

		"with a session":                 {visit("Cookie", "sessionid=1"), answer(page), "", "Accept-Encoding"},
		"with a session, of a stranger":  {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "cross-site"), answer(page), "", "Accept-Encoding"},
		"with a session, of our page":    {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "same-origin"), answer(page), "zstd", "Accept-Encoding"},
		"with a session, typed":          {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "none"), answer(page), "zstd", "Accept-Encoding"},
		"with a session, of a sister":    {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "same-site", "Origin", "https://apps.example.org"), answer(page), "zstd", "Accept-Encoding"},
		"with a session, of the blog":    {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "same-site", "Origin", "https://blog.example.org"), answer(page), "", "Accept-Encoding"},
		"with a session, of a sister?":   {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "same-site"), answer(page), "", "Accept-Encoding"},
		"with a session, of plain http":  {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "same-site", "Origin", "http://apps.example.org"), answer(page), "", "Accept-Encoding"},
		"with a session, unknown":        {visit("Cookie", "sessionid=1", "Sec-Fetch-Site", "same-planet"), answer(page), "", "Accept-Encoding"},
		"with a session, over http":      {insecure, answer(page), "zstd", "Accept-Encoding"},
		"a session begins":               {visit(), answer(page, "Set-Cookie", "sessionid=1"), "", "Accept-Encoding"},
		"a session begins, of our page":  {visit("Sec-Fetch-Site", "same-origin"), answer(page, "Set-Cookie", "sessionid=1"), "zstd", "Accept-Encoding"},
		"with a password":                {visit("Authorization", "Basic eDp5"), answer(page), "", "Accept-Encoding"},
		"with a token of a program":      {visit("Authorization", "JWT x.y.z"), answer(page), "zstd", "Accept-Encoding"},
		"with a token and with a cookie": {visit("Authorization", "Bearer x", "Cookie", "a=b"), answer(page), "", "Accept-Encoding"},
	} {
		compressor := New(idle)
		length := c.answer.ContentLength
		text := page
		if length >= 0 {
			text = page[:length]
		}
		compressor.Apply(c.visit, c.answer)
		h := c.answer.Header
		if h.Get("Content-Encoding") != c.coding || strings.Join(h["Vary"], "|") != c.vary {
			t.Errorf("%s: coding %q, Vary %q", what, h.Get("Content-Encoding"), h["Vary"])
		}
		encoded := c.coding == "zstd" || c.coding == "gzip"
		if encoded && (h.Get("Etag") != `W/"abc"` || h.Get("Content-Length") != "" || c.answer.ContentLength != -1 || compressor.Stats().Running != 1) {
			t.Errorf("%s: %v, %+v", what, h, compressor.Stats())
		}
		if !encoded && (h.Get("Etag") != `"abc"` || h.Get("Content-Length") == "" || c.answer.ContentLength != length) {
			t.Errorf("%s is left alone: %v", what, h)
		}
		if got := decode(t, c.answer); got != text {
			t.Errorf("%s: %d bytes", what, len(got))
		}
		if got := compressor.Stats().Running; got != 0 {
			t.Errorf("%s: %d are still being encoded", what, got)
		}
	}
}

// A client that knows an encoded page is told that it is still good, by the name
// under which it knows it.
func TestRevalidated(t *testing.T) {
	for known, want := range map[string]string{`W/"abc"`: `W/"abc"`, `"abc"`: `"abc"`, `"x", W/"abc"`: `W/"abc"`, `*`: `"abc"`, "": `"abc"`} {
		a := answer("")
		a.StatusCode = http.StatusNotModified
		New(Config{}).Apply(visit("If-None-Match", known), a)
		if got := a.Header.Get("Etag"); got != want || a.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %s", known, got)
		}
	}
}

// There is room for so many and no more, and none while the machine is busy.
func TestBudget(t *testing.T) {
	c := New(Config{AtOnce: 2, MaxLoad: -1})
	encoded := func() *http.Response {
		a := answer(page)
		c.Apply(visit(), a)
		return a
	}
	first, second, third := encoded(), encoded(), encoded()
	if first.Header.Get("Content-Encoding") == "" || second.Header.Get("Content-Encoding") == "" || third.Header.Get("Content-Encoding") != "" {
		t.Errorf("%v, %v, %v", first.Header, second.Header, third.Header)
	}
	if third.Header.Get("Vary") == "" || third.Header.Get("Content-Length") == "" {
		t.Errorf("what found no room: %v", third.Header)
	}
	decode(t, first)                                                              // read to its end
	if err := errors.Join(second.Body.Close(), second.Body.Close()); err != nil { // not read at all, closed twice
		t.Error(err)
	}
	if got := c.Stats(); got != (Stats{Running: 0, Encoded: 2, Refused: 1}) {
		t.Errorf("%+v", got)
	}
	if fourth := encoded(); decode(t, fourth) != page || fourth.Header.Get("Content-Encoding") == "" {
		t.Error("there is room again")
	}

	synctest.Test(t, func(t *testing.T) {
		load := 1000.0
		looked := 0
		c := New(Config{Load: func() float64 { looked++; return load }})
		coded := func() bool {
			a := answer(page)
			c.Apply(visit(), a)
			defer a.Body.Close()
			return a.Header.Get("Content-Encoding") != ""
		}
		if coded() {
			t.Error("a busy machine encodes")
		}
		load = 0
		if coded() || looked != 1 {
			t.Errorf("the load was looked at %d times at once", looked)
		}
		<-time.After(time.Second)
		if !coded() || looked != 2 {
			t.Errorf("a machine with time does not encode (looked %d times)", looked)
		}
	})
	if kernelLoad() < 0 {
		t.Error("the kernel's load is negative")
	}
}

// What the upstream sent and then waits with arrives before its next word.
func TestStreams(t *testing.T) {
	for _, accept := range []string{"gzip", "zstd"} {
		r, w := io.Pipe()
		a := answer("", "Content-Type", "text/plain")
		a.Body, a.ContentLength = r, -1
		New(Config{MaxLoad: -1}).Apply(visit("Accept-Encoding", accept), a)
		go func() { _, _ = io.WriteString(w, "one") }()
		var decoded io.Reader
		if accept == "gzip" {
			g, err := gzip.NewReader(a.Body)
			if err != nil {
				t.Fatal(err)
			}
			decoded = g
		} else {
			z, err := zstd.NewReader(a.Body, zstd.WithDecoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			defer z.Close()
			decoded = z
		}
		for _, word := range []string{"one", "two", "three"} {
			got := make([]byte, len(word))
			if _, err := io.ReadFull(decoded, got); err != nil || string(got) != word {
				t.Fatalf("%s: %q, %v", accept, got, err)
			}
			next := map[string]string{"one": "two", "two": "three"}[word]
			go func() {
				if next == "" {
					_ = w.Close()
					return
				}
				_, _ = io.WriteString(w, next)
			}()
		}
		if rest, err := io.ReadAll(decoded); err != nil || len(rest) > 0 {
			t.Errorf("%s: end: %q, %v", accept, rest, err)
		}
		if err := a.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// An answer that breaks off does not look like a whole one.
func TestBrokenOff(t *testing.T) {
	broken := errors.New("broken off")
	for _, accept := range []string{"gzip", "zstd"} {
		a := answer(page)
		a.Body = io.NopCloser(io.MultiReader(strings.NewReader(page), iotest.ErrReader(broken)))
		c := New(Config{MaxLoad: -1})
		c.Apply(visit("Accept-Encoding", accept), a)
		if _, err := io.ReadAll(a.Body); !errors.Is(err, broken) {
			t.Errorf("%s: %v", accept, err)
		}
		if c.Stats().Running != 0 {
			t.Errorf("%s: %+v", accept, c.Stats())
		}
		if err := a.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whatever the pieces in which it comes and is read, the text is the same.
func TestAnyPieces(t *testing.T) {
	c := New(Config{MaxLoad: -1})
	rapid.Check(t, func(t *rapid.T) {
		pieces := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 5000), 1, 20).Draw(t, "pieces")
		var all []byte
		var readers []io.Reader
		for _, p := range pieces {
			all = append(all, p...)
			readers = append(readers, bytes.NewReader(p))
		}
		src := io.MultiReader(readers...)
		if rapid.Bool().Draw(t, "slow") {
			src = iotest.OneByteReader(src)
		}
		if rapid.Bool().Draw(t, "error with data") {
			src = iotest.DataErrReader(src)
		}
		a := answer("")
		a.Body, a.ContentLength = io.NopCloser(src), int64(rapid.SampledFrom([]int{-1, 5000}).Draw(t, "length"))
		c.Apply(visit("Accept-Encoding", rapid.SampledFrom([]string{"gzip", "zstd"}).Draw(t, "accept")), a)
		if rapid.Bool().Draw(t, "read byte by byte") {
			a.Body = struct {
				io.Reader
				io.Closer
			}{iotest.OneByteReader(a.Body), a.Body}
		}
		if got := decode(t, a); got != string(all) {
			t.Fatalf("%d bytes became %d", len(all), len(got))
		}
	})
}

func BenchmarkPage(b *testing.B) {
	var text strings.Builder
	for i := range 600 {
		text.WriteString("<li class=\"course\" data-id=\"" + strings.Repeat(string(rune('a'+i%26)), i%17) + "\"><a href=\"/courses/course-v1:Uni+CS10" + string(rune('0'+i%10)) + "\">Curso</a></li>\n")
	}
	body := text.String()
	c := New(Config{MaxLoad: -1})
	for _, accept := range []string{"gzip", "zstd"} {
		b.Run(accept, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			v := visit("Accept-Encoding", accept)
			for b.Loop() {
				a := answer(body)
				c.Apply(v, a)
				if _, err := io.Copy(io.Discard, a.Body); err != nil {
					b.Fatal(err)
				}
				_ = a.Body.Close()
			}
		})
	}
}

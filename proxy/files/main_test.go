package files

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"tarima/proxy/coding"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a folder with files and a server for them.
type site struct {
	t    testing.TB
	base string
	s    *Server
}

func newSite(t testing.TB, cfg Config, files map[string]string) *site {
	t.Helper()
	x := &site{t: t, base: t.TempDir(), s: New(cfg)}
	for name, text := range files {
		x.write(name, text)
	}
	x.age()
	return x
}

func (x *site) path(name string) string { return filepath.Join(x.base, "app", name) }

func (x *site) write(name, text string) {
	x.t.Helper()
	if err := os.MkdirAll(filepath.Dir(x.path(name)), 0o750); err != nil {
		x.t.Fatal(err)
	}
	if err := os.WriteFile(x.path(name), []byte(text), 0o600); err != nil {
		x.t.Fatal(err)
	}
}

// age waits until changes of now can be told from later ones.
func (x *site) age() {
	<-time.After(2 * tick)
}

type answer struct {
	*httptest.ResponseRecorder
	err error
}

func (x *site) ask(method, name string, header ...string) answer {
	x.t.Helper()
	r := httptest.NewRequest(method, "/", nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	begun, err := x.s.Serve(w, r, Ask{Base: x.base, Root: "app", Name: name})
	if begun && err != nil {
		x.t.Errorf("%s %s: broken off: %v", method, name, err)
	}
	if n := w.Header().Get("Content-Length"); err == nil && method == http.MethodGet && w.Code != http.StatusNotModified && n != "" && n != itoa(w.Body.Len()) {
		x.t.Errorf("%s %s: Content-Length %s of %d bytes", method, name, n, w.Body.Len())
	}
	return answer{w, err}
}

func (x *site) get(name string, header ...string) answer {
	x.t.Helper()
	return x.ask(http.MethodGet, name, header...)
}

func encode(t testing.TB, c coding.Coding, text string) string {
	t.Helper()
	var out bytes.Buffer
	switch c {
	case coding.Brotli:
		w := brotli.NewWriter(&out)
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	case coding.Zstd:
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		return string(w.EncodeAll([]byte(text), nil))
	default:
		w := gzip.NewWriter(&out)
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// script is text that becomes smaller, and differs by seed.
func script(seed string, size int) string {
	return strings.Repeat("function "+seed+"(){return document.body};\n", size/30+1)[:size]
}

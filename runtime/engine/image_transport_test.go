package engine

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// scripted answers requests one after the other as its list says.
type scripted struct {
	answers []func(*http.Request) (*http.Response, error)
	at      []time.Time
	bodies  []string
}

func (s *scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	s.at = append(s.at, time.Now())
	body := ""
	if r.Body != nil {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(raw)
	}
	s.bodies = append(s.bodies, body)
	return s.answers[min(len(s.at), len(s.answers))-1](r)
}

func status(code int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i+1 < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader("text"))}, nil
	}
}

func failure(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

type round = func(*http.Request) (*http.Response, error)

func patientOn(base http.RoundTripper) *patient {
	return &patient{
		base: base, attempts: 4, backoff: time.Second, maxWait: 30 * time.Second, stall: 10 * time.Second,
		logger: slog.New(slog.DiscardHandler),
	}
}

func request(ctx context.Context, t *testing.T) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://registry.test/v2/?token=topsecret", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPatience(t *testing.T) {
	broken := errors.New("connection refused")
	for _, test := range []struct {
		name          string
		answers       []round
		asked         int
		status        int // of the answer or the final error; 0: a connection error
		least, atMost time.Duration
	}{
		{"at once", []round{status(200)}, 1, 200, 0, 0},
		{"what waiting cannot change", []round{status(404)}, 1, 404, 0, 0},
		{"refusal", []round{status(401)}, 1, 401, 0, 0},
		{"overload that passes", []round{status(503), status(200)}, 2, 200, 800 * time.Millisecond, 1200 * time.Millisecond},
		{"overload that stays", []round{status(503)}, 4, 503, 5600 * time.Millisecond, 8400 * time.Millisecond},
		{"unreachable, then there", []round{failure(broken), failure(broken), status(200)}, 3, 200, 2400 * time.Millisecond, 3600 * time.Millisecond},
		{"unreachable", []round{failure(broken)}, 4, 0, 5600 * time.Millisecond, 8400 * time.Millisecond},
		{"waits as asked", []round{status(429, "Retry-After", "20"), status(200)}, 2, 200, 20 * time.Second, 20 * time.Second},
		{"does not wait longer than that", []round{status(429, "Retry-After", "31"), status(200)}, 1, 429, 0, 0},
		{"asked for less than the backoff", []round{status(429, "Retry-After", "0"), status(200)}, 2, 200, 800 * time.Millisecond, 1200 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := &scripted{answers: test.answers}
				began := time.Now()
				resp, err := patientOn(base).RoundTrip(request(t.Context(), t))
				took := time.Since(began)
				if len(base.at) != test.asked {
					t.Errorf("asked %d times, want %d", len(base.at), test.asked)
				}
				if took < test.least || took > test.atMost {
					t.Errorf("took %s, want %s to %s", took, test.least, test.atMost)
				}
				var final *statusError
				switch {
				case err == nil:
					if resp.StatusCode != test.status || overloaded(resp.StatusCode) {
						t.Errorf("status is %d, want %d", resp.StatusCode, test.status)
					}
					if err := resp.Body.Close(); err != nil {
						t.Error(err)
					}
				case errors.As(err, &final):
					if final.status != test.status || final.attempts != test.asked {
						t.Errorf("final error is %v, want status %d", err, test.status)
					}
				case test.status != 0:
					t.Errorf("error is %v, want status %d", err, test.status)
				case errors.Is(err, broken):
					t.Error("the resolver can see the cause and would try again")
				}
			})
		})
	}
}

func TestPatienceEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		base := &scripted{answers: []round{status(503)}}
		_, err := patientOn(base).RoundTrip(request(ctx, t))
		if !errors.Is(err, context.DeadlineExceeded) || len(base.at) != 1 {
			t.Errorf("after %d requests the error is %v, want the deadline after 1", len(base.at), err)
		}
	})
}

// A body is sent again as a whole, and a request whose body cannot be is not
// repeated.
func TestPatienceWithBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			body io.Reader
			want int
		}{{strings.NewReader("form"), 4}, {io.MultiReader(strings.NewReader("form")), 1}} {
			base := &scripted{answers: []round{status(500)}}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://registry.test/token", test.body)
			if err != nil {
				t.Fatal(err)
			}
			_, err = patientOn(base).RoundTrip(r)
			if err == nil || len(base.bodies) != test.want {
				t.Errorf("sent %q with error %v, want %d times", base.bodies, err, test.want)
			}
			for _, body := range base.bodies {
				if body != "form" {
					t.Errorf("sent %q", body)
				}
			}
		}
	})
}

// hanging is a body that brings some bytes and then nothing until the request
// is cancelled.
type hanging struct {
	ctx  context.Context
	once bool
}

func (h *hanging) Read(p []byte) (int, error) {
	if !h.once {
		h.once = true
		return copy(p, "some"), nil
	}
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

func (*hanging) Close() error { return nil }

func TestStallIsACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &scripted{answers: []round{func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: &hanging{ctx: r.Context()}}, nil
		}}}
		resp, err := patientOn(base).RoundTrip(request(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		buffer := make([]byte, 100)
		if n, err := resp.Body.Read(buffer); n != 4 || err != nil {
			t.Fatalf("first read gives %d, %v", n, err)
		}
		time.Sleep(time.Hour) //nolint:forbidigo // virtual: a reader that is busy elsewhere is no stall
		began := time.Now()
		_, err = resp.Body.Read(buffer)
		if err != io.ErrUnexpectedEOF { //nolint:errorlint // the resolver compares
			t.Errorf("error is %v, want an unexpected end", err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("the stall was noticed after %s, want 10s", took)
		}
	})
}

// A cancelled pull is not taken for a cut.
func TestCancelledReadIsNoCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		base := &scripted{answers: []round{func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: &hanging{ctx: r.Context(), once: true}}, nil
		}}}
		resp, err := patientOn(base).RoundTrip(request(ctx, t))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.AfterFunc(time.Second, cancel)
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v, want the cancellation", err)
		}
	})
}

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attempt := rapid.IntRange(1, 1000).Draw(t, "attempt")
		first := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "first"))
		longest := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "longest"))
		wait := backoff(attempt, first, longest)
		if wait < 0 || wait > longest {
			t.Fatalf("wait of %s is outside 0 to %s", wait, longest)
		}
		if floor := min(first, longest) * 4 / 5; wait < floor-1 {
			t.Fatalf("wait of %s is below %s", wait, floor)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-7": 0, "7.5": 0, "soon": 0,
		"99999999999999999999":          0,
		"Sun, 01 Mar 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("Retry-After %q is %s, want %s", value, got, want)
		}
	}
}

func TestRedact(t *testing.T) {
	for text, want := range map[string]string{
		`Get "https://cdn.test/x?sig=a&b=c": refused`: `Get "https://cdn.test/x": refused`,
		"http://a/b?c d https://e/f?g":                "http://a/b d https://e/f",
		"what?no address":                             "what?no address",
		"https://host:5000/v2/":                       "https://host:5000/v2/",
	} {
		if got := redact(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

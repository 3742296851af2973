package meters

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMeters() *Meters {
	n := func() int { return 3 }
	u := func() uint64 { return 7 }
	return New(Source{
		InFlight: n, Held: n, Connections: n, Accepted: u, Refused: u, LostLines: u,
		Certificates: func() []Certificate {
			return []Certificate{{"a.test", time.Unix(1e9, 0)}, {"a.test", time.Unix(2e9, 0)}, {"none.test", time.Time{}}}
		},
	})
}

// scrape as Prometheus does when it wants native histograms.
func scrape(t *testing.T, m *Meters) map[string]*dto.MetricFamily {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	families := map[string]*dto.MetricFamily{}
	d := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	for {
		f := &dto.MetricFamily{}
		if err := d.Decode(f); errors.Is(err, io.EOF) {
			return families
		} else if err != nil {
			t.Fatal(err)
		}
		families[strings.TrimPrefix(f.GetName(), prefix)] = f
	}
}

func text(t *testing.T, m *Meters) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wants(t *testing.T, got string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(got, prefix+l+"\n") {
			t.Errorf("no line %q", prefix+l)
		}
	}
}

func TestFigures(t *testing.T) {
	m := newMeters()
	m.Keep([]string{"a.test"})
	r := Request{Host: "a.test", Class: Upstream, Status: 201, Took: 70 * time.Millisecond, Asked: true, UpstreamTook: 30 * time.Millisecond, In: 5, Out: 11}
	m.Done(r)
	r.Held, r.Status, r.Asked = 2*time.Second, 503, false
	m.Done(r)
	m.Done(Request{Class: Own, Status: 404})
	m.Done(Request{Class: Own, Status: 999})
	m.Limited("a.test", "login")
	m.Failed("a.test", Late)
	m.Slow()
	m.Handshake(tls.VersionTLS13)
	m.Handshake(tls.VersionTLS12)
	m.Handshake(0x7f17)
	wants(t, text(t, m),
		`requests_total{class="upstream",host="a.test",status="2xx"} 1`,
		`requests_total{class="upstream",host="a.test",status="5xx"} 1`,
		`requests_total{class="own",host="other",status="4xx"} 1`,
		`requests_total{class="own",host="other",status="other"} 1`,
		`received_bytes_total{class="upstream",host="a.test"} 10`,
		`sent_bytes_total{class="upstream",host="a.test"} 22`,
		`request_duration_seconds_count{class="upstream",host="a.test"} 2`,
		`request_duration_seconds_bucket{class="upstream",host="a.test",le="0.1"} 2`,
		`upstream_duration_seconds_count{host="a.test"} 1`,
		`held_seconds_sum{host="a.test"} 2`,
		`rate_limited_total{host="a.test",limit="login"} 1`,
		`upstream_failures_total{host="a.test",kind="late"} 1`,
		`slow_requests_total 1`,
		`tls_handshakes_total{version="1.3"} 1`, `tls_handshakes_total{version="1.2"} 1`, `tls_handshakes_total{version="other"} 1`,
		`requests_in_flight 3`, `requests_held 3`, `connections 3`, `connections_accepted_total 7`, `connections_refused_total 7`,
		`access_log_lost_lines_total 7`,
		`certificate_not_after_timestamp_seconds{name="a.test"} 1e+09`,
	)
	if !strings.Contains(text(t, m), "go_goroutines") || strings.Contains(text(t, m), "none.test") {
		t.Error("figures of Go are missing, or a certificate that is not there has an end")
	}
	h := scrape(t, m)["upstream_duration_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSchema() < 2 || len(h.GetPositiveSpan()) == 0 {
		t.Errorf("no native histogram: %v", h)
	}
}

// TestNothingGrowsWithVisitors: hosts that are not served are one, also when
// they were served a moment ago, and go when they are no more.
func TestNothingGrowsWithVisitors(t *testing.T) {
	m := newMeters()
	m.Keep([]string{"a.test", "b.test"})
	for _, h := range []string{"a.test", "b.test"} {
		m.Done(Request{Host: h, Class: Static, Status: 200})
		m.Limited(h, "login")
		m.Failed(h, Broken)
	}
	m.Keep([]string{"b.test"})
	for i := range 1000 {
		h := fmt.Sprintf("x%d.test", i)
		m.Done(Request{Host: h, Class: Own, Status: 404})
		m.Limited(h, "login")
		m.Failed(h, Refused)
	}
	m.Done(Request{Host: "a.test", Class: Upstream, Status: 200}) // it began while a.test was served
	got := text(t, m)
	if strings.Contains(got, `host="a.test"`) {
		t.Error("figures of a host that is gone are kept")
	}
	if strings.Contains(got, "x1.test") {
		t.Error("a name that a visitor chose is a label")
	}
	wants(t, got,
		`requests_total{class="static",host="b.test",status="2xx"} 1`,
		`requests_total{class="own",host="other",status="4xx"} 1000`,
		`requests_total{class="upstream",host="other",status="2xx"} 1`,
		`rate_limited_total{host="other",limit="login"} 1000`)
	n := 0
	m.series.Range(func(any, any) bool { n++; return true })
	if n > 3 {
		t.Errorf("%d series are remembered", n)
	}
}

// TestAtOnce: requests end, hosts come and go, and somebody scrapes.
func TestAtOnce(t *testing.T) {
	m := newMeters()
	m.Keep([]string{"a.test"})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 200 {
				m.Done(Request{Host: "a.test", Class: Upstream, Status: 200, Took: time.Duration(i)})
				m.Limited("a.test", "login")
			}
		})
	}
	all.Go(func() {
		for i := range 50 {
			m.Keep([]string{"a.test", fmt.Sprint(i)})
			m.Keep([]string{fmt.Sprint(i)})
			m.Keep([]string{"a.test"})
		}
	})
	for range 5 {
		if !bytes.Contains([]byte(text(t, m)), []byte(prefix)) {
			t.Error("nothing to scrape")
		}
	}
	all.Wait()
	m.Keep(nil)
	if got := text(t, m); strings.Contains(got, `host="a.test"`) {
		t.Error("figures of a host that is gone were made again")
	}
}

func BenchmarkDone(b *testing.B) {
	m := newMeters()
	m.Keep([]string{"a.test"})
	r := Request{Host: "a.test", Class: Upstream, Status: 200, Took: 70 * time.Millisecond, Asked: true, UpstreamTook: 30 * time.Millisecond, Out: 11}
	b.ReportAllocs()
	for b.Loop() {
		m.Done(r)
	}
}

// Package meters keeps the figures of a door for Prometheus.
//
// Labels hold nothing that a visitor can choose: requests for hosts that the
// door does not serve are all of the host "other", and the figures of a host
// go when it does. Times are native histograms, with classic buckets beside
// them for those who ask for text.
package meters

import (
	"crypto/tls"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Other is the host of requests for names that are not served.
const Other = "other"

// Class says what became of a request.
type Class string

// Classes of requests.
const (
	Upstream  Class = "upstream"  // it was for an application
	Websocket Class = "websocket" // it became one; it lasts as long as that
	Static    Class = "static"    // files of the door itself
	Redirect  Class = "redirect"
	Own       Class = "own" // pages of the door: refused, limited, closed
)

// Request is one that has ended.
type Request struct {
	Host   string // that the door serves; "": [Other]
	Class  Class
	Status int
	Took   time.Duration
	// Asked: an upstream was, and UpstreamTook until its answer began.
	Asked        bool
	UpstreamTook time.Duration
	Held         time.Duration // 0: it was not
	In, Out      int64         // bytes of bodies
}

// Failure is how an upstream failed.
type Failure string

// Failures of upstreams.
const (
	Refused Failure = "refused" // no connection
	Broken  Failure = "broken"  // it ended in the middle, or answered nonsense
	Late    Failure = "late"    // no answer in time
)

// Certificate is one that visitors are shown.
type Certificate struct {
	Name     string
	NotAfter time.Time
}

// Source is asked at each scrape. It is called from several goroutines.
type Source struct {
	InFlight     func() int    // requests, those that wait and websockets too
	Held         func() int    // requests that wait for a service
	Connections  func() int    // open
	Accepted     func() uint64 // connections
	Refused      func() uint64 // connections of addresses with too many
	LostLines    func() uint64 // of the access log
	Certificates func() []Certificate
}

// Meters are the figures of one door.
type Meters struct {
	registry *prometheus.Registry
	source   Source

	requests, received, sent    *prometheus.CounterVec
	took, upstreamTook, held    *prometheus.HistogramVec
	limited, failures           *prometheus.CounterVec
	tls12, tls13, tlsElse, slow prometheus.Counter
	series                      sync.Map // of key: *series
	expiry                      *prometheus.Desc
	known                       sync.RWMutex
	hosts                       map[string]bool
}

// key of the figures that one request changes.
type key struct {
	host  string
	class Class
}

// series are those figures, found once.
type series struct {
	statuses       [6]prometheus.Counter // by first digit; 0: others
	received, sent prometheus.Counter
	took           prometheus.Observer
	upstreamTook   prometheus.Observer
	held           prometheus.Observer
}

const prefix = "tarima_proxy_"

// Classic buckets in seconds: a page of Open edX takes a tenth to some seconds.
var buckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// New makes figures with a registry of their own.
func New(source Source) *Meters {
	m := &Meters{registry: prometheus.NewRegistry(), source: source, hosts: map[string]bool{Other: true}}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	times := func(name, help string, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + name, Help: help, Buckets: buckets,
			// Neighbouring buckets differ by a tenth; the bound keeps a host's
			// figures at a few kilobytes.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
			NativeHistogramMinResetDuration: time.Hour,
		}, labels)
		m.registry.MustRegister(h)
		return h
	}
	m.requests = counters("requests_total", "Requests that have ended.", "host", "class", "status")
	m.received = counters("received_bytes_total", "Bytes of requests' bodies.", "host", "class")
	m.sent = counters("sent_bytes_total", "Bytes of answers' bodies.", "host", "class")
	m.took = times("request_duration_seconds", "From the head of a request to the end of its answer.", "host", "class")
	m.upstreamTook = times("upstream_duration_seconds", "Until an application's answer began.", "host")
	m.held = times("held_seconds", "That requests waited for a service, of those that did.", "host")
	m.limited = counters("rate_limited_total", "Requests that were refused because one address sent too many.", "host", "limit")
	m.failures = counters("upstream_failures_total", "Attempts at an application that failed.", "host", "kind")
	handshakes := counters("tls_handshakes_total", "Handshakes that ended well.", "version")
	m.tls12, m.tls13, m.tlsElse = handshakes.WithLabelValues("1.2"), handshakes.WithLabelValues("1.3"), handshakes.WithLabelValues("other")
	m.slow = prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "slow_requests_total", Help: "Requests that took longer than what counts as slow."})
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, f)
	}
	counter := func(name, help string, f func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: prefix + name, Help: help}, func() float64 { return float64(f()) })
	}
	m.expiry = prometheus.NewDesc(prefix+"certificate_not_after_timestamp_seconds", "When the certificate of a name ends, as a Unix time.", []string{"name"}, nil)
	m.registry.MustRegister(
		m.slow,
		gauge("requests_in_flight", "Requests under way, those that wait and websockets too.", func() float64 { return float64(source.InFlight()) }),
		gauge("requests_held", "Requests that wait for a service.", func() float64 { return float64(source.Held()) }),
		gauge("connections", "Open connections of visitors.", func() float64 { return float64(source.Connections()) }),
		counter("connections_accepted_total", "Connections of visitors.", source.Accepted),
		counter("connections_refused_total", "Connections of addresses that had too many.", source.Refused),
		counter("access_log_lost_lines_total", "Lines of the access log that were never written.", source.LostLines),
		certificates{m}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Done counts a request.
func (m *Meters) Done(r Request) {
	if r.Host == "" {
		r.Host = Other
	}
	s := m.find(key{r.Host, r.Class})
	n := r.Status / 100
	if n < 1 || n > 5 {
		n = 0
	}
	s.statuses[n].Inc()
	s.took.Observe(r.Took.Seconds())
	if r.Asked {
		s.upstreamTook.Observe(r.UpstreamTook.Seconds())
	}
	if r.Held > 0 {
		s.held.Observe(r.Held.Seconds())
	}
	if r.In > 0 {
		s.received.Add(float64(r.In))
	}
	if r.Out > 0 {
		s.sent.Add(float64(r.Out))
	}
}

func (m *Meters) find(k key) *series {
	if found, ok := m.series.Load(k); ok {
		return found.(*series) //nolint:errcheck,forcetypeassert // nothing else is stored
	}
	m.known.RLock()
	defer m.known.RUnlock()
	if !m.hosts[k.host] {
		k.host = Other // it was served when the request began
	}
	class := string(k.class)
	s := &series{
		received: m.received.WithLabelValues(k.host, class), sent: m.sent.WithLabelValues(k.host, class),
		took: m.took.WithLabelValues(k.host, class), upstreamTook: m.upstreamTook.WithLabelValues(k.host), held: m.held.WithLabelValues(k.host),
	}
	for i, status := range []string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"} {
		s.statuses[i] = m.requests.WithLabelValues(k.host, class, status)
	}
	m.series.Store(k, s)
	return s
}

// Keep says which hosts are served. Figures of others go, and are not made.
func (m *Meters) Keep(hosts []string) {
	m.known.Lock()
	defer m.known.Unlock()
	wanted := map[string]bool{Other: true}
	for _, h := range hosts {
		wanted[h] = true
	}
	for h := range m.hosts {
		if wanted[h] {
			continue
		}
		gone := prometheus.Labels{"host": h}
		for _, v := range []interface{ DeletePartialMatch(prometheus.Labels) int }{
			m.requests, m.received, m.sent, m.took, m.upstreamTook, m.held, m.limited, m.failures,
		} {
			v.DeletePartialMatch(gone)
		}
	}
	m.hosts = wanted
	m.series.Range(func(k, _ any) bool {
		if !wanted[k.(key).host] { //nolint:errcheck,forcetypeassert // nothing else is stored
			m.series.Delete(k)
		}
		return true
	})
}

// count one at a label beside the host.
func (m *Meters) count(v *prometheus.CounterVec, host, label string) {
	m.known.RLock()
	defer m.known.RUnlock()
	if !m.hosts[host] {
		host = Other
	}
	v.WithLabelValues(host, label).Inc()
}

// Limited counts a request that a limit of the host refused. The limit's name
// is the snapshot's, not the visitor's.
func (m *Meters) Limited(host, limit string) { m.count(m.limited, host, limit) }

// Failed counts an attempt at an upstream of the host.
func (m *Meters) Failed(host string, kind Failure) { m.count(m.failures, host, string(kind)) }

// Slow counts a request that took longer than what counts as slow.
func (m *Meters) Slow() { m.slow.Inc() }

// Handshake counts one of TLS.
func (m *Meters) Handshake(version uint16) {
	switch version {
	case tls.VersionTLS13:
		m.tls13.Inc()
	case tls.VersionTLS12:
		m.tls12.Inc()
	default:
		m.tlsElse.Inc()
	}
}

// Handler answers a scrape, as protobuf (with native histograms) to those who
// accept it and as text to others.
func (m *Meters) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, EnableOpenMetrics: true})
}

// certificates are asked for when they are wanted.
type certificates struct{ m *Meters }

// Describe implements prometheus.Collector.
func (c certificates) Describe(out chan<- *prometheus.Desc) { out <- c.m.expiry }

// Collect implements prometheus.Collector.
func (c certificates) Collect(out chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for _, x := range c.m.source.Certificates() {
		if x.NotAfter.IsZero() || seen[x.Name] {
			continue
		}
		seen[x.Name] = true
		out <- prometheus.MustNewConstMetric(c.m.expiry, prometheus.GaugeValue, float64(x.NotAfter.Unix()), x.Name)
	}
}

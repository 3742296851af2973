package meters

import "github.com/prometheus/client_golang/prometheus"

// Gauge adds a figure of this moment; name is without the common prefix and must
// be a new one. f is called from several goroutines.
func (m *Meters) Gauge(name, help string, f func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, f))
}

// Counter adds a figure that only grows, as Gauge.
func (m *Meters) Counter(name, help string, f func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: prefix + name, Help: help}, func() float64 { return float64(f()) }))
}

package proxy

import (
	"slices"

	"tarima/proxy/ratelimit"
	"tarima/proxy/routes"
)

// limit of a host, made ready.
type limit struct {
	rule    rule
	methods []string
	bucket  ratelimit.Bucket
	budget  ratelimit.Limit
	name    string
}

func newLimits(h *routes.Host) ([]limit, pathIndex) {
	var limits []limit
	var elements [][]string
	for _, l := range h.Limits {
		c := limit{
			rule: newRule(routes.Rule{Path: l.Path}), methods: l.Methods, name: l.Name,
			bucket: ratelimit.BucketOf(h.Site, h.Name, l.Name), budget: ratelimit.Limit{Burst: l.Burst, Every: l.Every},
		}
		limits = append(limits, c)
		elements = append(elements, c.rule.elements)
	}
	return limits, newPathIndex(elements)
}

// limited counts a request at every limit that it meets, and answers it when
// one of them is spent. Limits of one name are one, and counted once.
func (x *exchange) limited(h *host) (answered bool) {
	var counted []ratelimit.Bucket // mostly none, and seldom more than one
	for _, i := range h.limitIndex.candidates(x.r.URL.Path) {
		l := &h.limits[i]
		if len(l.methods) > 0 && !slices.Contains(l.methods, x.r.Method) || slices.Contains(counted, l.bucket) {
			continue
		}
		if _, match := l.rule.match(x.r.URL.Path); !match {
			continue
		}
		if ok, wait := x.s.limiter.Allow(x.start, l.bucket, x.client.addr, l.budget); !ok {
			x.s.sight.meters.Limited(h.Name, l.name)
			x.tooOften(wait, "limit "+l.name)
			return true
		}
		counted = append(counted, l.bucket)
	}
	return false
}

package supervisor

import (
	"context"
	"slices"
	"sync"

	"tarima/proxy/routes"
)

type fakeRouter struct {
	mu        sync.Mutex
	err       error
	refuse    *routes.Ack // once
	got       []routes.Snapshot
	listeners []chan routes.Event
	drains    bool // tells "drained" at once
}

func (r *fakeRouter) Put(_ context.Context, s routes.Snapshot) (routes.Ack, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return routes.Ack{}, r.err
	}
	if r.refuse != nil {
		ack := *r.refuse
		r.refuse = nil
		return ack, nil
	}
	r.got = append(r.got, s)
	if r.drains {
		for _, h := range s.Hosts {
			if h.State == routes.Draining {
				for _, l := range r.listeners {
					l <- routes.Event{Kind: routes.Drained, Site: h.Site, Service: h.Service, Generation: s.Generation}
				}
			}
		}
	}
	return routes.Ack{Generation: s.Generation}, nil
}

func (r *fakeRouter) Events(ctx context.Context) <-chan routes.Event {
	ch := make(chan routes.Event, 4096)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listeners = append(r.listeners, ch)
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.listeners = slices.DeleteFunc(r.listeners, func(c chan routes.Event) bool { return c == ch })
		close(ch)
	})
	return ch
}

func (r *fakeRouter) send(e routes.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.listeners {
		l <- e
	}
}

func (r *fakeRouter) snapshots() []routes.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *fakeRouter) state(host string) routes.State {
	got := r.snapshots()
	if len(got) == 0 {
		return ""
	}
	for _, h := range got[len(got)-1].Hosts {
		if h.Name == host {
			return h.State
		}
	}
	return ""
}

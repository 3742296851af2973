package supervisor

import (
	"net/netip"
	"sync"

	"tarima/store/record"
)

type fakeStore struct {
	maintenance record.Maintenance
	mu          sync.Mutex
	applied     record.Applied
	has         bool
	intents     map[string]record.Intent
	addresses   map[string]record.Address
	images      map[string]record.Image
	events      []record.Event
	jobs        map[string]record.JobRecord
	err         error // of every write
	readErr     error // of the history and the intents
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		intents: map[string]record.Intent{}, addresses: map[string]record.Address{},
		images: map[string]record.Image{}, jobs: map[string]record.JobRecord{},
	}
}

func (s *fakeStore) Applied(string) (record.Applied, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied, s.has, nil
}

func (s *fakeStore) write(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	f()
	return nil
}

func (s *fakeStore) setErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *fakeStore) SetApplied(_ string, a record.Applied) error {
	return s.write(func() { s.applied, s.has = a, true })
}

func (s *fakeStore) Intents(string) (map[string]record.Intent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return orEmpty(s.intents), s.readErr
}

func (s *fakeStore) SetIntent(_ string, i record.Intent) error {
	return s.write(func() { s.intents[i.Service] = i })
}

func (s *fakeStore) Maintenance(string) (record.Maintenance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.maintenance, s.readErr
}

func (s *fakeStore) SetMaintenance(_ string, m record.Maintenance) error {
	return s.write(func() { s.maintenance = m })
}

func (s *fakeStore) Address(_, service string, v4, _ netip.Prefix) (record.Address, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.addresses[service]
	if !ok {
		if s.err != nil {
			return a, s.err
		}
		b := v4.Addr().As4()
		b[3] = byte(len(s.addresses) + 2)
		a = record.Address{Service: service, V4: netip.AddrFrom4(b), IDBase: 1<<20 + uint32(len(s.addresses))<<16}
		s.addresses[service] = a
	}
	return a, nil
}

func (s *fakeStore) Images(string) (map[string]record.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return orEmpty(s.images), nil
}

func (s *fakeStore) SetImage(_ string, i record.Image) error {
	return s.write(func() { s.images[i.Ref] = i })
}

func (s *fakeStore) AppendEvent(_ string, e record.Event) (record.Event, error) {
	err := s.write(func() { e.Seq = uint64(len(s.events) + 1); s.events = append(s.events, e) })
	return e, err
}

func (s *fakeStore) Events(_ string, after uint64, limit int) ([]record.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.Event
	for _, e := range s.events {
		if e.Seq > after && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, nil
}

func (s *fakeStore) ServiceEvents(_, service string, limit int) ([]record.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.Event
	for i := len(s.events) - 1; i >= 0 && len(out) < limit; i-- {
		if s.events[i].Service == service {
			out = append(out, s.events[i])
		}
	}
	return out, s.readErr
}

func (s *fakeStore) Jobs(string) (map[string]record.JobRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return orEmpty(s.jobs), nil
}

func (s *fakeStore) SetJob(_ string, j record.JobRecord) error {
	return s.write(func() { s.jobs[j.Name] = j })
}

// kinds are the service's events, oldest first.
func (s *fakeStore) kinds(service string) []record.EventKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.EventKind
	for _, e := range s.events {
		if e.Service == service {
			out = append(out, e.Kind)
		}
	}
	return out
}

func (s *fakeStore) find(service string, kind record.EventKind) []record.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []record.Event
	for _, e := range s.events {
		if e.Service == service && e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"tarima/store"
	"tarima/store/record"
)

// model is what a site's store should hold.
type model struct {
	applied   *record.Applied
	closed    record.Maintenance
	intents   map[string]record.Intent
	images    map[string]record.Image
	jobs      map[string]record.JobRecord
	addresses map[string]record.Address
	secrets   map[string]string
	events    []record.Event
	// jump says that the numbers of events may skip some after a recovery.
	jump bool
}

func newModel() *model {
	return &model{
		intents: map[string]record.Intent{}, images: map[string]record.Image{}, jobs: map[string]record.JobRecord{},
		addresses: map[string]record.Address{}, secrets: map[string]string{},
	}
}

// TestStoreAgreesWithModel runs random sequences of calls, restarts among
// them, and compares everything that can be read with a model in memory.
func TestStoreAgreesWithModel(t *testing.T) {
	parent, runs := inMemory(t, "64m"), 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		dir := filepath.Join(parent, fmt.Sprint("store-", runs))
		defer os.RemoveAll(dir)
		config := store.Config{Dir: dir, EventsPerSite: 20, CopyDelay: -1, SubIDFiles: []string{}, Logger: textLogger(io.Discard)}
		open := func() *store.Store {
			s, err := store.Open(context.Background(), config)
			if err != nil {
				rt.Fatal(err)
			}
			return s
		}
		s := open()
		defer func() { _ = s.Close() }()
		fatal := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		sites := map[string]*model{"default": newModel(), "second": newModel()}
		siteNames := rapid.SampledFrom([]string{"default", "second"})
		services := rapid.SampledFrom([]string{"lms", "lms-worker", "mysql"})
		secretsMade := 0
		rt.Repeat(map[string]func(*rapid.T){
			"apply": func(rt *rapid.T) {
				site := siteNames.Draw(rt, "site")
				a := record.Applied{Generation: rapid.Uint64Range(0, 5).Draw(rt, "generation"), SiteFile: rapid.SliceOf(rapid.Byte()).Draw(rt, "file")}
				before := sites[site].applied
				err := s.SetApplied(site, a)
				if before != nil && a.Generation < before.Generation {
					if !errors.Is(err, store.ErrOlderGeneration) {
						rt.Fatalf("generation %d after %d: %v", a.Generation, before.Generation, err)
					}
					return
				}
				fatal(err)
				sites[site].applied = &a
			},
			"intent": func(rt *rapid.T) {
				site := siteNames.Draw(rt, "site")
				i := record.Intent{Service: services.Draw(rt, "service"), Stopped: rapid.Bool().Draw(rt, "stopped")}
				fatal(s.SetIntent(site, i))
				sites[site].intents[i.Service] = i
			},
			"maintenance": func(rt *rapid.T) {
				site := siteNames.Draw(rt, "site")
				m := record.Maintenance{All: rapid.Bool().Draw(rt, "all"), Hosts: rapid.SliceOf(services).Draw(rt, "hosts")}
				fatal(s.SetMaintenance(site, m))
				sites[site].closed = m
			},
			"image": func(rt *rapid.T) {
				site := siteNames.Draw(rt, "site")
				i := record.Image{Ref: rapid.StringMatching(`[a-z]{1,3}(/[a-z]{1,3})?:[0-9]`).Draw(rt, "ref"), Digest: rapid.String().Draw(rt, "digest")}
				fatal(s.SetImage(site, i))
				i.Digest = validText(i.Digest)
				sites[site].images[i.Ref] = i
			},
			"job": func(rt *rapid.T) {
				site := siteNames.Draw(rt, "site")
				j := record.JobRecord{Name: services.Draw(rt, "name"), Reason: fmt.Sprint(rapid.Int().Draw(rt, "reason"))}
				fatal(s.SetJob(site, j))
				sites[site].jobs[j.Name] = j
			},
			"address": func(rt *rapid.T) {
				site, service := siteNames.Draw(rt, "site"), services.Draw(rt, "service")
				a, err := s.Address(site, service, range4, range6)
				fatal(err)
				if known, had := sites[site].addresses[service]; had && known != a {
					rt.Fatalf("%s moved from %+v to %+v", service, known, a)
				}
				sites[site].addresses[service] = a
			},
			"secret": func(rt *rapid.T) {
				site, name := siteNames.Draw(rt, "site"), services.Draw(rt, "name")
				secretsMade++
				v, err := s.Secret(site, name, func() (string, error) { return fmt.Sprint("secret ", secretsMade), nil })
				fatal(err)
				if known, had := sites[site].secrets[name]; had && known != v {
					rt.Fatalf("secret %s changed", name)
				}
				sites[site].secrets[name] = v
			},
			"event": func(rt *rapid.T) {
				site := siteNames.Draw(rt, "site")
				e := record.Event{At: noon, Kind: record.Started, Service: rapid.SampledFrom([]string{"", "lms", "mysql"}).Draw(rt, "service")}
				stored, err := s.AppendEvent(site, e)
				fatal(err)
				m := sites[site]
				next := uint64(1)
				if n := len(m.events); n > 0 {
					next = m.events[n-1].Seq + 1
				}
				if stored.Seq < next || stored.Seq > next && !m.jump {
					rt.Fatalf("number %d, want %d", stored.Seq, next)
				}
				m.jump, e.Seq = false, stored.Seq
				m.events = append(m.events, e)
			},
			"restart": func(rt *rapid.T) {
				fatal(s.Close())
				if rapid.Bool().Draw(rt, "without the database") {
					// Only where a copy has everything: one made just now.
					s = open()
					fatal(s.Copy(context.Background()))
					fatal(s.Close())
					fatal(os.Truncate(filepath.Join(dir, "store.db"), 0))
					s = open()
					if r, yes := s.Recovered(); !yes || r.From == "" {
						rt.Fatalf("recovery: %+v", r)
					}
					for _, m := range sites {
						m.jump = true
					}
					return
				}
				s = open()
			},
			"": func(rt *rapid.T) {
				for site, m := range sites {
					m.compare(rt, s, site)
				}
				if err := s.Check(); err != nil {
					rt.Fatal(err)
				}
			},
		})
	})
}

// validText is what JSON makes of a string.
func validText(s string) string { return string([]rune(s)) }

func (m *model) compare(rt *rapid.T, s *store.Store, site string) {
	same := func(what string, want, got any, err error) {
		if err != nil {
			rt.Fatalf("%s of %s: %v", what, site, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			rt.Fatalf("%s of %s (-model +store):\n%s", what, site, diff)
		}
	}
	a, known, err := s.Applied(site)
	if known != (m.applied != nil) {
		rt.Fatalf("applied of %s: %v", site, known)
	}
	if m.applied != nil {
		same("applied", *m.applied, a, err)
	}
	closed, err := s.Maintenance(site)
	same("maintenance", m.closed, closed, err)
	intents, err := s.Intents(site)
	same("intents", m.intents, intents, err)
	images, err := s.Images(site)
	same("images", m.images, images, err)
	jobs, err := s.Jobs(site)
	same("jobs", m.jobs, jobs, err)
	names, err := s.SecretNames(site)
	if len(names) != len(m.secrets) {
		rt.Fatalf("secrets of %s: %q, %v", site, names, err)
	}
	events, err := s.Events(site, 0, 1000)
	if n := len(events); n > 21 || n < min(20, len(m.events)) {
		rt.Fatalf("%d events of %s are kept of %d", n, site, len(m.events))
	}
	tail := m.events[len(m.events)-len(events):]
	same("events", tail, events, err)
	ofLMS, err := s.ServiceEvents(site, "lms", 5)
	want := slices.DeleteFunc(slices.Clone(tail), func(e record.Event) bool { return e.Service != "lms" })
	slices.Reverse(want)
	same("events of lms", want[:min(5, len(want))], ofLMS, err)
}

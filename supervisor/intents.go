package supervisor

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	"tarima/store/record"
)

// StopService has the service stopped until StartService, over restarts of
// daemon and machine. It returns when the wish is kept; the loop carries it
// out. It returns ErrUnknown for a name that is no service.
func (s *Supervisor) StopService(ctx context.Context, name string) error {
	return s.intend(ctx, name, false, func(i *record.Intent) { i.Stopped = true })
}

// StartService takes back a stop. A service in backoff, or a job that failed,
// is tried at once.
func (s *Supervisor) StartService(ctx context.Context, name string) error {
	return s.intend(ctx, name, true, func(i *record.Intent) { i.Stopped = false })
}

// RestartService has the service replaced by a new container of the same (or,
// when it is pending, the newer) specification. A stopped service is started.
func (s *Supervisor) RestartService(ctx context.Context, name string) error {
	return s.intend(ctx, name, true, func(i *record.Intent) { i.Stopped = false; i.Restart++ })
}

// intend keeps a wish in the store and then gives it to the loop.
func (s *Supervisor) intend(ctx context.Context, name string, start bool, change func(*record.Intent)) error {
	s.apply.Lock()
	defer s.apply.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("request for %s: %w", name, err)
	}
	s.mu.Lock()
	site, ended := s.site, s.ended
	s.mu.Unlock()
	switch {
	case ended:
		return ErrNotRunning
	case site == nil:
		return ErrNotApplied
	case site.jobs[name] != nil && start:
		return s.retryJob(site.jobs[name])
	case site.services[name] == nil:
		return fmt.Errorf("%w: %q (the site has: %s)", ErrUnknown, name, strings.Join(site.names(), ", "))
	}
	intents, err := s.cfg.Store.Intents(s.cfg.Site)
	if err != nil {
		return fmt.Errorf("read the requests for %s: %w", name, err)
	}
	i := intents[name]
	i.Service, i.At = name, time.Now()
	change(&i)
	if err := s.cfg.Store.SetIntent(s.cfg.Site, i); err != nil {
		return fmt.Errorf("keep the request for %s: %w", name, err)
	}
	s.mu.Lock()
	s.intents[name] = i
	if start {
		s.history[name] = s.history[name].forgive()
		delete(s.retry, name)
		delete(s.failures, name)
		s.wanted[name] = true
	} else {
		delete(s.wanted, name)
	}
	s.publish(time.Now())
	s.mu.Unlock()
	s.wake()
	return nil
}

// retryJob has a failed job tried at once, with all its attempts again.
func (s *Supervisor) retryJob(j *Job) error {
	name := j.Spec.Name
	s.mu.Lock()
	r, loaded := s.jobs[name], s.loaded
	s.mu.Unlock()
	if !loaded {
		return ErrNotRunning
	}
	if r.State != record.JobFailedFor {
		return nil // it runs, has succeeded, or waits for what it requires
	}
	r.State, r.Attempts = record.JobPending, 0
	if err := s.cfg.Store.SetJob(s.cfg.Site, r); err != nil {
		return fmt.Errorf("keep the request for %s: %w", name, err)
	}
	s.mu.Lock()
	if s.jobs[name].State == record.JobFailedFor {
		s.jobs[name] = r
	}
	delete(s.retry, name)
	delete(s.failures, name)
	s.mu.Unlock()
	s.wake()
	return nil
}

// names of all services and jobs, sorted.
func (p *Prepared) names() []string {
	names := append([]string(nil), p.order...)
	sort.Strings(names)
	return names
}

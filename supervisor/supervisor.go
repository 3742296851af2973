package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// Config is what a supervisor is made of. Site, Engine, Network, Store and
// Logger are needed.
type Config struct {
	Site    string
	Engine  Engine
	Network Network
	Store   Store
	Router  Router // nil: no proxy, nothing is routed and nobody is waited for
	Logger  *slog.Logger
	Prefix4 netip.Prefix // the site's own range
	Prefix6 netip.Prefix // zero: no IPv6 inside
	// Resolvers tells the name servers that services with egress may ask. It is
	// called at every Apply and about once a minute. Nil: there are none.
	Resolvers func() ([]netip.Addr, error)
	Policy    Policy
	// Watchdog is called at the end of every turn of the loop, and at least
	// every WatchdogEvery (default 5 s): a loop that hangs does not call it.
	Watchdog      func()
	WatchdogEvery time.Duration
	// HostPressure is asked before a restart for failed probes. Nil: the
	// figures in /proc.
	HostPressure func() Pressure
	// Notify is told the overall state when it changes. It must not block.
	Notify func(overall string)
}

// Supervisor keeps one site as it should be.
type Supervisor struct {
	cfg     Config
	log     *slog.Logger
	journal *journal
	ask     func(context.Context, *Probe, target) Answer

	poke  chan struct{} // wakes the loop; holds one
	apply sync.Mutex    // one Apply or request at a time

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	ended   bool            // Run has returned
	ops     sync.WaitGroup
	changed chan struct{} // closed and made anew when the status changes

	site    *Prepared
	applied record.Applied

	loaded   bool // intents, images and jobs are read from the store
	observed map[string]container.Status
	touched  map[string]uint64 // turn of the last change of each observed container
	counter  uint64
	relist   time.Time // when the engine is to be asked again; zero: not
	listing  bool
	own      map[string]bool // containers seen or started in this daemon's life
	lastExit map[string]container.Event
	lastOOM  map[string]time.Time

	inFlight map[string]Operation // of services and jobs
	// background are operations of the site as a whole: lists, network, pulls, routes.
	background map[string]Operation
	overdue    map[string]Reason // about operations past their deadline
	images     map[string]ImageState
	intents    map[string]record.Intent
	jobs       map[string]record.JobRecord
	history    map[string]History
	past       map[string]past
	health     map[string]Health
	probers    map[string]*prober
	ready      map[string]bool // as last told: its changes are events
	drains     map[string]Drain
	wanted     map[string]bool
	late       map[string]bool // jobs that were stopped for their time-out
	retry      map[string]time.Time
	failures   map[string]int // of steps in a row, by name
	network    NetworkState
	netTries   int
	resolvers  []netip.Addr // as last told
	// noResolvers says why the host named none when it was last asked.
	noResolvers string
	stopAll     bool
	troubles    map[string]string // by part: engine, network, store, proxy

	healthRestarts []time.Time
	suppressed     map[string]string
	decision       Decision
	router         routerState
	maintenance    record.Maintenance
	maintained     bool              // a request came before the store was read
	certs          map[string]string // what the proxy last told of each name
	usage          usageSample

	since     map[string]stateSince
	overall   Overall
	overallAt time.Time
	wasReady  bool // since the last apply
}

// stateSince remembers when a service entered its state.
type stateSince struct {
	state State
	at    time.Time
}

// New makes a supervisor. It reads and starts nothing before Run.
func New(cfg Config) (*Supervisor, error) {
	switch {
	case cfg.Site == "":
		return nil, fmt.Errorf("%w: the site has no name", ErrConfig)
	case cfg.Engine == nil, cfg.Network == nil, cfg.Store == nil:
		return nil, fmt.Errorf("%w: engine, network and store are needed", ErrConfig)
	case cfg.Logger == nil:
		return nil, fmt.Errorf("%w: a logger is needed", ErrConfig)
	}
	cfg.Policy = cfg.Policy.withDefaults()
	cfg.WatchdogEvery = orDefault(cfg.WatchdogEvery, 5*time.Second)
	if cfg.HostPressure == nil {
		cfg.HostPressure = func() Pressure { return HostPressure("/proc") }
	}
	s := &Supervisor{
		cfg:        cfg,
		log:        cfg.Logger.With("site", cfg.Site),
		ask:        ask,
		poke:       make(chan struct{}, 1),
		changed:    make(chan struct{}),
		touched:    map[string]uint64{},
		own:        map[string]bool{},
		lastExit:   map[string]container.Event{},
		lastOOM:    map[string]time.Time{},
		inFlight:   map[string]Operation{},
		background: map[string]Operation{},
		overdue:    map[string]Reason{},
		images:     map[string]ImageState{},
		intents:    map[string]record.Intent{},
		jobs:       map[string]record.JobRecord{},
		history:    map[string]History{},
		past:       map[string]past{},
		health:     map[string]Health{},
		probers:    map[string]*prober{},
		ready:      map[string]bool{},
		drains:     map[string]Drain{},
		wanted:     map[string]bool{},
		late:       map[string]bool{},
		retry:      map[string]time.Time{},
		failures:   map[string]int{},
		troubles:   map[string]string{},
		suppressed: map[string]string{},
		certs:      map[string]string{},
		since:      map[string]stateSince{},
		overall:    OverallStopped,
	}
	s.journal = newJournal(cfg, s.log)
	s.journal.trouble = func(sentence string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if sentence == "" {
			delete(s.troubles, "store events")
		} else {
			s.troubles["store events"] = sentence
		}
	}
	return s, nil
}

// Run keeps the site until ctx ends; then it returns nil and leaves every
// container running. It can be called once.
func (s *Supervisor) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.ctx != nil {
		s.mu.Unlock()
		return ErrRunning
	}
	ctx, cancel := context.WithCancel(ctx)
	s.ctx = ctx
	s.overallAt = time.Now()
	s.relist = time.Now()
	s.mu.Unlock()

	var readers sync.WaitGroup
	readers.Go(func() { s.journal.run(ctx) })
	readers.Go(func() { s.readEngine(ctx) })
	if s.cfg.Router != nil {
		readers.Go(func() { s.readRouter(ctx) })
	}
	s.loop(ctx)
	cancel()

	s.mu.Lock()
	s.ended = true
	close(s.changed)
	s.changed = nil
	s.mu.Unlock()
	// Operations see their context end. One that does not is left behind: the
	// process ends anyway, and the next start finds what it left.
	finished := make(chan struct{})
	go func() { s.ops.Wait(); readers.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(10 * time.Second):
		s.log.Warn("operations have not ended in time and are left behind")
	}
	return nil
}

// loop turns whenever something happened or is due.
func (s *Supervisor) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.poke:
		case <-timer.C:
		}
		next := s.turn()
		if s.cfg.Watchdog != nil {
			s.cfg.Watchdog()
		}
		wait := s.cfg.WatchdogEvery
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), 0))
		}
		timer.Reset(wait)
	}
}

// wake has the loop turn soon. It never blocks.
func (s *Supervisor) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// turn is one round: take in what was observed, plan, begin the steps, tell.
// It waits for nothing, and returns when the next round is due.
func (s *Supervisor) turn() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	next := s.observe(now)
	if !s.loaded || s.observed == nil {
		s.publish(now)
		return soonest(next, s.watchOperations(now))
	}
	s.settle(now)
	s.decision = Plan(s.input(now))
	s.tellSuppressed(now)
	s.dropDrains()
	for _, step := range s.decision.Steps {
		s.act(step, now)
	}
	next = soonest(next, s.decision.Next)
	next = soonest(next, s.route(now))
	next = soonest(next, s.watchOperations(now))
	s.publish(now)
	return next
}

// input gathers what Plan decides by. The maps are the loop's own: Plan does
// not change them, and it ends before they change.
func (s *Supervisor) input(now time.Time) Input {
	in := Input{
		Now: now, Desired: s.desired(), Observed: s.observed, InFlight: s.inFlight,
		Images: s.images, Intents: s.intents, Jobs: s.jobs, History: s.history,
		Health: s.health, Drains: s.drains, Wanted: s.wanted, Retry: s.retry,
		HealthRestarts: s.healthRestarts, Network: s.network,
		Routed: s.router.up, StopAll: s.stopAll, Policy: s.cfg.Policy,
	}
	for name, h := range s.health {
		if h.Liveness.Known && !h.Liveness.OK || h.Startup.Known && !h.Startup.OK && s.probers[name] != nil {
			in.Pressure = s.cfg.HostPressure() // only when a restart may come of it
			break
		}
	}
	return in
}

// desired is what Plan is to aim at. A site that is to stop is stopped even
// when no usable site file says what it consists of: then everything that runs
// is a stranger, and labels tell the order.
func (s *Supervisor) desired() *Prepared {
	if s.site == nil && s.stopAll {
		return &Prepared{Desired: Desired{Site: s.cfg.Site}}
	}
	return s.site
}

// soonest returns the earlier of two times, of which zero means never.
func soonest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

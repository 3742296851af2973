package supervisor

import (
	"time"

	"tarima/runtime/container"
	"tarima/store/record"
)

// Action is what a step does.
type Action string

// Actions of a plan.
const (
	ActionNetwork Action = "network" // make the site's network as declared
	ActionPull    Action = "pull"    // look for an image and bring it here
	ActionStart   Action = "start"   // start a service
	ActionDrain   Action = "drain"   // let running requests end before a stop
	ActionStop    Action = "stop"    // stop a service or job
	ActionRemove  Action = "remove"  // delete a container that has ended
	ActionLimits  Action = "limits"  // change a running container's limits
	ActionJob     Action = "job"     // start a job
	ActionFinish  Action = "finish"  // write down a job's result
)

// Cause tells why something is started or stopped; it decides whether the end
// that follows counts as a failure.
type Cause string

// Causes of starts and stops.
const (
	CauseWanted    Cause = "wanted"    // it belongs to the site and does not run
	CauseCrashed   Cause = "crashed"   // it ended and nobody asked
	CauseReplace   Cause = "replace"   // its specification changed
	CauseRequested Cause = "requested" // an administrator asked for a restart
	CauseHealth    Cause = "health"    // its probes failed for too long
	CauseStopped   Cause = "stopped"   // an administrator asked for a stop
	CauseSiteStop  Cause = "site stop" // the whole site stops
	CauseRemoved   Cause = "removed"   // it is no part of the site any more
	CauseTimeout   Cause = "timeout"   // a job took too long
)

// Step is one thing to do now. All steps of a plan may begin at the same time.
type Step struct {
	Action Action
	Name   string // service or job; "" for network
	Image  string // pull: the reference
	Cause  Cause
	Reason string // for people, in English
	why    Reason // the same, of a stop
}

// Wait says what keeps a service or job from going on.
type Wait struct {
	State State
	Why   Reason
	Until time.Time // zero: for something to happen
}

// Decision is the answer of Plan.
type Decision struct {
	Steps []Step
	// Next is when time alone changes the answer; zero means never.
	Next time.Time
	// Waits explains every service and job that is neither as it should be nor
	// has a step.
	Waits map[string]Wait
	// Suppressed are restarts for failed probes that are due and held back,
	// with the reason.
	Suppressed map[string]Reason
}

// Operation is a step that is on its way.
type Operation struct {
	Action  Action
	Cause   Cause
	Started time.Time
	// Deadline is when it should have ended; the loop reports it from then on.
	Deadline time.Time
}

// ImageState is what is known of one image reference.
type ImageState struct {
	Present  bool
	Digest   string
	Failures int
	Why      string // of the last failure
	RetryAt  time.Time
	Pulling  bool
	Progress PullProgress
}

// Drain is a service that is being taken out of routing before a stop.
type Drain struct {
	Since time.Time
	Done  bool // the proxy has told that no request is left
	// Put is the generation of the first snapshot that says so; 0: not acknowledged yet.
	Put uint64
}

// Input is everything that Plan decides by. Plan changes none of it.
type Input struct {
	Now     time.Time
	Desired *Prepared // nil: nothing is applied, nothing is touched
	// Observed are the site's containers by name. Nil means not known yet.
	Observed map[string]container.Status
	InFlight map[string]Operation // by service or job
	Images   map[string]ImageState
	Intents  map[string]record.Intent
	Jobs     map[string]record.JobRecord
	History  map[string]History
	Health   map[string]Health
	Drains   map[string]Drain
	Wanted   map[string]bool      // on-demand services that were asked for
	Retry    map[string]time.Time // not before, after a step that failed
	// HealthRestarts are the times of the last restarts for failed probes.
	HealthRestarts []time.Time
	Pressure       Pressure
	Network        NetworkState
	// Routed is false while no proxy takes snapshots: nobody is waited for.
	Routed  bool
	StopAll bool
	Policy  Policy
	// PullsAtOnce bounds parallel pulls; 0 means 2.
	PullsAtOnce int
}

// NetworkState is what is known of the site's network.
type NetworkState struct {
	Ready    bool // as the desired topology asks
	Applying bool
	Why      string
	RetryAt  time.Time
}

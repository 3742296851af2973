package supervisor

import (
	"time"

	"tarima/store/record"
)

// State of a service as people see it.
type State string

// States of a service.
const (
	StateWaiting  State = "waiting"  // for what it requires
	StatePulling  State = "pulling"  // its image
	StateStarting State = "starting" // runs, startup probe not passed yet
	StateReady    State = "ready"
	StateUnready  State = "unready" // runs, readiness fails
	StateStopping State = "stopping"
	StateStopped  State = "stopped" // as an administrator asked
	StateBackoff  State = "backoff" // ended, waits for its next start
	StateFailing  State = "failing" // crash loop or hopeless: retried at the cap
)

// Overall state of a site in one word.
type Overall string

// Overall states of a site.
const (
	OverallReady    Overall = "ready"
	OverallStarting Overall = "starting"
	OverallDegraded Overall = "degraded"
	OverallStopped  Overall = "stopped"
)

// SiteStatus is the answer to "how is it": plain data for CLI, API and pages.
type SiteStatus struct {
	Site       string          `json:"site"`
	Overall    Overall         `json:"overall"`
	Generation uint64          `json:"generation"`
	Since      time.Time       `json:"since"`
	Services   []ServiceStatus `json:"services"`
	Jobs       []JobStatus     `json:"jobs"`
	Hosts      []string        `json:"hosts"`
	Trouble    []string        `json:"trouble,omitempty"` // engine, network, store, proxy, host: one sentence each
	// Maintenance is what visitors may not see for a while; nil: nothing.
	Maintenance *MaintenanceStatus `json:"maintenance,omitempty"`
}

// MaintenanceStatus is which hosts are closed for maintenance.
type MaintenanceStatus struct {
	Hosts []string  `json:"hosts"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // what visitors are told; zero: nobody knows
}

// ServiceStatus is one line of it.
type ServiceStatus struct {
	Name        string    `json:"name"`
	State       State     `json:"state"`
	Since       time.Time `json:"since"`
	PID         int       `json:"pid,omitempty"`
	Restarts    int       `json:"restarts"` // that nobody asked for, since the daemon's store began
	Memory      int64     `json:"memory"`   // bytes
	MemoryLimit int64     `json:"memoryLimit"`
	CPUSeconds  float64   `json:"cpuSeconds"`
	Healthy     bool      `json:"healthy"`
	Why         string    `json:"why,omitempty"`   // why not ready, in an English sentence
	Cause       *Reason   `json:"cause,omitempty"` // the same as a code with its arguments
	Next        time.Time `json:"next,omitzero"`   // next start in backoff or failing
	Image       string    `json:"image,omitempty"`
	// RestartPending says what a newer Tarima would do otherwise at the next
	// requested restart.
	RestartPending string        `json:"restartPending,omitempty"`
	PendingCause   *Reason       `json:"pendingCause,omitempty"` // the same as a code
	Reduced        []string      `json:"reduced,omitempty"`
	LogTail        []string      `json:"logTail,omitempty"` // of the last failure
	Progress       *PullProgress `json:"progress,omitempty"`
}

// PullProgress of a service's image.
type PullProgress struct {
	Phase string `json:"phase"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// JobStatus is one initialisation step.
type JobStatus struct {
	record.JobRecord
	Why   string  `json:"why,omitempty"`   // why it does not run yet, in an English sentence
	Cause *Reason `json:"cause,omitempty"` // the same as a code with its arguments
}

// StepStatus is one line of `tarima plan`.
type StepStatus struct {
	Action  string `json:"action"`  // pull, create, start, stop, replace, limits, job, route, wait …
	Service string `json:"service"` // service or job
	Reason  string `json:"reason"`
}

// Package record is plain data: the records that the store keeps. It holds no
// code that acts, so that the supervisor can speak of them without importing
// the database.
package record

import (
	"net/netip"
	"slices"
	"time"
)

// Applied is the site file that is wanted, committed as a whole.
type Applied struct {
	Generation uint64    `json:"generation"`
	SiteFile   []byte    `json:"siteFile"`
	Release    string    `json:"release"`
	At         time.Time `json:"at"`
}

// Intent is what an administrator asked of one service beside the site file:
// a stopped service stays stopped over restarts of the daemon and the machine.
type Intent struct {
	Service string    `json:"service"`
	Stopped bool      `json:"stopped"`
	Restart uint64    `json:"restart"` // counts requested restarts; a change of it is a request
	At      time.Time `json:"at"`
}

// Maintenance is which public hosts an administrator has closed for a while.
// It outlives restarts of the daemon and the machine.
type Maintenance struct {
	All   bool      `json:"all,omitempty"` // every host of the site
	Hosts []string  `json:"hosts,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"` // what visitors are told; nothing opens by itself
	// Pass opens a closed host to a browser. It is a secret.
	Pass string `json:"pass,omitempty"`
}

// Closed says whether a host is closed.
func (m Maintenance) Closed(host string) bool { return m.All || slices.Contains(m.Hosts, host) }

// On says whether anything is closed.
func (m Maintenance) On() bool { return m.All || len(m.Hosts) > 0 }

// Address is the fixed place of a service: its addresses and its range of ids.
type Address struct {
	Service string     `json:"service"`
	V4      netip.Addr `json:"v4"`
	V6      netip.Addr `json:"v6"`
	IDBase  uint32     `json:"idBase"` // first of 65,536 host uids and gids
}

// Image is a digest pinned at first pull.
type Image struct {
	Ref    string    `json:"ref"`
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	At     time.Time `json:"at"`
}

// EventKind names what happened to a service. Kinds are never translated.
type EventKind string

// Kinds of events.
const (
	Started       EventKind = "started"
	ExitedEvent   EventKind = "exited"
	OOM           EventKind = "oom"
	ProbeFailed   EventKind = "probe-failed"
	ProbePassed   EventKind = "probe-passed"
	Restarted     EventKind = "restarted"
	StartFailed   EventKind = "start-failed"
	Stopped       EventKind = "stopped"
	Adopted       EventKind = "adopted"
	Failing       EventKind = "failing"
	Recovered     EventKind = "recovered"
	AppliedEvent  EventKind = "applied"
	RefusedEvent  EventKind = "refused"
	Pulled        EventKind = "pulled"
	PullFailed    EventKind = "pull-failed"
	JobStarted    EventKind = "job-started"
	JobDone       EventKind = "job-done"
	JobFailed     EventKind = "job-failed"
	LimitsChanged EventKind = "limits-changed"
	Suppressed    EventKind = "suppressed"  // a health restart held back, with the reason
	Certificate   EventKind = "certificate" // the state of a public name's certificate changed
	Closed        EventKind = "closed"      // public hosts were closed for maintenance
	Opened        EventKind = "opened"      // they are open again
	Trouble       EventKind = "trouble"     // engine, network, store or host
	Cleaned       EventKind = "cleaned"     // what was kept for a while was deleted
)

// Event is one line of a service's history. Seq grows by one with each event
// of a site and never repeats.
type Event struct {
	Seq      uint64    `json:"seq"`
	At       time.Time `json:"at"`
	Kind     EventKind `json:"kind"`
	Service  string    `json:"service,omitempty"`
	ExitCode *int      `json:"exitCode,omitempty"`
	Reason   string    `json:"reason,omitempty"` // English, for people
	LogTail  []string  `json:"logTail,omitempty"`
}

// JobState of a job that runs once for a reason.
type JobState string

// States of a job.
const (
	JobPending   JobState = "pending"
	JobRunning   JobState = "running"
	JobSucceeded JobState = "succeeded"
	JobFailedFor JobState = "failed"
)

// JobRecord remembers a job: it runs once per reason, a content hash.
type JobRecord struct {
	Name     string    `json:"name"`
	Reason   string    `json:"reason"`
	State    JobState  `json:"state"`
	Attempts int       `json:"attempts"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended,omitzero"`
	ExitCode int       `json:"exitCode"`
	Message  string    `json:"message,omitempty"`
	LogTail  []string  `json:"logTail,omitempty"`
}

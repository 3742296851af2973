// Package container is plain data: what a container is asked to be (Spec),
// what was seen of it (Status, Event), and how the containers of a site may
// reach each other (Topology). It holds no code that acts, so that the
// supervisor can speak of containers without importing the engine.
package container

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"
)

// Kind tells a service, which is kept running, from a job, which runs to its
// end once.
type Kind string

// Kinds of containers.
const (
	Service Kind = "service"
	Job     Kind = "job"
)

// Group is a failure domain: the containers of one group share one shim
// process, and the loss of that process ends all of them and no other.
type Group string

// The two failure domains.
const (
	Stores       Group = "stores" // MySQL, MongoDB, Redis, search, mail
	Applications Group = "apps"   // LMS, Studio, workers, jobs
)

// Spec is what a container is asked to be. Its zero values mean "as the image
// says" or "no limit"; the engine clamps what the host forbids and reports it
// in Status.Reduced.
type Spec struct {
	Site  string `json:"site"`
	Name  string `json:"name"` // service or job name, unique within the site
	Kind  Kind   `json:"kind"`
	Group Group  `json:"group"`

	// Image is a reference with or without a digest. With one, exactly that
	// image runs; without, the engine uses the digest pinned at first pull.
	Image      string   `json:"image"`
	Entrypoint []string `json:"entrypoint,omitempty"` // nil: the image's
	Args       []string `json:"args,omitempty"`       // nil: the image's CMD
	Env        []string `json:"env,omitempty"`        // KEY=value, added to the image's
	User       string   `json:"user,omitempty"`       // uid[:gid] or a name of the image
	Workdir    string   `json:"workdir,omitempty"`
	Hostname   string   `json:"hostname,omitempty"` // "": Name

	Mounts       []Mount `json:"mounts,omitempty"`
	ReadOnlyRoot bool    `json:"readOnlyRoot,omitempty"`

	// IDBase is the first host uid and gid of the 65,536 that belong to this
	// container's user namespace; 0 runs without a user namespace.
	IDBase uint32 `json:"idBase,omitempty"`

	Capabilities []string `json:"capabilities,omitempty"` // nil: the small default list
	Limits       Limits   `json:"limits"`
	NoFile       uint64   `json:"noFile,omitempty"` // RLIMIT_NOFILE; 0: 65,536
	OOMScoreAdj  int      `json:"oomScoreAdj,omitempty"`

	StopSignal  string        `json:"stopSignal,omitempty"` // "": the image's, then SIGTERM
	StopTimeout time.Duration `json:"stopTimeout,omitempty"`

	Addresses Addresses    `json:"addresses"`
	Hosts     []HostsEntry `json:"hosts,omitempty"` // lines of /etc/hosts beside localhost and itself
	// Resolvers are the name servers of /etc/resolv.conf; none: names are looked
	// up in /etc/hosts alone.
	Resolvers []netip.Addr `json:"resolvers,omitempty"`
	Log       LogLimits    `json:"log"`

	// Labels are kept with the container by the engine and come back in
	// Status. They must be enough to rebuild the store (LabelSpec etc.).
	Labels map[string]string `json:"labels,omitempty"`
}

// Labels that the supervisor sets on every container.
const (
	LabelSite       = "tarima/site"
	LabelName       = "tarima/name"
	LabelKind       = "tarima/kind"
	LabelHash       = "tarima/hash"       // hash of what site file and release ask for
	LabelLimitsHash = "tarima/limits"     // hash of the limits alone: a change of it is applied live
	LabelGeneration = "tarima/generation" // generation of the applied site file
	LabelSpec       = "tarima/spec"       // the Spec as JSON, less its secrets
	LabelFiles      = "tarima/files"      // hash of the files that it mounts: another one waits for the next start
	LabelReason     = "tarima/reason"     // jobs: the content hash that it runs for
	LabelRestart    = "tarima/restart"    // count of requested restarts that this container answers
	LabelRequires   = "tarima/requires"   // names that it requires, joined by commas: the order of a stop
)

// ID is the container's name in the engine: SITE.NAME.
func (s *Spec) ID() string { return ID(s.Site, s.Name) }

// ID joins a site and a service or job name to the engine's container name.
func ID(site, name string) string { return site + "." + name }

// Mount brings a host folder or file, or a tmpfs, into a container.
type Mount struct {
	Source   string `json:"source,omitempty"` // host path; "" with Tmpfs
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Idmap shows the image's own uids on disk: the mount is shifted by the
	// container's IDBase, and nothing is chowned.
	Idmap bool   `json:"idmap,omitempty"`
	Tmpfs bool   `json:"tmpfs,omitempty"`
	Size  int64  `json:"size,omitempty"` // bytes, tmpfs only
	Mode  uint32 `json:"mode,omitempty"` // tmpfs only
}

// Limits are the resources of one container. Zero means no limit. They are the
// one part of a Spec that can change while the container runs.
type Limits struct {
	MemoryHigh int64  `json:"memoryHigh,omitempty"` // bytes; cgroup v2 only
	MemoryMax  int64  `json:"memoryMax,omitempty"`  // bytes
	Swap       int64  `json:"swap,omitempty"`       // bytes beside MemoryMax; -1 none
	CPUWeight  uint64 `json:"cpuWeight,omitempty"`  // 1 to 10,000, as in cgroup v2; 100 is usual
	Pids       int64  `json:"pids,omitempty"`
}

// Hash names the limits in LabelLimitsHash.
func (l Limits) Hash() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d %d %d %d", l.MemoryHigh, l.MemoryMax, l.Swap, l.CPUWeight, l.Pids))
	return hex.EncodeToString(sum[:8])
}

// LogLimits bound the log files of one service, in bytes.
type LogLimits struct {
	File  int64 `json:"file,omitempty"`  // one file; 0: 10 MiB
	Total int64 `json:"total,omitempty"` // all files of the service; 0: 50 MiB
}

// Addresses are fixed for the life of a service and come from the store.
type Addresses struct {
	V4 netip.Addr `json:"v4"`
	V6 netip.Addr `json:"v6"` // zero: the host has no IPv6
}

// HostsEntry is one line of a container's /etc/hosts.
type HostsEntry struct {
	Addr  netip.Addr `json:"addr"`
	Names []string   `json:"names"`
}

// State of a container as the engine sees it. The engine knows nothing of
// health; that is the supervisor's.
type State string

// States of a container.
const (
	Created State = "created" // made, its process not started yet
	Running State = "running"
	Exited  State = "exited"
	Missing State = "missing" // a record without a process and without a journal entry: exit unknown
)

// Status is what the engine observes of one container.
type Status struct {
	ID       string            `json:"id"`
	State    State             `json:"state"`
	PID      int               `json:"pid,omitempty"`
	Started  time.Time         `json:"started,omitzero"`
	Exit     *Exit             `json:"exit,omitempty"`
	Image    string            `json:"image"` // reference with digest
	Labels   map[string]string `json:"labels,omitempty"`
	Reduced  []string          `json:"reduced,omitempty"` // what the host forbade or lacks, one sentence each
	LogFile  string            `json:"logFile,omitempty"`
	CgroupV2 bool              `json:"cgroupV2"`
}

// Exit is the end of a container's main process.
type Exit struct {
	Code    int       `json:"code"` // 128+n after signal n; -1: unknown
	At      time.Time `json:"at"`
	OOM     bool      `json:"oom,omitempty"`     // the kernel ended a process of this container for its memory limit
	Unknown bool      `json:"unknown,omitempty"` // nobody saw it: reboot, or engine state lost
}

// EventKind names what happened to a container.
type EventKind string

// Kinds of events.
const (
	EventExit EventKind = "exit"
	EventOOM  EventKind = "oom"
)

// Event is a wake-up for the supervisor's loop.
type Event struct {
	Kind EventKind `json:"kind"`
	ID   string    `json:"id"`
	// PID is the main process that the event is about, so that the late end of
	// an earlier container of the same name is not taken for the present one's;
	// 0: unknown, and the times decide.
	PID  int       `json:"pid,omitempty"`
	Exit *Exit     `json:"exit,omitempty"`
	At   time.Time `json:"at"`
}

// Usage is what a container uses now.
type Usage struct {
	ID          string        `json:"id"`
	Memory      int64         `json:"memory"`      // bytes, page cache that can be dropped not counted
	MemoryLimit int64         `json:"memoryLimit"` // bytes; 0 none
	CPU         time.Duration `json:"cpu"`         // since start, all cores
	Pids        int64         `json:"pids"`
	At          time.Time     `json:"at"`
}

// Progress of a pull or an archive load.
type Progress struct {
	Ref        string `json:"ref"`
	Phase      string `json:"phase"` // resolving, downloading, unpacking, done
	Done       int64  `json:"done"`  // bytes
	Total      int64  `json:"total"` // bytes; 0 unknown yet
	Layers     int    `json:"layers"`
	LayersDone int    `json:"layersDone"`
}

// Image is one image that the engine holds.
type Image struct {
	Ref     string    `json:"ref"`    // name:tag as asked for, normalised
	Digest  string    `json:"digest"` // sha256:… of the manifest or index
	Size    int64     `json:"size"`   // bytes, compressed
	Created time.Time `json:"created,omitzero"`
	Lease   string    `json:"lease,omitempty"` // what keeps it: a release's name
	InUse   bool      `json:"inUse"`
}

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
)

// Annotations of the OCI specification by which the daemon tells the shim what
// to do for one container.
const (
	// annotationGroup is read by containerd: containers with the same value
	// share a shim.
	annotationGroup    = "io.containerd.runc.v2.group"
	annotationRun      = "tarima/run"
	annotationLog      = "tarima/log"
	annotationLogFile  = "tarima/log-file-bytes"
	annotationLogTotal = "tarima/log-total-bytes"
	annotationExit     = "tarima/exit"
)

// drainBefore is how long the news of an exit waits for the container's last
// output to reach its log, so that who reads the log on that news finds it.
// The kernel has closed the pipes by then, so it is a matter of microseconds.
const drainBefore = 100 * time.Millisecond

// oomWindow is how old a memory kill may be to be taken for the reason of an
// exit that was not by SIGKILL itself: the main process saw a child killed.
const oomWindow = 5 * time.Second

// shimService is containerd's task service with a log writer and an exit
// journal beside it.
type shimService struct {
	taskapi.TTRPCTaskService
	// memory watches for memory kills; nil where containerd's own watch does,
	// which is on cgroup v1.
	memory *oomWatch

	mu         sync.Mutex
	containers map[string]*shimContainer
}

// shimContainer is what the shim remembers of one container.
type shimContainer struct {
	run      string
	exitFile string
	log      *logPipes // nil: no log asked for

	mu        sync.Mutex
	pid       int
	memory    memoryEvents
	lastOOM   time.Time
	seenKills int // count of memory kills at lastOOM
	journaled bool
	settled   chan struct{} // closed when the journal has been tried
}

// RegisterTTRPC makes the service known to the shim's server.
func (s *shimService) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	return nil
}

func (s *shimService) container(id string) *shimContainer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

// Create opens the log before the container can write to it.
func (s *shimService) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	annotations, err := readAnnotations(filepath.Join(r.Bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	c := &shimContainer{run: annotations[annotationRun], exitFile: annotations[annotationExit], settled: make(chan struct{})}
	if path := annotations[annotationLog]; path != "" && !r.Terminal {
		c.log, err = openLogPipes(newLogFile(path, parseBytes(annotations[annotationLogFile]), parseBytes(annotations[annotationLogTotal])))
		if err != nil {
			return nil, fmt.Errorf("log of %s: %w", r.ID, err)
		}
		r.Stdout, r.Stderr = c.log.names()
	}
	s.mu.Lock()
	s.containers[r.ID] = c
	s.mu.Unlock()

	response, err := s.TTRPCTaskService.Create(ctx, r)
	if c.log != nil {
		// The runtime has its own ends by now; with ours open the end of the
		// output would never be seen.
		c.log.closeWriteEnds()
	}
	if err != nil {
		s.mu.Lock()
		delete(s.containers, r.ID)
		s.mu.Unlock()
		return nil, err
	}
	c.mu.Lock()
	c.pid = int(response.Pid)
	c.memory = memoryEventsOf(c.pid)
	c.mu.Unlock()
	if s.memory != nil {
		if err := s.memory.add(r.ID, c.memory); err != nil {
			log.G(ctx).WithError(err).WithField("container", r.ID).Warn("exits for lack of memory will not be named")
		}
	}
	return response, nil
}

// Start starts a container or a command in one. The end of the daemon's
// connection must not cut it off: the OCI runtime would be killed in the middle,
// with the process running and nobody who knows its number, so that no later
// daemon could end it.
func (s *shimService) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	return s.TTRPCTaskService.Start(ctx, r)
}

// Pids lists the processes of a container. containerd asks every container for
// them when the daemon starts, to see whether there are any. The service behind
// starts the OCI runtime for each answer, which was most of the time that a
// daemon took to take a site over; the kernel's list of the cgroup says the same.
func (s *shimService) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	if c := s.container(r.ID); c != nil {
		c.mu.Lock()
		pids := c.memory.processes()
		c.mu.Unlock()
		if len(pids) > 0 {
			response := &taskapi.PidsResponse{}
			for _, pid := range pids {
				response.Processes = append(response.Processes, &tasktypes.ProcessInfo{Pid: pid})
			}
			return response, nil
		}
	}
	return s.TTRPCTaskService.Pids(ctx, r)
}

// settleBefore is how long the answer that a container has ended waits for its
// entry in the journal.
const settleBefore = 2 * time.Second

// State says how a process is. That a container has ended is said when the
// journal knows it: whoever asks reads there why.
func (s *shimService) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	response, err := s.TTRPCTaskService.State(ctx, r)
	if err != nil || r.ExecID != "" || response.Status != tasktypes.Status_STOPPED {
		return response, err
	}
	if c := s.container(r.ID); c != nil && c.exitFile != "" {
		timer := time.NewTimer(settleBefore)
		defer timer.Stop()
		select {
		case <-c.settled:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return response, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Delete forgets a container. The daemon deletes one whose end it was not
// there to see as soon as it is back, perhaps before the event has gone out:
// the journal comes first.
func (s *shimService) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c := s.container(r.ID)
	response, err := s.TTRPCTaskService.Delete(ctx, r)
	if err != nil || r.ExecID != "" || c == nil {
		return response, err
	}
	if c.log != nil {
		c.log.wait(ctx, drainBefore)
	}
	if s.memory != nil {
		s.memory.lookAt(r.ID)
		s.memory.forget(r.ID)
	}
	if response.ExitedAt.IsValid() && response.ExitedAt.AsTime().Unix() > 0 {
		c.journal(ctx, r.ID, int(response.ExitStatus), response.ExitedAt.AsTime())
	}
	s.mu.Lock()
	if s.containers[r.ID] == c {
		delete(s.containers, r.ID)
	}
	s.mu.Unlock()
	return response, nil
}

// exited is called with every exit of a main process before anybody is told.
func (s *shimService) exited(ctx context.Context, e *eventsapi.TaskExit) {
	c := s.container(e.ContainerID)
	if c == nil {
		return
	}
	if s.memory != nil {
		// At once: systemd is about to remove the cgroup with its count.
		s.memory.lookAt(e.ContainerID)
	}
	if c.log != nil {
		c.log.wait(ctx, drainBefore)
	}
	c.journal(ctx, e.ContainerID, int(e.ExitStatus), e.ExitedAt.AsTime())
}

func (c *shimContainer) journal(ctx context.Context, id string, code int, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.journaled || c.exitFile == "" {
		return
	}
	if !isClosed(c.settled) {
		defer close(c.settled)
	}
	entry := exitEntry{ID: id, Run: c.run, PID: c.pid, Code: code, At: at, OOM: c.oom(code, at)}
	if err := writeExit(c.exitFile, entry); err != nil {
		log.G(ctx).WithError(err).WithField("container", id).Error("writing the exit journal")
		return
	}
	c.journaled = true
}

// oom says whether an exit is to be laid to the memory limit. c.mu is held.
func (c *shimContainer) oom(code int, at time.Time) bool {
	if !c.lastOOM.IsZero() && at.Sub(c.lastOOM) < oomWindow {
		return true
	}
	if code != 128+9 {
		return false
	}
	// The notice of the kernel may still be on its way; its counter is not.
	kills, err := c.memory.kills()
	return err == nil && kills > c.seenKills
}

// outOfMemory is called with every memory kill. It may come after the exit.
func (s *shimService) outOfMemory(ctx context.Context, id string) {
	c := s.container(id)
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastOOM = time.Now()
	if kills, err := c.memory.kills(); err == nil {
		c.seenKills = kills
	}
	if !c.journaled {
		return
	}
	entry, err := readExit(c.exitFile)
	if err != nil || entry.Run != c.run || entry.OOM || c.lastOOM.Sub(entry.At) > oomWindow {
		return
	}
	entry.OOM = true
	if err := writeExit(c.exitFile, entry); err != nil {
		log.G(ctx).WithError(err).WithField("container", id).Error("writing the exit journal")
	}
}

// journalPublisher writes the journal before an event goes out, and sends
// events in order without making the shim wait for a daemon that is not there.
type journalPublisher struct {
	shim.Publisher
	service *shimService
	queue   *eventQueue
}

type outgoing struct {
	ctx   context.Context
	topic string
	event events.Event
}

func newJournalPublisher(inner shim.Publisher, service *shimService) *journalPublisher {
	p := &journalPublisher{Publisher: inner, service: service}
	p.queue = newEventQueue(func(o outgoing) {
		if err := inner.Publish(o.ctx, o.topic, o.event); err != nil {
			log.G(o.ctx).WithError(err).WithField("topic", o.topic).Debug("event not delivered yet")
		}
	})
	return p
}

// Publish journals the event and queues it.
func (p *journalPublisher) Publish(ctx context.Context, topic string, event events.Event) error {
	switch e := event.(type) {
	case *eventsapi.TaskExit:
		if e.ID == e.ContainerID {
			p.service.exited(ctx, e)
		}
	case *eventsapi.TaskOOM:
		if p.service.memory != nil {
			return nil // our own watch has told or will
		}
		p.service.outOfMemory(ctx, e.ContainerID)
	}
	p.queue.put(outgoing{ctx: context.WithoutCancel(ctx), topic: topic, event: event})
	return nil
}

// memoryKill journals and queues what our own watch has found.
func (p *journalPublisher) memoryKill(ctx context.Context, id string) {
	p.service.outOfMemory(ctx, id)
	p.queue.put(outgoing{
		ctx:   namespaces.WithNamespace(context.WithoutCancel(ctx), namespace),
		topic: runtime.TaskOOMEventTopic,
		event: &eventsapi.TaskOOM{ContainerID: id},
	})
}

// Close sends what is queued and closes the connection to the daemon.
func (p *journalPublisher) Close() error {
	p.queue.close()
	return p.Publisher.Close()
}

// eventQueue hands events to one consumer in order. It is not bounded: events
// are few and the shim must not wait.
type eventQueue struct {
	mu     sync.Mutex
	items  []outgoing
	wake   chan struct{}
	ended  chan struct{}
	closed bool
}

func newEventQueue(send func(outgoing)) *eventQueue {
	q := &eventQueue{wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(q.ended)
		for {
			q.mu.Lock()
			items, closed := q.items, q.closed
			q.items = nil
			q.mu.Unlock()
			for _, item := range items {
				send(item)
			}
			if closed && len(items) == 0 {
				return
			}
			if len(items) == 0 {
				<-q.wake
			}
		}
	}()
	return q
}

func (q *eventQueue) put(item outgoing) {
	q.mu.Lock()
	q.items = append(q.items, item)
	q.mu.Unlock()
	q.signal()
}

func (q *eventQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
	<-q.ended
}

func readAnnotations(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(file).Decode(&spec); err != nil {
		return nil, errors.Join(fmt.Errorf("reading %s", path), err)
	}
	return spec.Annotations, nil
}

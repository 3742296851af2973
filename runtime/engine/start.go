package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"tarima/runtime/container"
)

// cleanupTimeout bounds the removal of what a failed start has made.
const cleanupTimeout = 30 * time.Second

// createTimeout bounds the making of a process. It takes a twentieth of a second;
// a shim that does not answer must not hold up everything for ever.
const createTimeout = 2 * time.Minute

// Start makes a container from its spec and starts it. A container of that
// name that has ended, or that a crash left half-made, is replaced; one that
// runs gives ErrRunning and is not touched. attach is called with the process
// whose network namespace is to be furnished, before the container's own
// program begins; without attach it has a loopback interface only.
//
// When anything fails, attach included, nothing of the container stays but its
// log.
func (e *Engine) Start(ctx context.Context, spec container.Spec, attach func(pid int) error) (container.Status, error) {
	if err := validate(&spec); err != nil {
		return container.Status{}, err
	}
	id := spec.ID()
	ctx = e.contextFor(ctx)
	unlock, err := e.work.take(ctx, id)
	if err != nil {
		return container.Status{}, err
	}
	defer unlock()

	process, err := e.process(ctx, id)
	if err != nil {
		return container.Status{}, err
	}
	if isAlive(process) {
		return container.Status{}, fmt.Errorf("%w: %s, process %d", ErrRunning, id, process.Pid)
	}
	if err := e.remove(ctx, id); err != nil {
		return container.Status{}, fmt.Errorf("replacing the container %s that has ended: %w", id, err)
	}
	status, err := e.start(ctx, &spec, attach)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return container.Status{}, errors.Join(err, e.remove(ctx, id))
	}
	return status, nil
}

func (e *Engine) start(ctx context.Context, spec *container.Spec, attach func(pid int) error) (container.Status, error) {
	id := spec.ID()
	image, err := e.findImage(ctx, spec.Image)
	if err != nil {
		return container.Status{}, fmt.Errorf("starting %s: %w", id, err)
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return container.Status{}, fmt.Errorf("starting %s: layers of %s: %w", id, spec.Image, err)
	}
	config, err := image.Spec(ctx)
	if err != nil {
		return container.Status{}, fmt.Errorf("starting %s: configuration of %s: %w", id, spec.Image, err)
	}

	record := runRecord{
		Run: newRun(), Site: spec.Site, Name: spec.Name, Image: digestedName(spec.Image, image),
		Labels: maps.Clone(spec.Labels), LogFile: e.logFile(spec.Site, spec.Name),
		StopSignal: stopSignal(spec, config.Config), StopTimeout: spec.StopTimeout, Started: time.Now().UTC(),
		Limits: spec.Limits, IDBase: spec.IDBase, Hostname: hostname(spec), Addresses: spec.Addresses,
	}
	plan := &blueprint{spec: spec, image: config.Config, host: e.host, cgroupRoot: e.cfg.Cgroup, userns: spec.IDBase != 0}
	if plan.userns {
		if err := e.host.userns(); err != nil {
			plan.userns = false
			plan.reduce("no user namespace: %v", err)
		}
	}

	snapshot := id + "-" + record.Run
	if err := e.makeRoot(ctx, snapshot, id, identity.ChainID(layers).String(), plan); err != nil {
		return container.Status{}, fmt.Errorf("starting %s: root file system: %w", id, err)
	}
	mounts := func() ([]mount.Mount, error) {
		return e.client.SnapshotService(snapshotter).Mounts(ctx, snapshot)
	}
	user := spec.User
	if user == "" {
		user = config.Config.User
	}
	if plan.user, err = e.user(ctx, spec, user, mounts); err != nil {
		return container.Status{}, err
	}
	if plan.files, err = e.writeFiles(record, spec); err != nil {
		return container.Status{}, err
	}
	if err := plan.build(); err != nil {
		return container.Status{}, err
	}
	record.Reduced = plan.reduced
	e.annotate(plan, spec, record)

	if err := e.makeContainer(ctx, id, snapshot, image.Name(), plan, record); err != nil {
		return container.Status{}, fmt.Errorf("starting %s: %w", id, err)
	}
	if err := e.run(ctx, id, attach); err != nil {
		return container.Status{}, fmt.Errorf("starting %s: %w", id, err)
	}
	return e.statusOf(ctx, id)
}

// run creates the process, has its network furnished and lets it go.
func (e *Engine) run(ctx context.Context, id string, attach func(pid int) error) error {
	c, err := e.client.LoadContainer(ctx, id)
	if err != nil {
		return err
	}
	// The shim replaces the empty output by its log.
	creation, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	task, err := c.NewTask(creation, cio.NullIO)
	if err != nil {
		return err
	}
	if attach != nil {
		if err := attach(int(task.Pid())); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	return task.Start(ctx)
}

// digestedName is the reference with the digest of what really runs.
func digestedName(ref string, image containerd.Image) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	digested, err := reference.WithDigest(named, image.Target().Digest)
	if err != nil {
		return ref
	}
	return digested.String()
}

func stopSignal(spec *container.Spec, image ocispec.ImageConfig) string {
	switch {
	case spec.StopSignal != "":
		return spec.StopSignal
	case image.StopSignal != "":
		return image.StopSignal
	}
	return "SIGTERM"
}

// makeRoot makes the container's root file system: a writable layer over the
// image's, whose ids are shifted by the kernel and not on disk. The label
// keeps it from the garbage collector until the container refers to it.
func (e *Engine) makeRoot(ctx context.Context, snapshot, id, parent string, plan *blueprint) error {
	opts := []snapshots.Opt{snapshots.WithLabels(map[string]string{
		labelContainer:          id,
		"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339),
	})}
	if plan.userns {
		base := plan.spec.IDBase
		opts = append(opts, containerd.WithRemapperLabels(0, base, 0, base, userRange))
	}
	_, err := e.client.SnapshotService(snapshotter).Prepare(ctx, snapshot, parent, opts...)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %s is not unpacked", ErrNoImage, plan.spec.Image)
	}
	return err
}

// annotate tells the shim what to do for this container.
func (e *Engine) annotate(plan *blueprint, spec *container.Spec, record runRecord) {
	plan.oci.Annotations[annotationGroup] = spec.Site + "/" + string(spec.Group)
	plan.oci.Annotations[annotationRun] = record.Run
	plan.oci.Annotations[annotationExit] = e.exitFile(spec.ID())
	plan.oci.Annotations[annotationLog] = record.LogFile
	plan.oci.Annotations[annotationLogFile] = strconv.FormatInt(spec.Log.File, 10)
	plan.oci.Annotations[annotationLogTotal] = strconv.FormatInt(spec.Log.Total, 10)
}

// makeContainer writes the container into containerd's database. From here on
// the snapshot has an owner.
func (e *Engine) makeContainer(ctx context.Context, id, snapshot, image string, plan *blueprint, record runRecord) error {
	oci, err := typeurl.MarshalAny(plan.oci)
	if err != nil {
		return err
	}
	runtimeOptions := &options.Options{
		BinaryName:    e.cfg.Runtime,
		Root:          filepath.Join(e.cfg.State, "runc"),
		SystemdCgroup: e.host.systemd,
	}
	if plan.userns {
		runtimeOptions.IoUid, runtimeOptions.IoGid = plan.spec.IDBase, plan.spec.IDBase
	}
	runtimeAny, err := typeurl.MarshalAny(runtimeOptions)
	if err != nil {
		return err
	}
	extension, err := record.any()
	if err != nil {
		return err
	}
	_, err = e.client.ContainerService().Create(ctx, containers.Container{
		ID:          id,
		Image:       image,
		Labels:      map[string]string{container.LabelSite: record.Site, container.LabelName: record.Name, labelRun: record.Run},
		Runtime:     containers.RuntimeInfo{Name: e.shim, Options: runtimeAny},
		Spec:        &anypb.Any{TypeUrl: oci.GetTypeUrl(), Value: oci.GetValue()},
		SnapshotKey: snapshot,
		Snapshotter: snapshotter,
		Extensions:  map[string]typeurl.Any{recordName: extension},
	})
	return err
}

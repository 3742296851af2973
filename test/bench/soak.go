package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"tarima/supervisor"
	"tarima/supervisor/control"
)

const (
	soakServices = 12
	// soakWarm is left out of the comparison: buffers and tables reach the size
	// that they keep.
	soakWarm  = time.Minute
	soakEvery = 10 * time.Second
)

// reading is one look at the daemon.
type reading struct{ heap, goroutines, files, memory float64 }

// soak runs twelve services with probes, kills one of them every ten seconds,
// and compares the daemon's heap, goroutines and open files in the first
// quarter of the time with those in the last.
func (b *bench) soak(ctx context.Context, length time.Duration) (err error) {
	if length < 4*soakWarm {
		return fmt.Errorf("a soak of less than %s says nothing", 4*soakWarm)
	}
	desired := filepath.Join(b.root, "desired.json")
	if err := writeSoak(desired); err != nil {
		return err
	}
	a, err := b.appliance("o", "-archive", b.archive, "-desired", desired, "-quiet", "1s")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.stop()) }()
	if _, err := a.collect(time.Minute, "started", soakServices); err != nil {
		return err
	}
	client := control.NewClient(filepath.Join(a.root, "run"))
	var all []reading
	kills, restarted := 0, 0
	for end := time.Now().Add(length); time.Now().Before(end); {
		if err := pause(ctx, soakEvery); err != nil {
			return err
		}
		r, err := look(a)
		if err != nil {
			return err
		}
		all = append(all, r)
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		restarted = 0
		for _, s := range status.Services {
			restarted += s.Restarts
		}
		victim := status.Services[kills%len(status.Services)]
		if victim.PID != 0 {
			_ = syscall.Kill(victim.PID, syscall.SIGKILL) // it may have ended
		}
		kills++
		if len(all)%6 == 0 {
			fmt.Fprintf(b.out, "  %s: heap %.2f MiB, %.0f goroutines, %.0f files, daemon and shims %.1f MiB PSS, %d restarts, load average %s\n",
				time.Now().UTC().Format("15:04:05"), r.heap/mib, r.goroutines, r.files, r.memory/mib, restarted, loadAverage())
		}
	}
	settled := all[int(soakWarm/soakEvery):]
	quarter := len(settled) / 4
	first, last := middle(settled[:quarter]), middle(settled[len(settled)-quarter:])
	name := fmt.Sprintf("over %s, %d kills, %d restarts: ", length, kills, restarted)
	b.add(figure{Name: name + "heap in use after a collection", Value: last.heap / mib, Unit: "MiB"}.by("first quarter", first.heap/mib).ratioAtMost(1.1))
	b.add(figure{Name: name + "goroutines", Value: last.goroutines, Unit: ""}.by("first quarter", first.goroutines).ratioAtMost(1.1))
	b.add(figure{Name: name + "open files", Value: last.files, Unit: ""}.by("first quarter", first.files).ratioAtMost(1.1))
	b.add(figure{Name: name + "daemon and shims", Value: last.memory / mib, Unit: "MiB PSS"}.by("first quarter", first.memory/mib).ratioAtMost(1.1))
	b.table()
	return nil
}

// writeSoak writes a desired state of twelve web servers that are probed every
// two seconds.
func writeSoak(path string) error {
	desired := supervisor.Desired{Site: "default"}
	for i := range soakServices {
		spec := idleSpec(fmt.Sprint("web", i), i)
		spec.Entrypoint = []string{"/bin/httpd", "-f", "-p", "8080", "-h", "/www"}
		probe := &supervisor.Probe{Kind: supervisor.ProbeHTTP, Port: 8080, Path: "/index.html", Interval: 2 * time.Second}
		desired.Services = append(desired.Services, supervisor.Service{
			Spec: spec, Ports: []uint16{8080},
			Probes: supervisor.Probes{Startup: probe, Readiness: probe, Liveness: probe},
		})
	}
	return writeDesired(path, desired)
}

// look asks the daemon and the kernel.
func look(a *appliance) (reading, error) {
	pid := a.cmd.Process.Pid
	if err := a.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return reading{}, err
	}
	m, err := a.next(30*time.Second, func(m mark) bool { return m.What == "figures" })
	if err != nil {
		return reading{}, err
	}
	files, err := openFiles(pid)
	if err != nil {
		return reading{}, err
	}
	list, err := a.processes()
	if err != nil {
		return reading{}, err
	}
	memory, err := total(list)
	return reading{heap: float64(m.Heap), goroutines: float64(m.Goroutines), files: float64(files), memory: memory}, err
}

// middle is the median of each figure.
func middle(list []reading) reading {
	var heap, goroutines, files, memory samples
	for _, r := range list {
		heap = append(heap, r.heap)
		goroutines = append(goroutines, r.goroutines)
		files = append(files, r.files)
		memory = append(memory, r.memory)
	}
	return reading{heap: heap.median(), goroutines: goroutines.median(), files: files.median(), memory: memory.median()}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"time"
)

const (
	idleConnections = 1000
	slowConnections = 5000
	slowBytes       = 5 << 20 // of each slow reader's answer
	slowPhones      = 50
	phonePage       = 4 << 20

	kibInMB = 1024.0 / 1e6
)

// memory is what connections cost that do little, and how many workers of the
// application slow readers occupy.
func (d *door) memory(ctx context.Context) error {
	idle, all, kept, slow, busy := map[string]samples{}, map[string]samples{}, map[string]samples{}, map[string]samples{}, map[string]samples{}
	names := []string{ourName, "nginx", "HAProxy", "Caddy"}
	// Once: 24,000 connections, and they do not depend on the machine's load.
	for _, name := range names {
		if err := d.occupy(name, idle, all, kept, slow, busy); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, one := range []struct {
		title, unit string
		of          map[string]samples
		goal        float64 // 0: none
	}{
		{"door, memory idle", "MB PSS", idle, 15},
		{fmt.Sprintf("door, memory with %d idle connections in all", idleConnections), "MB PSS", all, 50},
		{fmt.Sprintf("door, memory of each of %d idle connections", idleConnections), "KiB", kept, 0},
		{fmt.Sprintf("door, memory of each of %d slow readers", slowConnections), "KiB", slow, 0},
		{fmt.Sprintf("door, workers still busy with %d slow readers of %d MB", slowPhones, phonePage>>20), "workers", busy, 0},
	} {
		for i, name := range names[1:] {
			f := figure{Name: one.title + ", beside " + name, Value: one.of[ourName].median(), Unit: one.unit, Spread: one.of[ourName].spread()}.by(name, one.of[name].median())
			if one.of[name].median() == 0 {
				f.Ratio = nil
			}
			if i == 0 && (one.goal > 0 || one.unit == "workers") {
				f = f.atMost(one.goal)
			}
			d.add(f)
		}
	}
	return nil
}

func (d *door) start(name string, args ...string) (*contender, error) {
	if name == ourName {
		return d.startOurs(args...)
	}
	return d.startPeer(name)
}

// occupy measures one contender, started anew.
func (d *door) occupy(name string, idle, all, kept, slow, busy map[string]samples) (err error) {
	c, err := d.start(name, "-connections", strconv.Itoa(2*slowConnections))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	time.Sleep(2 * time.Second) // it settles
	before, err := c.memory()
	if err != nil {
		return err
	}
	idle[name] = append(idle[name], before*kibInMB)
	if err := d.crowd(c, idleConnections, false, "/bytes/1024", func() error {
		now, err := c.memory()
		all[name] = append(all[name], now*kibInMB)
		kept[name] = append(kept[name], (now-before)/idleConnections)
		return err
	}); err != nil {
		return err
	}
	if err := d.crowd(c, slowPhones, true, "/worker/"+strconv.Itoa(phonePage), func() error {
		n, err := busyWorkers()
		busy[name] = append(busy[name], n)
		return err
	}); err != nil {
		return err
	}
	return d.crowd(c, slowConnections, true, "/bytes/"+strconv.Itoa(slowBytes), func() error {
		now, err := c.memory()
		slow[name] = append(slow[name], (now-before)/slowConnections)
		return err
	})
}

// crowd opens connections, measures when all have had a moment, and closes
// them.
func (d *door) crowd(c *contender, many int, slow bool, path string, measure func() error) (err error) {
	dir, err := d.folder("clients")
	if err != nil {
		return err
	}
	crowd, err := program(dir, &struct{ Open int }{}, filepath.Join(d.root, "bench-door"), "clients", "-to", c.https,
		"-clients", strconv.Itoa(many), "-slow="+strconv.FormatBool(slow), "-path", path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.stop()) }()
	time.Sleep(3 * time.Second)
	return measure()
}

// busyWorkers asks the application server.
func busyWorkers() (float64, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + doorUpstream + "/workers")
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(string(text), 64)
}

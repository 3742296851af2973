package main

import (
	"context"
	_ "embed"
	"errors"
	"net/http"
	"path/filepath"
	"time"
)

//go:embed django.py
var djangoPage string

const (
	djangoAddress = "127.0.0.1:9001"
	djangoPages   = 100 // of each round
)

// django is what our proxy adds to a page that Django makes.
func (d *door) django(ctx context.Context) (err error) {
	dir, err := d.folder("django")
	if err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "page.py"), djangoPage); err != nil {
		return err
	}
	app, err := program(dir, nil, "/usr/bin/gunicorn", "--bind", djangoAddress, "--worker-class", "gthread", "--workers", "1", "--threads", "1", "--keep-alive", "75", "--timeout", "300", "--chdir", dir, "page:application")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, app.stop()) }()
	client := &http.Client{Timeout: 10 * time.Second}
	if err := poll(30*time.Second, "Django answers", func() error {
		return page(client, "http://"+djangoAddress+"/courses/1", http.StatusOK)
	}); err != nil {
		return err
	}
	ours, err := d.startOurs()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	s := d.snapshot()
	s.Hosts[0].Upstream = djangoAddress
	if err := d.route(ours.dir, s); err != nil {
		return err
	}
	d.application, d.firstPath = djangoAddress, "/courses/1"
	defer func() { d.application, d.firstPath = doorUpstream, "/bytes/1024" }()
	nginx, err := d.startPeer("nginx")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, nginx.stop()) }()
	through, around := visitor(ours.https), visitor(nginx.https)
	for _, c := range []*http.Client{through, around} {
		c.Transport.(*http.Transport).DisableKeepAlives = false
		defer c.CloseIdleConnections()
	}
	defer client.CloseIdleConnections()
	var cost, wait, own pairs // in ms: of Django with the proxy, and of Django; of the proxy, and of nginx
	for range d.rounds {
		app0, err0 := app.cpu()
		ours0, err1 := ours.cpu()
		nginx0, err4 := nginx.cpu()
		near, far := samples{}, samples{}
		for range djangoPages {
			began := time.Now()
			if err := page(client, "http://"+djangoAddress+"/courses/1", http.StatusOK); err != nil {
				return err
			}
			near = append(near, milliseconds(time.Since(began)))
			began = time.Now()
			if err := page(through, "https://localhost/courses/1", http.StatusOK); err != nil {
				return err
			}
			far = append(far, milliseconds(time.Since(began)))
			if err := page(around, "https://localhost/courses/1", http.StatusOK); err != nil {
				return err
			}
		}
		app1, err2 := app.cpu()
		ours1, err3 := ours.cpu()
		nginx1, err5 := nginx.cpu()
		if err := errors.Join(err0, err1, err2, err3, err4, err5); err != nil {
			return err
		}
		own.add((ours1-ours0)*1000/djangoPages, (nginx1-nginx0)*1000/djangoPages)
		// Django made three times as many pages as each proxy passed on.
		alone := (app1 - app0) * 1000 / (3 * djangoPages)
		cost.add(alone+(ours1-ours0)*1000/djangoPages, alone)
		wait.add(far.median(), near.median())
	}
	f := cost.figure("door, a page of Django through it: processor time", "ms", "without it").ratioAtMost(1.01)
	f.Note = "the page is a course outline of 480 units, without a database; a real one takes longer"
	d.add(f)
	d.add(own.figure("door, a page of Django through it: processor time of the proxy", "ms", "nginx"))
	f = wait.figure("door, a page of Django through it: time to the last byte", "ms", "without it")
	f.Note = "with TLS, beside without"
	d.add(f)
	return nil
}

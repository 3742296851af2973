package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"tarima/proxy"
	"tarima/proxy/routes"
	"tarima/supervisor/site"
)

const (
	// certificateEvery is how often the files that the site file names are
	// looked at.
	certificateEvery = 30 * time.Second
	maxCertificate   = 256 << 10 // bytes of a file
)

// certificateFiles are those that the applied site file names.
func (a *appliance) certificateFiles() map[string]site.Certificate {
	a.wishes.mu.Lock()
	defer a.wishes.mu.Unlock()
	return a.wishes.config.Proxy.Certificates
}

// importer is the proxy as far as certificates of one's own go.
type importer interface {
	ImportCertificate(ctx context.Context, name string, pair routes.CertificatePair) (routes.CertificateState, error)
	ForgetCertificate(ctx context.Context, name string) error
	ImportedCertificates(ctx context.Context) (map[string]string, error)
}

// certificateWatch brings certificates that the site file names to the proxy,
// which cannot read them itself, whenever they change.
type certificateWatch struct {
	files func() map[string]site.Certificate
	proxy importer
	log   *slog.Logger

	sent    map[string][sha256.Size]byte // what the proxy has, or refused
	trouble map[string]string            // told already, by name
}

// run until ctx ends.
func (w *certificateWatch) run(ctx context.Context) {
	tick := time.NewTicker(certificateEvery)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look once. What fails is tried again at the next look.
func (w *certificateWatch) look(ctx context.Context) {
	if w.sent == nil {
		w.sent, w.trouble = map[string][sha256.Size]byte{}, map[string]string{}
	}
	wanted := w.files()
	have, err := w.proxy.ImportedCertificates(ctx)
	if err != nil {
		return // no proxy: the supervisor tells of that
	}
	for name, origin := range have {
		if _, stays := wanted[name]; origin == routes.OriginFile && !stays {
			w.tell(name, w.proxy.ForgetCertificate(ctx, name))
			delete(w.sent, name)
		}
	}
	for name, c := range wanted {
		w.tell(name, w.bring(ctx, name, c, have[name] == routes.OriginFile))
	}
}

// bring one certificate, unless the proxy has it.
func (w *certificateWatch) bring(ctx context.Context, name string, c site.Certificate, there bool) error {
	chain, err := readBounded(c.Cert)
	if err != nil {
		return err
	}
	key, err := readBounded(c.Key)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(append(append(append([]byte{}, chain...), 0), key...))
	if was, ok := w.sent[name]; ok && was == sum && there {
		return nil
	}
	_, err = w.proxy.ImportCertificate(ctx, name, routes.CertificatePair{Chain: string(chain), Key: routes.Secret(key), Origin: routes.OriginFile})
	if err != nil {
		return err
	}
	w.sent[name] = sum
	w.log.Info("a certificate of the site file is in place", "name", name, "file", c.Cert)
	return nil
}

// tell of trouble with a name, once.
func (w *certificateWatch) tell(name string, err error) {
	if err == nil {
		delete(w.trouble, name)
		return
	}
	var refused *proxy.CertificateProblem
	if w.trouble[name] == err.Error() || errors.As(err, &refused) && refused.Code == proxy.CodeNotFound && w.trouble[name] == "" {
		// A name that the proxy does not know yet will be there with the
		// next routes.
		w.trouble[name] = err.Error()
		return
	}
	w.trouble[name] = err.Error()
	w.log.Error("a certificate of the site file is not used; the one before stays", "name", name, "error", err)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxCertificate+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxCertificate {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxCertificate)
	}
	return data, nil
}

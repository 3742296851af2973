package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// resumes says whether a client with these sessions resumes one.
func resumes(t *testing.T, tickets *Tickets, a *Authority, sessions tls.ClientSessionCache) bool {
	t.Helper()
	server, client := net.Pipe()
	done := make(chan error, 1)
	go func() {
		c := tls.Server(server, &tls.Config{GetCertificate: a.GetCertificate, WrapSession: tickets.Wrap, UnwrapSession: tickets.Unwrap})
		_, err := io.WriteString(c, "x") // the ticket goes along
		_ = c.Close()
		done <- err
	}()
	pool := x509.NewCertPool()
	pool.AddCert(a.Root())
	c := tls.Client(client, &tls.Config{RootCAs: pool, ServerName: "lms.test", ClientSessionCache: sessions})
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	resumed := c.ConnectionState().DidResume
	_ = c.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return resumed
}

// A session is resumed after a restart and for a day, and not for ever.
func TestTickets(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := open(t, filepath.Join(dir, "ca"))
		a.SetNames([]string{"lms.test"})
		tickets := OpenTickets(dir, quiet())
		sessions := func() tls.ClientSessionCache { return tls.NewLRUClientSessionCache(4) }
		visitor, away := sessions(), sessions()
		if resumes(t, tickets, a, visitor) {
			t.Error("resumed from nothing")
		}
		resumes(t, tickets, a, away)
		tickets.Close()
		tickets = OpenTickets(dir, quiet())
		if !resumes(t, tickets, a, visitor) {
			t.Error("not resumed after a restart")
		}
		<-time.After(25 * time.Hour)
		if !resumes(t, tickets, a, visitor) {
			t.Error("not resumed after a day")
		}
		<-time.After(12 * time.Hour)
		if resumes(t, tickets, a, away) {
			t.Error("a session of a day and a half ago is resumed")
		}
		if len(tickets.keys) != ticketKeys {
			t.Errorf("%d keys", len(tickets.keys))
		}
		info, err := os.Stat(filepath.Join(dir, ticketFile))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("file: %v, %v", info, err)
		}
		tickets.Close()
		// Damage and clocks from another time cost new sessions, no more.
		for name, text := range map[string]string{
			"zeros": "\x00\x00\x00", "short key": `[{"made":"2000-01-01T00:00:00Z","key":"AAAA"}]`,
			"future": `[{"made":"2099-01-01T00:00:00Z","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]`,
		} {
			if err := os.WriteFile(filepath.Join(dir, ticketFile), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			tickets = OpenTickets(dir, quiet())
			fresh := sessions()
			resumes(t, tickets, a, fresh)
			if len(tickets.keys) != 1 || !resumes(t, tickets, a, fresh) {
				t.Errorf("%s: %d keys", name, len(tickets.keys))
			}
			tickets.Close()
		}
	})
}

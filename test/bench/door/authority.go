package main

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// authority is Pebble, an ACME authority for tests, with a name server of its
// own for which every name is here. It tells where its directory is and puts
// the certificate that vouches for it into a file.
func authority(ctx context.Context, args []string) error {
	f := flags("authority")
	httpPort := f.Int("http", 80, "port that is asked for HTTP-01")
	tlsPort := f.Int("tls", 443, "port that is asked for TLS-ALPN-01")
	vouch := f.String("vouch", "", "file for the certificate")
	_ = f.Parse(args) // it exits itself
	names, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &dns.Server{Listener: names, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if question := q.Question[0]; question.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1),
			})
		}
		_ = w.WriteMsg(m) // the asker is free to go away
	})}
	go func() { _ = server.ActivateAndServe() }() // until the process ends
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	validator := va.New(quiet, *httpPort, *tlsPort, true, names.Addr().String(), store)
	// It asks for 3 s between two looks at an authorization and 5 s at an
	// order, as Pebble does by itself.
	front := wfe.New(quiet, store, validator, issuer, []string{"pebble.test"}, true, false, 3, 5)
	s := httptest.NewTLSServer(front.Handler())
	defer s.Close()
	if err := os.WriteFile(*vouch, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		return err
	}
	if err := tell(map[string]string{"directory": strings.TrimSuffix(s.URL, "/") + wfe.DirectoryPath}); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

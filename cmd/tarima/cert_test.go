package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarima/proxy"
	"tarima/proxy/certs"
	"tarima/proxy/routes"
	"tarima/supervisor/control"
	"tarima/supervisor/site"
)

// imported is a proxy as far as certificates of one's own go.
type imported struct {
	have   map[string]routes.CertificatePair
	refuse error
	calls  int
}

func (p *imported) ImportCertificate(_ context.Context, name string, pair routes.CertificatePair) (routes.CertificateState, error) {
	p.calls++
	if p.refuse != nil {
		return routes.CertificateState{}, p.refuse
	}
	p.have[name] = pair
	return routes.CertificateState{}, nil
}

func (p *imported) ForgetCertificate(_ context.Context, name string) error {
	delete(p.have, name)
	return nil
}

func (p *imported) ImportedCertificates(context.Context) (map[string]string, error) {
	all := map[string]string{}
	for name, pair := range p.have {
		all[name] = pair.Origin
	}
	return all, nil
}

// Files of the site file reach the proxy when they change, and only then.
func TestCertificateFilesAreBrought(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := map[string]site.Certificate{"lms.test": {Cert: write("c", "chain 1"), Key: write("k", "key 1")}}
	p := &imported{have: map[string]routes.CertificatePair{"cms.test": {Chain: "by hand", Origin: routes.OriginImported}}}
	var logs bytes.Buffer
	w := certificateWatch{files: func() map[string]site.Certificate { return maps.Clone(files) }, proxy: p, log: slog.New(slog.NewTextHandler(&logs, nil))}
	look := func(want string, calls int) {
		t.Helper()
		w.look(t.Context())
		if got := p.have["lms.test"]; got.Chain != want || p.calls != calls || want != "" && got.Origin != routes.OriginFile {
			t.Errorf("%+v after %d calls, want %q after %d", got, p.calls, want, calls)
		}
	}
	look("chain 1", 1)
	look("chain 1", 1)
	write("c", "chain 2")
	look("chain 2", 2)
	// A proxy that lost it gets it again.
	delete(p.have, "lms.test")
	look("chain 2", 3)
	// What is refused is told once, and tried again.
	p.refuse = &proxy.CertificateProblem{Code: proxy.CodeInvalid, Message: "ran out"}
	write("c", "chain 3")
	look("chain 2", 4)
	look("chain 2", 5)
	if n := strings.Count(logs.String(), "ran out"); n != 1 {
		t.Errorf("told %d times:\n%s", n, logs.String())
	}
	p.refuse = nil
	look("chain 3", 6)
	// An unreadable file leaves what is there.
	if err := os.Remove(files["lms.test"].Key); err != nil {
		t.Fatal(err)
	}
	look("chain 3", 6)
	if !strings.Contains(logs.String(), "no such file") || strings.Contains(logs.String(), "key 1") {
		t.Errorf("log:\n%s", logs.String())
	}
	delete(files, "lms.test")
	look("", 6)
	if _, ok := p.have["cms.test"]; !ok {
		t.Error("one that was imported by hand is gone")
	}
}

func TestCertificateErrors(t *testing.T) {
	for code, want := range map[string]control.Code{
		proxy.CodeNotFound: control.CodeNotFound, proxy.CodeInvalid: control.CodeInvalid,
		proxy.CodeConflict: control.CodeConflict, proxy.CodeFailed: control.CodeConflict,
	} {
		var p *control.Problem
		if err := certificateError(&proxy.CertificateProblem{Code: code, Message: "100% wrong"}); !errors.As(err, &p) || p.Code != want || p.Message != "100% wrong" {
			t.Errorf("%s: %v", code, err)
		}
	}
	if err := certificateError(nil); err != nil {
		t.Error(err)
	}
}

// Every code of a check has its sentence in both languages, with every place
// filled.
func TestFindingsAreTranslated(t *testing.T) {
	args := map[string]string{}
	for _, name := range []string{"Name", "Address", "Error", "Status", "At", "Records", "Authority", "Off"} {
		args[name] = "<" + name + ">"
	}
	for _, language := range languages {
		text, err := newText([]string{"--lang=" + language}, environment)
		if err != nil {
			t.Fatal(err)
		}
		c := &cli{text: text}
		for _, code := range []string{
			certs.FindGood, certs.FindNoName, certs.FindNoAddress, certs.FindNoAnswer, certs.FindPrivate, certs.FindForeign, certs.FindRefused,
			certs.FindUnreachable, certs.FindStranger, certs.FindCAA, certs.FindClockOff, certs.FindClockWrong, certs.FindAuthority,
			certs.FindLocalName, certs.FindOwn,
		} {
			got := c.findingText(routes.CertificateFinding{Code: code, Name: "lms.test", Args: args, Text: "not translated"})
			if got == "not translated" || strings.Contains(got, "no value") || strings.Contains(got, "{{") {
				t.Errorf("%s, %s: %q", language, code, got)
			}
		}
		if got := c.findingText(routes.CertificateFinding{Code: "of-a-later-version", Text: "in English"}); got != "in English" {
			t.Errorf("unknown code: %q", got)
		}
	}
}

func TestCertificateList(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	states := []routes.CertificateState{
		{Name: "lms.test", Phase: routes.CertificateInPlace, Origin: routes.OriginACME, Issuer: "R10", NotAfter: now.Add(60*24*time.Hour + time.Hour)},
		{Name: "cms.test", Phase: routes.CertificateFailed, LastError: "dns: no such name", NextAttempt: now.Add(5 * time.Minute)},
		{Name: "own.test", Phase: routes.CertificateInPlace, Origin: routes.OriginFile, Issuer: "School", NotAfter: now.Add(90 * 24 * time.Hour)},
	}
	for language, want := range map[string][]string{
		"en": {"lms.test  in place", "(60 days)", "R10", "failed", "dns: no such name (next try in 5m)", "School (your own, from the site file)"},
		"es": {"lms.test  puesto", "(60 días)", "fallido", "School (propio, del archivo del sitio)"},
	} {
		text, err := newText([]string{"--lang=" + language}, environment)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		c := &cli{text: text, out: &out, err: io.Discard}
		c.writeCertificates(states, now)
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in:\n%s", language, w, out.String())
			}
		}
		if lines := strings.Count(out.String(), "\n"); lines != 4 {
			t.Errorf("%d lines", lines)
		}
		for _, s := range states {
			s.Budget = &routes.CertificateBudget{Domain: "test", SameLimit: 5}
			c.writeCertificate(s)
		}
		if strings.Contains(out.String(), "cert.") || strings.Contains(out.String(), "<no value>") {
			t.Errorf("a text is missing:\n%s", out.String())
		}
	}
}

// The root goes where the system keeps such, and its command is run.
func TestInstallRoot(t *testing.T) {
	below, bin := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin)
	if _, err := installRoot(t.Context(), below, []byte("root")); err == nil {
		t.Error("a system without a trust store")
	}
	for dir, program := range map[string]string{"/usr/local/share/ca-certificates": "update-ca-certificates", "/etc/pki/ca-trust/source/anchors": "update-ca-trust"} {
		if err := os.MkdirAll(filepath.Join(below, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		ran := filepath.Join(bin, program+".ran")
		if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n: > "+ran+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		file, err := installRoot(t.Context(), below, []byte("root"))
		if err != nil || file != filepath.Join(below, dir, trustedName) {
			t.Fatalf("%s, %v", file, err)
		}
		if data, err := os.ReadFile(file); err != nil || string(data) != "root" {
			t.Errorf("%q, %v", data, err)
		}
		if _, err := os.Stat(ran); err != nil {
			t.Errorf("%s did not run: %v", program, err)
		}
		if err := os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\necho wrong >&2; exit 3\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := installRoot(t.Context(), below, []byte("root")); err == nil || !strings.Contains(err.Error(), "wrong") {
			t.Errorf("its failure: %v", err)
		}
		if err := os.Remove(filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDoctorTellsOfCertificates(t *testing.T) {
	found := certificateTrouble([]routes.CertificateState{
		{Name: "good.test", Phase: routes.CertificateInPlace},
		{Name: "waiting.test", Phase: routes.CertificateWaiting},
		{Name: "failed.test", Phase: routes.CertificateFailed, LastError: "dns: no such name"},
		{Name: "covered.test", Phase: routes.CertificateFailed, Wildcard: "*.test"},
		{Name: "ends.test", Phase: routes.CertificateInPlace, Warning: "runs out"},
		{Name: "late.test", Phase: routes.CertificateInPlace, LastError: "connection refused"},
	})
	var codes []string
	for _, f := range found {
		codes = append(codes, f.Code)
	}
	if got := strings.Join(codes, " "); got != "CERTIFICATE-FAILED CERTIFICATE-ENDS CERTIFICATE-RENEWAL" || found[0].Level != levelError {
		t.Errorf("%s: %+v", got, found)
	}
}

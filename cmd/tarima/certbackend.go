package main

import (
	"context"
	"errors"

	"tarima/proxy"
	"tarima/proxy/routes"
	"tarima/supervisor/control"
)

// The methods here make the appliance a control.Certificates: the proxy has
// the certificates, and is asked.

// certificateError turns what the proxy answers into what crosses the socket.
func certificateError(err error) error {
	var p *proxy.CertificateProblem
	if !errors.As(err, &p) {
		return err
	}
	switch p.Code {
	case proxy.CodeNotFound:
		return control.NotFound("%s", p.Message)
	case proxy.CodeInvalid:
		return control.Invalid(nil, "%s", p.Message)
	default:
		return control.Conflict("%s", p.Message)
	}
}

// Certificates implements control.Certificates.
func (a *appliance) Certificates(ctx context.Context) ([]routes.CertificateState, error) {
	states, err := a.router.Certificates(ctx)
	return states, certificateError(err)
}

// RenewCertificate implements control.Certificates.
func (a *appliance) RenewCertificate(ctx context.Context, name string) (routes.CertificateState, error) {
	state, err := a.router.RenewCertificate(ctx, name)
	return state, certificateError(err)
}

// CheckCertificate implements control.Certificates.
func (a *appliance) CheckCertificate(ctx context.Context, name string) ([]routes.CertificateFinding, error) {
	findings, err := a.router.CheckCertificate(ctx, name)
	return findings, certificateError(err)
}

// ImportCertificate implements control.Certificates.
func (a *appliance) ImportCertificate(ctx context.Context, name string, pair routes.CertificatePair) (routes.CertificateState, error) {
	if file, ok := a.certificateFiles()[name]; ok {
		return routes.CertificateState{}, control.Conflict("the certificate of %s comes from the site file (%s); change it there", name, file.Cert)
	}
	state, err := a.router.ImportCertificate(ctx, name, pair)
	return state, certificateError(err)
}

// ForgetCertificate implements control.Certificates.
func (a *appliance) ForgetCertificate(ctx context.Context, name string) error {
	if file, ok := a.certificateFiles()[name]; ok {
		return control.Conflict("the certificate of %s comes from the site file (%s); take it out there", name, file.Cert)
	}
	return certificateError(a.router.ForgetCertificate(ctx, name))
}

// ExportCertificate implements control.Certificates.
func (a *appliance) ExportCertificate(ctx context.Context, name string) (routes.CertificatePair, error) {
	pair, err := a.router.ExportCertificate(ctx, name)
	return pair, certificateError(err)
}

// certificateFindings are what the doctor says of certificates.
func (a *appliance) certificateFindings(ctx context.Context) []control.Finding {
	states, err := a.router.Certificates(ctx)
	if err != nil {
		return nil // no proxy: others say so
	}
	return certificateTrouble(states)
}

func certificateTrouble(states []routes.CertificateState) []control.Finding {
	var all []control.Finding
	for _, s := range states {
		switch {
		case s.Wildcard != "": // told with the wildcard itself
		case s.Phase == routes.CertificateFailed:
			all = append(all, finding("CERTIFICATE-FAILED", levelError, s.Name+" has no certificate: "+s.LastError, "tarima cert check "+s.Name))
		case s.Warning != "":
			all = append(all, finding("CERTIFICATE-ENDS", levelWarning, s.Name+": "+s.Warning, "tarima cert import "+s.Name+" --cert FILE --key FILE"))
		case s.Phase == routes.CertificateInPlace && s.LastError != "":
			all = append(all, finding("CERTIFICATE-RENEWAL", levelWarning, s.Name+" could not be renewed: "+s.LastError, "tarima cert show "+s.Name))
		}
	}
	return all
}

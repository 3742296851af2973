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

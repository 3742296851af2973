package proxy

import "tarima/proxy/routes"

// uncertified answers a visitor by HTTP while the certificate of the name is
// not there yet, and says so: a redirect would lead to a browser's warning.
func (x *exchange) uncertified(name string) bool {
	state, missing := x.s.keeper.Missing(name)
	if !missing {
		return false
	}
	message, after := "certificate", retryWait
	if state.Phase == routes.CertificateFailed {
		message, after = "uncertified", retryDown
		switch state.Problem {
		case "dns", "connection", "caa":
			message += "." + state.Problem
		}
	}
	x.note = "no certificate yet"
	x.later(message, after)
	return true
}

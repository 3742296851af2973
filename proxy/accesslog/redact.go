package accesslog

import "strings"

// secretPaths are followed by what lets somebody in, or speaks for somebody:
// links of mails that reset passwords, activate accounts, confirm addresses or
// end subscriptions (openedx-platform: urls_common.py of user_authn, urls.py of
// student, bulk_email and notifications), and the proxy's own passes.
var secretPaths = []string{
	"/-/pass/",
	"/activate/",
	"/activate_secondary_email/",
	"/api/notifications/preferences/update/",
	"/authn/password_reset_confirm/",
	"/bulk_email/email/optout/",
	"/email_confirm/",
	"/notification_prefs/resubscribe/",
	"/notification_prefs/unsubscribe/",
	"/password/reset/",
	"/password_reset_confirm/",
	"/unsubscribe/",
}

// Hidden stands in place of what is not written.
const Hidden = "[hidden]"

// RedactPath returns a path without what may be a secret in it: what follows
// in links that are sent by mail, and a query that was encoded into it.
func RedactPath(path string) string {
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	clean := path
	for strings.HasPrefix(clean, "//") {
		clean = clean[1:]
	}
	if len(clean) < 2 || strings.IndexByte("-abenpu", clean[1]) < 0 { // none of them begins so
		return path
	}
	for _, p := range secretPaths {
		if len(clean) > len(p) && strings.HasPrefix(clean, p) {
			return p + Hidden
		}
	}
	return path
}

// redactURL leaves scheme, host and path of a URL.
func redactURL(u string) string {
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		u = u[:i]
	}
	begin := 0
	if i := strings.Index(u, "://"); i >= 0 {
		begin = i + 3
	}
	end := len(u)
	if i := strings.IndexByte(u[begin:], '/'); i >= 0 {
		end = begin + i
	}
	path := RedactPath(u[end:])
	// A name and a password in front of the host.
	if i := strings.LastIndexByte(u[begin:end], '@'); i >= 0 {
		return u[:begin] + u[begin+i+1:end] + path
	}
	if path == u[end:] {
		return u
	}
	return u[:end] + path
}

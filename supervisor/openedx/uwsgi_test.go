package openedx

import (
	"strconv"
	"strings"
	"testing"
)

// parseINI reads uWSGI's own form: one section, keys that may repeat.
func parseINI(t *testing.T, text string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			if line != "[uwsgi]" || len(out) > 0 {
				t.Errorf("line %d: section %s", i+1, line)
			}
		default:
			key, value, ok := strings.Cut(line, " = ")
			if !ok || key == "" || value == "" {
				t.Errorf("line %d: %q is not key = value", i+1, line)
			}
			out[key] = append(out[key], value)
		}
	}
	return out
}

// TestUWSGI: what the contract and the house ask of the application server.
func TestUWSGI(t *testing.T) {
	plan := mustBuild(t, testInput(t, nil))
	for variant, harakiri := range map[string]string{"lms": "120", "cms": "300"} {
		ini := parseINI(t, string(fileOf(t, plan, variant+"/web/uwsgi.ini")))
		for key, values := range ini {
			if len(values) > 1 && key != "static-map" {
				t.Errorf("%s: %s is set %d times", variant, key, len(values))
			}
		}
		for key, want := range map[string]string{
			"http": "0.0.0.0:8000", "wsgi-file": "$(SERVICE_VARIANT)/wsgi.py", "processes": "$(UWSGI_WORKERS)",
			"buffer-size": "32768", "max-fd": "16384", "die-on-term": "true", "need-app": "true", "master": "true",
			"lazy-apps": "false", "single-interpreter": "true", "enable-threads": "true", "thunder-lock": "true",
			"http-keepalive": "1", "add-header": "Connection: Keep-Alive", "vacuum": "true", "py-call-osafterfork": "true",
			"hook-master-start": "unix_signal:15 gracefully_kill_them_all",
			"harakiri":          harakiri, "http-timeout": harakiri,
		} {
			if got := ini[key]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", variant, key, got, want)
			}
		}
		maps := strings.Join(ini["static-map"], " ")
		if maps != "/static=/openedx/staticfiles/ /media=/openedx/media/ /-=/openedx/web/public" {
			t.Errorf("%s: static files: %s", variant, maps)
		}
		limit := plan.Sizes.Limits[variant]
		recycle, err := strconv.ParseInt(ini["reload-on-rss"][0], 10, 64)
		if err != nil || recycle*mib >= limit {
			t.Errorf("%s: a process is replaced at %d MiB, the limit of all is %d MiB: %v", variant, recycle, limit/mib, err)
		}
		if got := string(fileOf(t, plan, variant+"/web/public/alive")); got != "ok\n" {
			t.Errorf("%s: the sign of life is %q", variant, got)
		}
	}
}

package site

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const withHost = "[site]\nhost = \"learn.example.org\"\n"

// TestEveryMistakeIsReported gives one mistake at a time and wants exactly one
// problem, at its place, that says what is allowed.
func TestEveryMistakeIsReported(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		// The text itself.
		{"no TOML", "[site\nhost = 1", `1:6: not valid TOML`},
		{"text after a bad character", withHost + "näme = ☃", `3:2: not valid TOML`},
		{"string without an end", "[site]\nhost = \"learn", `not valid TOML`},
		{"key twice", withHost + `host = "b.example.org"`, `3:1: `},
		{"table twice", withHost + "[site]\n", `3:`},
		// Keys.
		{"unknown table", withHost + "[proxies]\n", `3:2: proxies: unknown key; allowed here: site, proxy`},
		{"nearest table", withHost + "[prxoy]\n", `did you mean "proxy"?`},
		{"key without a table", "host = \"learn.example.org\"\n" + withHost, `1:1: host: unknown key; host belongs to [site]`},
		{"key in the wrong table", withHost + "smarthost = \"x.org\"", `3:1: site.smarthost: unknown key; smarthost belongs to [mail]`},
		{"key of a service in the wrong table", withHost + "[proxy]\ncpu_weight = 5", `cpu_weight belongs to [services.NAME]`},
		{"dash for underscore", withHost + "[services.lms]\ncpu-weight = 5", `4:1: services.lms.cpu-weight: unknown key; allowed here: memory, cpu_weight, enabled, env, stop_timeout; did you mean "cpu_weight"?`},
		{"dotted unknown key", withHost + "mail.prot = 5", `3:1: site.mail: unknown key; [mail] is a table of its own`},
		// Types.
		{"text for a table", "site = \"x\"", `1:8: site: is a string; a table is wanted: [site]`},
		{"list for a table", withHost + "[[services]]\n", `3:3: services: is a list; a table is wanted`},
		{"number for text", withHost + "name = 5.5", `3:8: site.name: is a number; a string in quotes is wanted`},
		{"date for text", withHost + "name = 2026-01-01", `3:8: site.name: is a date or time`},
		{"text for true", withHost + "[network]\nipv6 = \"yes\"", `4:8: network.ipv6: is a string; true or false is wanted, without quotes`},
		{"text for a number", withHost + "[size]\ncores = \"2\"", `4:9: size.cores: is a string; a whole number is wanted, without quotes`},
		{"fraction", withHost + "[size]\ncores = 1.5", `size.cores: is a number; a whole number`},
		{"number for a size", withHost + "[size]\nmemory = 4000", `4:10: size.memory: is a whole number; a string with a size, as in "600MB" is wanted`},
		{"number for a duration", withHost + "[proxy]\nhold = 30", `proxy.hold: is a whole number; a string with a duration`},
		{"table in a list of text", withHost + "languages = [\"en\", {}]", `3:20: site.languages[1]: is a table; a string`},
		{"line break", withHost + `name = "a\nb"`, `site.name: holds a control character`},
		{"date in settings", withHost + "[settings.lms]\nFEATURES = { START = 2026-01-01 }", `settings.lms.FEATURES.START: is a date or time; write it as a string`},
		{"no number in settings", withHost + "[settings.lms]\nX = [1, nan]", `settings.lms.X[1]: is not a finite number`},
		// Hosts.
		{"host missing", "[site]\n", `1:2: site.host: is missing`},
		{"all missing", "", `f: site.host: is missing`},
		{"scheme", "[site]\nhost = \"https://learn.example.org\"", `2:8: site.host: "https://learn.example.org" is an address of a page: write the name alone, without "https://"`},
		{"path", "[site]\nhost = \"learn.example.org/x\"", `is more than a host name`},
		{"port", "[site]\nhost = \"learn.example.org:8000\"", `holds a port`},
		{"address", "[site]\nhost = \"192.0.2.7\"", `is an IP address`},
		{"address in brackets", "[site]\nhost = \"[2001:db8::1]\"", `is an IP address`},
		{"wildcard", "[site]\nhost = \"*.example.org\"", `is a wildcard`},
		{"no dot", "[site]\nhost = \"localhost\"", `has no dot`},
		{"underscore", "[site]\nhost = \"my_site.example.org\"", `is not a host name`},
		{"space", "[site]\nhost = \"my site.example.org\"", `is not a host name`},
		{"hyphen first", "[site]\nhost = \"-a.example.org\"", `is not a host name`},
		{"long label", "[site]\nhost = \"" + strings.Repeat("a", 64) + ".org\"", `is not a host name`},
		{"long name", "[site]\nhost = \"" + strings.Repeat("abcdefgh.", 30) + "org\"", `is not a host name`},
		{"number last", "[site]\nhost = \"a.example.12\"", `ends in a number`},
		{"empty label", "[site]\nhost = \"a..org\"", `is not a host name`},
		{"host twice", withHost + "studio = \"LEARN.example.org\"", `3:10: site.studio: "learn.example.org" is already the name of site.host`},
		{"default taken", withHost + "apps = \"studio.learn.example.org\"", `3:8: site.apps: "studio.learn.example.org" is already the name of site.studio`},
		// The rest of [site].
		{"contact", withHost + "contact = \"Ana <ana@example.org>\"", `3:11: site.contact: "Ana <ana@example.org>" is not a mail address`},
		{"language", withHost + "language = \"español\"", `site.language: "español" is not a language tag`},
		{"languages", withHost + "languages = [\"en\", \"xx-!\"]", `3:20: site.languages[1]: "xx-!" is not a language tag`},
		{"language twice", withHost + "languages = [\"en\", \"EN\"]", `"en" is there twice`},
		{"timezone", withHost + "timezone = \"Bogota\"", `"Bogota" is not a time zone's name`},
		{"timezone of the machine", withHost + "timezone = \"Local\"", `no time zone's name`},
		{"release", withHost + "release = \"Ulmo 1\"", `is not a release's name`},
		{"long name of the site", withHost + "name = \"" + strings.Repeat("x", 300) + "\"", `at most 250`},
		// [proxy]
		{"port alone", withHost + "[proxy]\nhttp = \"80\"", `write ":PORT" or "ADDRESS:PORT"`},
		{"port out of range", withHost + "[proxy]\nhttp = \":65536\"", `no valid port: 1 to 65535`},
		{"name to listen on", withHost + "[proxy]\nhttps = \"localhost:443\"", `does not begin with an IP address`},
		{"same port", withHost + "[proxy]\nhttp = \":443\"\nhttps = \":443\"", `5:9: proxy.https: ":443" is already the address of proxy.http`},
		{"same port as the default", withHost + "[proxy]\nhttp = \":443\"", `4:8: proxy.http: ":443" is already the address of proxy.https`},
		{"tls", withHost + "[proxy]\ntls = \"acmee\"", `4:7: proxy.tls: "acmee" is not known; allowed: "local", "acme" or "none"; did you mean "acme"?`},
		{"acme for a local name", "[site]\nhost = \"learn.localhost\"\n[proxy]\ntls = \"acme\"", `4:7: proxy.tls: no public authority certifies names like "learn.localhost"`},
		{"hold too long", withHost + "[proxy]\nhold = \"1h\"", `"0s" (do not wait) to "10m"`},
		{"hold negative", withHost + "[proxy]\nhold = \"-1s\"", `"0s" (do not wait) to "10m"`},
		{"hold without a unit", withHost + "[proxy]\nhold = \"30\"", `"30" is not a duration`},
		// [network]
		{"range without bits", withHost + "[network]\nrange4 = \"10.0.0.0\"", `is not an address range: write ADDRESS/BITS`},
		{"range of the other kind", withHost + "[network]\nrange4 = \"fd00::/64\"", `is not an IPv4 range`},
		{"range too small", withHost + "[network]\nrange4 = \"10.0.0.0/30\"", `/30 is not allowed: /16 to /26`},
		{"range with host bits", withHost + "[network]\nrange4 = \"10.0.0.5/24\"", `did you mean 10.0.0.0/24?`},
		{"public range", withHost + "[network]\nrange4 = \"8.8.8.0/24\"", `is a public range`},
		{"public range 6", withHost + "[network]\nrange6 = \"2001:db8::/64\"", `choose one within fd00::/8`},
		{"range 6 too large", withHost + "[network]\nrange6 = \"fd00::/48\"", `a /64 is wanted`},
		{"range 6 that is 4", withHost + "[network]\nrange6 = \"10.0.0.0/24\"", `is not an IPv6 range`},
		{"range 6 with host bits", withHost + "[network]\nrange6 = \"fd00::1/64\"", `did you mean fd00::/64?`},
		{"range 6 without IPv6", withHost + "[network]\nipv6 = false\nrange6 = \"fd00::/64\"", `contradicts ipv6 = false`},
		// [engine], [images]
		{"relative socket", withHost + "[engine]\nsocket = \"run/containerd.sock\"", `is not an absolute path`},
		{"path that climbs", withHost + "[engine]\nruntime = \"/usr/../crun\"", `in its shortest form`},
		{"mirror without a scheme", withHost + "[images.mirrors]\n\"docker.io\" = [\"mirror.example.org\"]", `4:16: images.mirrors."docker.io"[0]: is not a mirror's address`},
		{"mirror with a password", withHost + "[images.mirrors]\n\"docker.io\" = \"https://u:p@m.org\"", `holds a user name or a password`},
		{"mirror with a query", withHost + "[images.mirrors]\n\"docker.io\" = \"https://m.org/?x\"", `more than scheme, host and path`},
		{"no mirror", withHost + "[images.mirrors]\n\"docker.io\" = []", `names no mirror`},
		{"mirror of a page", withHost + "[images.mirrors]\n\"https://docker.io\" = [\"https://m.org\"]", `4:1: images.mirrors."https://docker.io"`},
		{"insecure with a scheme", withHost + "[images]\ninsecure = [\"http://r.org\"]", `HOST or HOST:PORT`},
		{"insecure with a bad port", withHost + "[images]\ninsecure = [\"r.org:0\"]", `no valid port`},
		{"image of what", withHost + "[images.use]\nopenedxx = \"a/b:1\"", `4:1: images.use.openedxx: "openedxx" is not known; allowed: "openedx", "mfe"`},
		{"image's name", withHost + "[images.use]\nopenedx = \"A b\"", `4:11: images.use.openedx: "A b" is not an image's name`},
		// [size], [mail]
		{"too little memory", withHost + "[size]\nmemory = \"100MB\"", `is too little for a site: 512MB or more`},
		{"unit", withHost + "[size]\nmemory = \"4G\"", `4:10: size.memory: not a size`},
		{"no memory", withHost + "[size]\nmemory = \"0GB\"", `more than 0`},
		{"endless memory", withHost + "[size]\nmemory = \"9999999999TB\"", `less than`},
		{"cores", withHost + "[size]\ncores = -1", `1 to 4096`},
		{"services larger than the site", withHost + "[size]\nmemory = \"1GB\"\n[services.lms]\nmemory = \"2GB\"", `adds up to 2GB, which is more than the 1GB of size.memory`},
		{"smarthost with a port", withHost + "[mail]\nsmarthost = \"m.org:25\"", `write it as mail.port = 25`},
		{"smarthost's name", withHost + "[mail]\nsmarthost = \"m org\"", `is not a host name`},
		{"port alone for mail", withHost + "[mail]\nport = 25", `means nothing without mail.smarthost`},
		{"port too large for mail", withHost + "[mail]\nsmarthost = \"m.org\"\nport = 70000", `5:8: mail.port: is 70000; a number from 0 to 65535 is wanted`},
		{"user alone", withHost + "[mail]\nuser = \"u\"\npassword_file = \"/p\"", `means nothing without mail.smarthost`},
		{"user without a password", withHost + "[mail]\nsmarthost = \"m.org\"\nuser = \"u\"", `mail.password_file is missing`},
		{"password without a user", withHost + "[mail]\nsmarthost = \"m.org\"\npassword_file = \"/p\"", `means nothing without mail.user`},
		{"sender", withHost + "[mail]\nfrom = \"nobody\"", `is not a mail address`},
		// [services]
		{"unknown service", withHost + "[services.msyql]\n", `3:11: services.msyql: "msyql" is not known; allowed: "lms"`},
		{"nearest service", withHost + "[services.lms_worker]\n", `did you mean "lms-worker"?`},
		{"little memory for a service", withHost + "[services.lms]\nmemory = \"1MB\"", `16MB or more`},
		{"weight", withHost + "[services.lms]\ncpu_weight = 10001", `1 to 10000`},
		{"negative weight", withHost + "[services.lms]\ncpu_weight = -1", `services.lms.cpu_weight: is -1; a number from 0`},
		{"service that is needed", withHost + "[services.mysql]\nenabled = false", `4:11: services.mysql.enabled: a site needs mysql; only scheduler, meilisearch, smtp, mfe can be left out`},
		{"relay that is needed", withHost + "[services.smtp]\nenabled = false", `only with mail.smarthost`},
		{"stop time-out", withHost + "[services.lms]\nstop_timeout = \"2h\"", `"1s" to "1h"`},
		{"environment name", withHost + "[services.lms.env]\n\"A-B\" = \"1\"", `4:1: services.lms.env.A-B: "A-B" is not the name of an environment variable`},
		{"environment value", withHost + "[services.lms.env]\nA = 1", `4:5: services.lms.env.A: is a whole number; a string in quotes is wanted`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("f", []byte(tc.text))
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want an invalid file", err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			var all Problems
			if !errors.As(err, &all) || len(all) != 1 {
				t.Errorf("%d problems for one mistake:\n%v", len(all), err)
			}
		})
	}
}

// TestValuesThatMayBeSecretAreNotTold keeps what a wrong line holds out of the
// error where it may be a password.
func TestValuesThatMayBeSecretAreNotTold(t *testing.T) {
	for _, text := range []string{
		"[services.lms.env]\nPASSWORD = 7777777",
		"[settings.lms]\nSECRET = 7777777-01-01",
		"[images.mirrors]\n\"docker.io\" = [\"https://ana:7777777@m.org\"]",
	} {
		_, err := Parse("f", []byte(withHost+text))
		if err == nil || strings.Contains(err.Error(), "7777777") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestLoad reads from the disk.
func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tarima.toml")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "tarima setup") {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte(withHost), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil || c.Site.Host != "learn.example.org" {
		t.Errorf("got %+v, %v", c.Site, err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("# ", 1<<18)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), fmt.Sprint(256<<10)) {
		t.Errorf("a huge file: %v", err)
	}
}

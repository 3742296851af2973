package site

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const fullDoor = `
[site]
host = "learn.example.org"

[proxy]
tls = "acme"
http3 = true
trusted = ["10.0.0.0/8", "2001:db8::/32"]
proxy_protocol = true
hsts = "8760h"
compress = false
server_timing = true
closed = true
proof = true

[proxy.acme]
directory = "https://acme.example.net/directory"
key_id = "k"
key_file = "/etc/tarima/key"
wildcards = ["*.LEARN.example.org"]

[[proxy.acme.fallback]]
directory = "https://one.example.net/d"
[[proxy.acme.fallback]]
directory = "https://two.example.net/d"
key_id = "k2"
key_file = "/etc/tarima/key2"

[proxy.dns]
provider = "rfc2136"
settings_file = "/etc/tarima/dns.toml"

[proxy.certificates."Learn.example.org"]
cert = "/c.pem"
key = "/k.pem"

[proxy.redirects]
"WWW.bücher.example" = "Learn.example.org"
"old.example.org" = "https://learn.example.org:8443/"

[proxy.maintenance]
networks = ["192.0.2.0/24"]

[proxy.auth."studio.learn.example.org"]
users = "/etc/tarima/users"

[proxy.headers."blog.example.org"]
X-Frame-Options = "DENY"
Server = ""

[proxy.limits.login]
enabled = false

[proxy.limits.search]
host = "LEARN.example.org"
paths = ["/search/", "/a/*/b"]
methods = ["post"]
burst = 3
every = "1500ms"

[proxy.block]
paths = "/old/"
usual = false

[proxy.log]
file = "/var/log/x.log"
fields = ["time", "status"]
addresses = "short"
size = "10MB"
keep = 2
slow = "0s"

[proxy.metrics]
address = "[::1]:9460"

[proxy.apps.blog]
host = "Blog.example.org"
address = "10.0.0.5:8080"

[proxy.apps.notes]
host = "learn.example.org"
paths = ["/notes/"]
service = "cms"
rewrite = "/"
host_header = "Notes.example.org"
max_body = "1MiB"
stream = true
`

// TestDoor reads every key of the public door, writes it and reads it again.
func TestDoor(t *testing.T) {
	c, err := Parse("f", []byte(fullDoor))
	if err != nil {
		t.Fatal(err)
	}
	want := Proxy{
		HTTP3: true, TLS: TLSACME, ProxyProtocol: true, HSTS: 8760 * time.Hour, Compress: new(false), ServerTiming: true, Closed: true, Proof: true,
		Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		ACME: ACME{
			Directory: "https://acme.example.net/directory", KeyID: "k", KeyFile: "/etc/tarima/key", Wildcards: []string{"*.learn.example.org"},
			Fallback: []Authority{{Directory: "https://one.example.net/d"}, {"https://two.example.net/d", "k2", "/etc/tarima/key2"}},
		},
		DNS:          DNS{"rfc2136", "/etc/tarima/dns.toml"},
		Certificates: map[string]Certificate{"learn.example.org": {"/c.pem", "/k.pem"}},
		Redirects:    map[string]string{"www.xn--bcher-kva.example": "learn.example.org", "old.example.org": "https://learn.example.org:8443/"},
		Maintenance:  Maintenance{[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		Auth:         map[string]Auth{"studio.learn.example.org": {Users: "/etc/tarima/users"}},
		Headers:      map[string]map[string]string{"blog.example.org": {"X-Frame-Options": "DENY", "Server": ""}},
		Limits: map[string]Limit{
			"login":  {Enabled: new(false)},
			"search": {Host: "learn.example.org", Paths: []string{"/search/", "/a/*/b"}, Methods: []string{"POST"}, Burst: 3, Every: 1500 * time.Millisecond},
		},
		Block:   Block{[]string{"/old/"}, new(false)},
		Log:     AccessLog{"/var/log/x.log", []string{"time", "status"}, "short", 10 * MB, 2, new(time.Duration(0))},
		Metrics: Metrics{"[::1]:9460"},
		Apps: map[string]App{
			"blog": {Host: "blog.example.org", Address: []string{"10.0.0.5:8080"}},
			"notes": {
				Host: "learn.example.org", Paths: []string{"/notes/"}, Service: "cms", Rewrite: "/",
				HostHeader: "notes.example.org", MaxBody: MiB, Stream: true,
			},
		},
	}
	if diff := cmp.Diff(want, c.Proxy, same); diff != "" {
		t.Errorf("parsed (-want +got):\n%s", diff)
	}
	again, err := Parse("f", Format(c))
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, Format(c))
	}
	if diff := cmp.Diff(c, again, same); diff != "" {
		t.Errorf("written and read again (-before +after):\n%s\n%s", diff, Format(c))
	}
	hosts := []string{
		"learn.example.org", "studio.learn.example.org", "apps.learn.example.org", "meilisearch.learn.example.org",
		"blog.example.org", "old.example.org", "www.xn--bcher-kva.example",
	}
	d := Defaults(c, host)
	if diff := cmp.Diff(hosts, d.Hosts()); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	if err := Validate(d); err != nil {
		t.Errorf("with its defaults: %v", err)
	}
	if c.Proxy.Log.Slow == nil || *d.Proxy.Log.Slow != 0 || *d.Proxy.Compress || *d.Proxy.Block.Usual {
		t.Error("a zero that the file says counts")
	}
	var changed []string
	for _, ch := range Diff(c, Config{Site: c.Site}) {
		changed = append(changed, ch.String())
	}
	for _, want := range []string{
		`proxy.apps.blog.address: removed (was ["10.0.0.5:8080"])`,
		`proxy.acme.fallback: removed (was [{directory = "https://one.example.net/d"}, {directory = "https://two.example.net/d", key_id = "k2", key_file = "/etc/tarima/key2"}])`,
		`proxy.headers."blog.example.org".Server: removed (was "")`,
		`proxy.closed: removed (was true)`,
		`proxy.limits.login.enabled: removed (was false)`,
	} {
		if !strings.Contains(strings.Join(changed, "\n"), want) {
			t.Errorf("the difference does not tell: %s", want)
		}
	}
}

// TestBehindAWebServer: what follows from tls = "none".
func TestBehindAWebServer(t *testing.T) {
	for text, want := range map[string][2]string{
		"": {"127.0.0.1:8080", "off"},
		"http = \"unix:/run/tarima-proxy/door.sock\"\nsocket_group = \"www-data\"": {"unix:/run/tarima-proxy/door.sock", "off"},
		"https = \"off\"\nproxy_protocol = true":                                   {"127.0.0.1:8080", "off"},
	} {
		c, err := Parse("f", []byte(withHost+"[proxy]\ntls = \"none\"\n"+text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		d := Defaults(c, host)
		if d.Proxy.HTTP != want[0] || d.Proxy.HTTPS != want[1] || len(d.Proxy.Trusted) != 2 {
			t.Errorf("%s: %+v", text, d.Proxy)
		}
		if err := Validate(d); err != nil {
			t.Errorf("%s: the defaults are not valid: %v", text, err)
		}
	}
}

// TestEveryMistakeAtTheDoorIsReported gives one mistake at a time and wants
// exactly one problem, at its place, that says what is allowed.
func TestEveryMistakeAtTheDoorIsReported(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		// Where it listens.
		{"HTTPS off", "[proxy]\nhttps = \"off\"", `4:9: proxy.https: the site is served by HTTPS; "off" goes with tls = "none" alone`},
		{"HTTPS with none", "[proxy]\ntls = \"none\"\nhttps = \":443\"", `5:9: proxy.https: contradicts tls = "none"`},
		{"nobody listens", "[proxy]\ntls = \"none\"\nhttp = \"off\"", `proxy.http: with tls = "none" nobody would listen`},
		{"socket without none", "[proxy]\nhttp = \"unix:/run/x.sock\"", `write tls = "none" too`},
		{"socket for HTTPS", "[proxy]\nhttps = \"unix:/run/x.sock\"", `write it as proxy.http`},
		{"relative socket", "[proxy]\ntls = \"none\"\nhttp = \"unix:run/x.sock\"", `"run/x.sock" is not an absolute path in its shortest form behind "unix:"`},
		{"long socket", "[proxy]\ntls = \"none\"\nhttp = \"unix:/" + strings.Repeat("x", 98) + "\"", `at most 98 bytes; this one has 99`},
		{"group alone", "[proxy]\nsocket_group = \"www-data\"", `proxy.socket_group: means nothing without a unix socket`},
		{"group", "[proxy]\ntls = \"none\"\nhttp = \"unix:/x\"\nsocket_group = \"a b\"", `"a b" is not the name of a group`},
		{"HTTP/3 with none", "[proxy]\ntls = \"none\"\nhttp3 = true", `proxy.http3: HTTP/3 needs certificates`},
		{"PROXY protocol of nobody", "[proxy]\nproxy_protocol = true", `means nothing without proxy.trusted`},
		{"everybody is trusted", "[proxy]\ntrusted = [\"0.0.0.0/0\"]", `4:12: proxy.trusted[0]: 0.0.0.0/0 is everybody`},
		{"trusted with host bits", "[proxy]\ntrusted = \"10.0.0.1/8\"", `did you mean 10.0.0.0/8?`},
		{"trusted twice", "[proxy]\ntrusted = [\"10.0.0.0/8\", \"10.0.0.0/8\"]", `4:26: proxy.trusted[1]: 10.0.0.0/8 is there twice`},
		{"trusted is no range", "[proxy]\ntrusted = \"10.0.0.1\"", `write ADDRESS/BITS`},
		{"HSTS", "[proxy]\nhsts = \"100000h\"", `(two years)`},
		// Certificates.
		{"authority by http", "[proxy.acme]\ndirectory = \"http://a.org/d\"", `4:13: proxy.acme.directory: is not an authority's address`},
		{"ACME without ACME", "[proxy]\ntls = \"local\"\n[proxy.acme]\ndirectory = \"https://a.org/d\"", `proxy.acme: means nothing with tls = "local"`},
		{"key without its name", "[proxy.acme]\nkey_file = \"/k\"", `key_id is missing`},
		{"name without its key", "[proxy.acme]\nkey_id = \"k\"", `key_file is missing`},
		{"fallback without an address", "[[proxy.acme.fallback]]\n", `3:14: proxy.acme.fallback[0]: directory is missing`},
		{"fallback twice", "[proxy.acme]\nfallback = [{directory = \"https://a.org/\"}, {directory = \"https://a.org/\"}]", `proxy.acme.fallback[1].directory: is asked already`},
		{"fallback as text", "[proxy.acme]\nfallback = \"https://a.org/d\"", `is a string; a list of tables is wanted: [[proxy.acme.fallback]]`},
		{"key in the wrong table", "[proxy]\nkey_file = \"/k\"", `key_file belongs to [proxy.acme] or [[proxy.acme.fallback]]`},
		{"wildcard of others", "[proxy.acme]\nwildcards = \"*.example.net\"\n[proxy.dns]\nprovider = \"rfc2136\"", `"*.example.net" stands for none of the site's names`},
		{"no wildcard", "[proxy.acme]\nwildcards = \"learn.example.org\"\n[proxy.dns]\nprovider = \"rfc2136\"", `is not a wildcard`},
		{"wildcard without DNS", "[proxy.acme]\nwildcards = \"*.learn.example.org\"", `[proxy.dns] is missing`},
		{"provider", "[proxy.dns]\nprovider = \"cloudflair\"", `4:12: proxy.dns.provider: "cloudflair" is not known; allowed: `},
		{"nearest provider", "[proxy.dns]\nprovider = \"Cloudflare.\"", `did you mean "cloudflare"?`},
		{"settings of nobody", "[proxy.dns]\nsettings_file = \"/d\"", `means nothing without proxy.dns.provider`},
		{"certificate of others", "[proxy.certificates.\"lern.example.org\"]\ncert = \"/c\"\nkey = \"/k\"", `3:21: proxy.certificates."lern.example.org": "lern.example.org" is none of the site's names: learn.example.org, studio.learn.example.org, apps.learn.example.org, meilisearch.learn.example.org; did you mean "learn.example.org"?`},
		{"certificate without a key", "[proxy.certificates.\"learn.example.org\"]\ncert = \"/c\"", `key is missing: the path of a PEM file`},
		{"relative certificate", "[proxy.certificates.\"learn.example.org\"]\ncert = \"c\"\nkey = \"/k\"", `"c" is not an absolute path`},
		// Redirects.
		{"own name sent on", "[proxy.redirects]\n\"learn.example.org\" = \"example.net\"", `4:1: proxy.redirects."learn.example.org": "learn.example.org" is the site's own name`},
		{"sent to itself", "[proxy.redirects]\n\"www.example.org\" = \"https://www.example.org/\"", `leads to itself`},
		{"sent on and on", "[proxy.redirects]\n\"a.example.org\" = \"b.example.org\"\n\"b.example.org\" = \"learn.example.org\"", `4:19: proxy.redirects."a.example.org": "b.example.org" is sent on to "learn.example.org" itself`},
		{"sent nowhere", "[proxy.redirects]\n\"www.example.org\" = \"http://learn.example.org\"", `is not where visitors can be sent`},
		{"sent to a path", "[proxy.redirects]\n\"www.example.org\" = \"learn.example.org/x\"", `is more than a host name`},
		{"no name sent on", "[proxy.redirects]\n\"www example\" = \"learn.example.org\"", `4:1: proxy.redirects."www example": "www example" is not a host name`},
		{"sent on twice", "[proxy.redirects]\n\"www.example.org\" = \"learn.example.org\"\n\"WWW.example.org\" = \"learn.example.org\"", `5:1: proxy.redirects."WWW.example.org": "www.example.org" is there twice`},
		{"sent on and an application", "[proxy.redirects]\n\"b.org\" = \"learn.example.org\"\n[proxy.apps.blog]\nhost = \"b.org\"\naddress = \"10.0.0.5:80\"", `"b.org" is already the name of proxy.apps.blog`},
		// Protection.
		{"password of others", "[proxy.auth.\"studio.example.org\"]\nusers = \"/u\"", `did you mean "studio.learn.example.org"?`},
		{"no users", "[proxy.auth.\"learn.example.org\"]\n", `users is missing`},
		{"realm", "[proxy.auth.\"learn.example.org\"]\nusers = \"/u\"\nrealm = 'a\"b'", `5:9: proxy.auth."learn.example.org".realm: holds " or \`},
		{"header of others", "[proxy.headers.\"x.org\"]\nA = \"b\"", `"x.org" is none of the site's names`},
		{"header's name", "[proxy.headers.\"learn.example.org\"]\n\"a b\" = \"c\"", `"a b" is not a header's name`},
		{"header of its own", "[proxy.headers.\"learn.example.org\"]\nstrict-transport-security = \"max-age=1\"", `is set by proxy.hsts`},
		{"header of the connection", "[proxy.headers.\"learn.example.org\"]\nConnection = \"close\"", `belongs to the connection`},
		{"header twice", "[proxy.headers.\"learn.example.org\"]\nX-A = \"1\"\nx-a = \"2\"", `x-a is there twice`},
		{"header with a line break", "[proxy.headers.\"learn.example.org\"]\nX-A = \"1\\r\\nSet-Cookie: a\"", `holds a control character`},
		{"limit's name", "[proxy.limits.\"a b\"]\npaths = \"/\"\nburst = 1\nevery = \"1s\"", `3:15: proxy.limits."a b": "a b" is not a name for a limit`},
		{"limit without paths", "[proxy.limits.logn]\nburst = 1\nevery = \"1s\"", `paths is missing`},
		{"limit without a burst", "[proxy.limits.x]\npaths = \"/\"\nevery = \"1s\"", `burst is missing`},
		{"limit without every", "[proxy.limits.x]\npaths = \"/\"\nburst = 1", `every is missing`},
		{"negative burst", "[proxy.limits.login]\nburst = -1", `1 to 1000000`},
		{"every", "[proxy.limits.login]\nevery = \"1us\"", `"1ms" to "24h"`},
		{"longer than remembered", "[proxy.limits.login]\nburst = 100\nevery = \"2h\"", `100 times 2h0m0s are more than seven days`},
		{"limit of others", "[proxy.limits.login]\nhost = \"x.org\"", `proxy.limits.login.host: "x.org" is not known`},
		{"method", "[proxy.limits.login]\nmethods = \"PSOT\"", `did you mean "POST"?`},
		{"path", "[proxy.limits.login]\npaths = \"login\"", `"login" does not begin with "/"`},
		{"path that is an address", "[proxy.block]\npaths = \"https://x.org/a\"", `is a whole address`},
		{"path that climbs", "[proxy.block]\npaths = [\"/a\", \"/a/../b\"]", `4:16: proxy.block.paths[1]: "/a/../b" is not in its shortest form`},
		{"path with a query", "[proxy.block]\npaths = \"/a?b\"", `a path alone is compared`},
		{"path with an escape", "[proxy.block]\npaths = \"/a%20b\"", `paths are compared decoded`},
		{"path with half a star", "[proxy.block]\npaths = \"/a*/b\"", `stands for a whole element`},
		{"path twice", "[proxy.block]\npaths = [\"/a\", \"/a\"]", `"/a" is there twice`},
		{"blocked without end", "[proxy.block]\npaths = [" + manyPaths(201) + "]", `4:1: proxy.block.paths: 201 are too many: at most 200`},
		// To see.
		{"log field", "[proxy.log]\nfile = \"/l\"\nfields = [\"staus\"]", `did you mean "status"?`},
		{"log addresses", "[proxy.log]\nfile = \"/l\"\naddresses = \"half\"", `allowed: "full", "short" or "none"`},
		{"log without a file", "[proxy.log]\nkeep = 3", `3:8: proxy.log: file is missing`},
		{"small log", "[proxy.log]\nfile = \"/l\"\nsize = \"1kB\"", `1MB or more`},
		{"slow", "[proxy.log]\nslow = \"2h\"", `"0s" (none) to "1h"`},
		{"public metrics", "[proxy.metrics]\naddress = \":9460\"", `can be reached from outside`},
		// Applications.
		{"application without a host", "[proxy.apps.a]\naddress = \"10.0.0.5:80\"", `3:13: proxy.apps.a: host is missing`},
		{"application's host", "[proxy.apps.a]\nhost = \"http://a.org\"\naddress = \"10.0.0.5:80\"", `write the name alone`},
		{"application's name", "[proxy.apps.\"A B\"]\nhost = \"a.org\"\naddress = \"10.0.0.5:80\"", `is not a name for an application`},
		{"application nowhere", "[proxy.apps.a]\nhost = \"a.org\"", `neither service nor address is said`},
		{"application twice", "[proxy.apps.a]\nhost = \"a.org\"\nservice = \"lms\"\naddress = \"10.0.0.5:80\"", `contradicts address`},
		{"unknown service", "[proxy.apps.a]\nhost = \"a.org\"\nservice = \"mysql\"", `"mysql" is not known; allowed: "lms", "cms", "mfe" or "meilisearch"`},
		{"service that is off", "[proxy.apps.a]\nhost = \"a.org\"\nservice = \"mfe\"\n[services.mfe]\nenabled = false", `mfe is switched off by services.mfe.enabled`},
		{"address without a port", "[proxy.apps.a]\nhost = \"a.org\"\naddress = \"10.0.0.5\"", `is not ADDRESS:PORT`},
		{"address that is a URL", "[proxy.apps.a]\nhost = \"a.org\"\naddress = \"http://10.0.0.5:80\"", `is a URL`},
		{"address that is a name", "[proxy.apps.a]\nhost = \"a.org\"\naddress = [\"blog.internal:80\"]", `5:12: proxy.apps.a.address[0]: "blog.internal:80" is not ADDRESS:PORT`},
		{"address of metadata", "[proxy.apps.a]\nhost = \"a.org\"\naddress = \"169.254.169.254:80\"", `no address that a server can have`},
		{"several addresses for a path", "[proxy.apps.a]\nhost = \"a.org\"\npaths = \"/x/\"\naddress = [\"10.0.0.5:80\", \"10.0.0.6:80\"]", `for a whole host only`},
		{"the site's own host", "[proxy.apps.a]\nhost = \"learn.example.org\"\naddress = \"10.0.0.5:80\"", `4:8: proxy.apps.a.host: "learn.example.org" is the site's own name: say which paths`},
		{"overlap of hosts", "[proxy.apps.a]\nhost = \"a.org\"\naddress = \"10.0.0.5:80\"\n[proxy.apps.b]\nhost = \"A.org\"\naddress = \"10.0.0.6:80\"", `7:8: proxy.apps.b.host: overlaps with proxy.apps.a, which has the whole host of a.org too`},
		{"overlap of paths", "[proxy.apps.a]\nhost = \"a.org\"\npaths = [\"/x/\"]\naddress = \"10.0.0.5:80\"\n[proxy.apps.b]\nhost = \"a.org\"\npaths = [\"/y\", \"/x/\"]\naddress = \"10.0.0.6:80\"", `9:16: proxy.apps.b.paths[1]: overlaps with proxy.apps.a, which has "/x/" of a.org too`},
		{"rewrite", "[proxy.apps.a]\nhost = \"a.org\"\naddress = \"10.0.0.5:80\"\nrewrite = \"/*/\"", `what matched is not put in`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse("f", []byte(withHost+tc.text))
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

// TestSecretFiles reads files of secrets and refuses those that others may
// read, or that hold something else, without a word of what they hold.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, "secret")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const hash = "$2y$10$abcdefghijklmnopqrstuuSDlkjlkjlkjlkjlkjlkjlkjlkjlkjlk"
	if key, err := ReadKey(write("c2VjcmV0LXNlY3JldC1rZXk=\n", 0o600)); err != nil || key != "c2VjcmV0LXNlY3JldC1rZXk" {
		t.Errorf("key: %q, %v", key, err)
	}
	if s, err := ReadSettings(write("api_token = \"s3cret\" # mine\n\"zone id\" = \"z\"\n", 0o600)); err != nil || !cmp.Equal(s, map[string]string{"api_token": "s3cret", "zone id": "z"}) {
		t.Errorf("settings: %v, %v", s, err)
	}
	if u, err := ReadUsers(write("# who\r\n\r\nana:"+hash+"\r\nñandú maría:"+hash+"\n", 0o600)); err != nil || !cmp.Equal(u, map[string]string{"ana": hash, "ñandú maría": hash}) {
		t.Errorf("users: %v, %v", u, err)
	}
	for name, tc := range map[string]struct {
		read func(string) error
		text string
		mode os.FileMode
		want string
	}{
		"others may read": {readsKey, "c2VjcmV0LXNlY3JldC1rZXk", 0o640, "chmod 600"},
		"no key":          {readsKey, "s3cret s3cret s3cret", 0o600, "base64url"},
		"no TOML":         {readsSettings, "ok = \"x\"\napi_token = s3cret", 0o600, ":2:"},
		"number":          {readsSettings, "api_token = 7777777", 0o600, "api_token is not a string"},
		"plain password":  {readsUsers, "ana:s3cret", 0o600, ":1: the password is not kept as a bcrypt hash"},
		"costly":          {readsUsers, "ana:" + strings.Replace(hash, "$10$", "$20$", 1), 0o600, "cost 4 to 14"},
		"no user":         {readsUsers, "# s3cret\n", 0o600, "nobody could come in"},
		"user twice":      {readsUsers, "ana:" + hash + "\nana:" + hash, 0o600, ":2: a user of this name"},
		"no colon":        {readsUsers, "s3cret", 0o600, ":1: not NAME:HASH"},
		"no name":         {readsUsers, ":" + hash, 0o600, ":1: not NAME:HASH"},
		"huge":            {readsUsers, strings.Repeat("#", 1<<20+1), 0o600, "more than"},
	} {
		err := tc.read(write(tc.text, tc.mode))
		if !errors.Is(err, ErrSecretFile) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "7777777")) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
	for _, path := range []string{filepath.Join(dir, "none"), dir} {
		if err := readsKey(path); !errors.Is(err, ErrSecretFile) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// FuzzSecretFiles: whatever a file of secrets holds, it is read or refused, and
// the errors are words of ours alone.
func FuzzSecretFiles(f *testing.F) {
	f.Add("api_token = \"s3cret-token\"\n")
	f.Add("ana:$2y$10$abcdefghijklmnopqrstuuSDlkjlkjlkjlkjlkjlkjlkjlkjlkjlk\r\n#\n")
	f.Add("ana:s3cret-word\n\x00")
	f.Add("[a\nb = s3cret-word")
	f.Add("a = 1\n[b]\nc = \"\"")
	ours := regexp.MustCompile(`^a file of secrets cannot be used: /f(:\d+)?(:\d+)?[ :][ a-zA-Z:,\-` + "`" + `0-9]+$`)
	f.Fuzz(func(t *testing.T, text string) {
		settings, err := parseSettings("/f", []byte(text))
		if err != nil && (!errors.Is(err, ErrSecretFile) || settings != nil) {
			t.Errorf("settings: %v, %v", settings, err)
		}
		users, err := parseUsers("/f", []byte(text))
		switch {
		case err != nil && (!errors.Is(err, ErrSecretFile) || users != nil || !ours.MatchString(err.Error())):
			t.Errorf("users: %v, %v", users, err)
		case err == nil && len(users) == 0:
			t.Error("no users and no error")
		}
		for name, hash := range users {
			if name == "" || strings.ContainsAny(name, "\n:") || len(hash) != 60 {
				t.Errorf("user %q with %q", name, hash)
			}
		}
	})
}

func manyPaths(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%q", fmt.Sprintf("/%d", i))
	}
	return strings.Join(list, ", ")
}

func readsKey(path string) error      { _, err := ReadKey(path); return err }
func readsSettings(path string) error { _, err := ReadSettings(path); return err }
func readsUsers(path string) error    { _, err := ReadUsers(path); return err }

package openedx

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarima/runtime/container"
	"tarima/supervisor/site"
)

// TestHashSeesEveryChange: whatever the site file, a secret or the release
// changes in what a service gets, its hash changes too. The hash is made of
// wishes, not of results, so nothing but this test would notice one forgotten.
func TestHashSeesEveryChange(t *testing.T) {
	secretNames := []string{
		SecretMySQLRoot, SecretMySQL, SecretRedis, SecretRedisCache, SecretMeilisearch, SecretPlatform, SecretStudioOAuth,
	}
	input := func(t *rapid.T, label string) Input {
		// Mostly the same values on both sides, so that single differences show.
		pick := func(what string, usual string, other ...string) string {
			if rapid.IntRange(0, 9).Draw(t, label+what) > 0 {
				return usual
			}
			return rapid.SampledFrom(other).Draw(t, label+what+" value")
		}
		flag := func(what string) bool { return rapid.IntRange(0, 9).Draw(t, label+what) == 0 }
		var c site.Config
		c.Site.Host = pick("host", "learn.example.org", "a.example.org")
		c.Site.Studio = pick("studio", "", "studio.example.net")
		c.Site.Apps = pick("apps", "", "apps.example.net")
		c.Site.Search = pick("search", "", "search.example.net")
		c.Site.Name = pick("name", "Name", "Otra")
		c.Site.Contact = pick("contact", "", "x@example.org")
		c.Site.Language = pick("language", "en", "es-419")
		c.Site.Timezone = pick("timezone", "", "America/Bogota")
		c.Site.Release = pick("release", "campus", "ulmo")
		c.Proxy.HTTPS = pick("https", "", ":8443")
		if flag("range4") {
			c.Network.Range4 = netip.MustParsePrefix("100.64.0.0/24")
		}
		c.Mail.Smarthost = pick("smarthost", "mail.example.org", "mail.example.net")
		c.Mail.User = pick("user", "u", "", "v")
		c.Mail.From = pick("from", "", "from@example.org")
		if flag("port") {
			c.Mail.Port = 465
		}
		if flag("lms setting") {
			c.Settings.LMS = site.Table{{Key: "X", Value: "y"}}
		}
		if flag("cms setting") {
			c.Settings.CMS = site.Table{{Key: "X", Value: "y"}}
		}
		if flag("mfe") {
			c.MFE = site.Table{{Key: "X", Value: "y"}}
		}
		if flag("images") {
			c.Images.Use = map[string]string{rapid.SampledFrom(site.ImageNames()).Draw(t, label+"image"): "registry.test/x:2"}
		}
		// All limits are given, so that sizes are the same on both sides: their
		// small numbers are tuning, and wait for the next start.
		c.Services = map[string]site.Service{}
		for _, n := range site.ServiceNames() {
			s := site.Service{Memory: 500 * site.MiB}
			if n == "mysql" && flag("mysql memory") {
				s.Memory = 800 * site.MiB
			}
			if flag(n + " env") {
				s.Env = map[string]string{"A": "b"}
			}
			if flag(n + " stop") {
				s.StopTimeout = time.Hour
			}
			c.Services[n] = s
		}
		for _, n := range site.OptionalServices() {
			if flag(n + " off") {
				s := c.Services[n]
				s.Enabled = new(false)
				c.Services[n] = s
			}
		}
		c = site.Defaults(c, site.Host{Memory: 32 * site.GiB, Cores: 2})
		other := pick("secret", "", secretNames...)
		get := testSecrets(nopTB{})
		in := Input{
			Config: c, MailPassword: pick("password", "p", "q"),
			Dirs: Dirs{Config: "/c", Data: pick("data", "/d", "/e")},
			Secrets: func(name string, generate func() (string, error)) (string, error) {
				s, err := get(name, generate)
				if name == other {
					s += "-other"
				}
				return s, err
			},
		}
		return in
	}
	// rendered is all that a container gets, limits and soft numbers left out.
	rendered := func(p Plan) map[string]string {
		out := map[string]string{}
		for _, s := range p.Desired.Services {
			spec := s.Spec
			spec.Limits, spec.Labels = container.Limits{}, nil
			data, err := json.Marshal(spec)
			if err != nil {
				panic(err)
			}
			var b strings.Builder
			b.Write(data)
			for _, m := range spec.Mounts {
				for _, f := range p.Files {
					if m.Source != "" && strings.HasPrefix(p.Dirs.Config+"/"+f.Path, m.Source+"/") {
						b.WriteString(f.Path)
						b.Write(f.Content)
					}
				}
			}
			out[s.Spec.Name] = b.String()
		}
		return out
	}
	check := func(t *rapid.T) {
		a, errA := Build(input(t, "a "))
		b, errB := Build(input(t, "b "))
		if errA != nil || errB != nil {
			t.Fatalf("%v, %v", errA, errB)
		}
		was, is := rendered(a), rendered(b)
		hashes := map[string]string{}
		for _, s := range a.Desired.Services {
			hashes[s.Spec.Name] = s.Hash
		}
		for _, s := range b.Desired.Services {
			name := s.Spec.Name
			before, both := was[name]
			if !both {
				continue
			}
			if before != is[name] && hashes[name] == s.Hash {
				t.Fatalf("%s: something changed and its hash did not\n%s", name, firstDifference([]byte(before), []byte(is[name])))
			}
		}
	}
	for range 4 { // differences are few on purpose: more draws than usual
		rapid.Check(t, check)
	}
}

// nopTB lets a helper run inside a property, where failures are panics.
type nopTB struct{ testing.TB }

func (nopTB) Helper()           {}
func (nopTB) Fatal(args ...any) { panic(args) }

// TestNewVersionRestartsNothing: other scripts, other flags of Tarima's own,
// another layout of settings leave the hash as it is, and the label tells.
func TestNewVersionRestartsNothing(t *testing.T) {
	in := testInput(t, nil)
	release, err := LoadRelease(in.Config.Site.Release)
	if err != nil {
		t.Fatal(err)
	}
	m, err := newModel(in, release)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := m.folders()
	if err != nil {
		t.Fatal(err)
	}
	b := builder{model: m, dirs: in.Dirs, folders: folders}
	before := b.web(lms)
	asked, contents := b.asked(&before), b.contents(&before.Spec)
	folders["lms/settings"].files[0].Content = []byte("# of the next version\n")
	after := b.web(lms)
	after.Spec.Args = append(after.Spec.Args, "--of-the-next-version")
	if b.asked(&after) != asked {
		t.Error("a new version would restart the LMS")
	}
	if b.contents(&after.Spec) == contents {
		t.Error("the label does not tell of other files")
	}
}

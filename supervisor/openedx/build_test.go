package openedx

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tarima/runtime/container"
	"tarima/supervisor"
	"tarima/supervisor/site"
)

// TestPlanHoldsTogether: whatever is named exists.
func TestPlanHoldsTogether(t *testing.T) {
	off := false
	for name, change := range map[string]func(*site.Config){
		"everything": nil,
		"ulmo":       func(c *site.Config) { c.Site.Release = "ulmo" },
		"least": func(c *site.Config) {
			c.Services = map[string]site.Service{}
			for _, n := range site.OptionalServices() {
				c.Services[n] = site.Service{Enabled: &off}
			}
			c.Mail.Smarthost = "mail.example.org"
		},
		"smarthost": func(c *site.Config) {
			c.Mail = site.Mail{Smarthost: "mail.example.org", User: "us er", PasswordFile: "/etc/tarima/p"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := testInput(t, change)
			in.MailPassword = "pass word'\""
			plan := mustBuild(t, in)
			checkPlan(t, plan, in)
		})
	}
}

func checkPlan(t testing.TB, plan Plan, in Input) {
	t.Helper()
	services, known := map[string]supervisor.Service{}, map[string][]string{}
	for _, s := range plan.Desired.Services {
		if _, twice := known[s.Spec.Name]; twice {
			t.Errorf("two things are named %s", s.Spec.Name)
		}
		services[s.Spec.Name], known[s.Spec.Name] = s, s.Requires
	}
	for _, j := range plan.Desired.Jobs {
		if _, twice := known[j.Spec.Name]; twice {
			t.Errorf("two things are named %s", j.Spec.Name)
		}
		known[j.Spec.Name] = j.Requires
		if j.Reason == "" || j.Timeout <= 0 || j.Spec.Kind != container.Job {
			t.Errorf("job %s: reason %q, time-out %s, kind %s", j.Spec.Name, j.Reason, j.Timeout, j.Spec.Kind)
		}
	}
	for name, requires := range known {
		for _, r := range requires {
			if _, ok := known[r]; !ok {
				t.Errorf("%s requires %s, which does not exist", name, r)
			}
		}
	}
	checkOrder(t, known)

	dirs := map[string]bool{}
	for _, d := range plan.ConfigDirs {
		dirs[filepath.Join(plan.Dirs.Config, d.Path)] = true
	}
	for _, d := range plan.DataDirs {
		dirs[filepath.Join(plan.Dirs.Data, d.Path)] = true
	}
	specs := []container.Spec{}
	for _, s := range plan.Desired.Services {
		specs = append(specs, s.Spec)
		for _, r := range s.Reaches {
			if _, ok := services[r]; !ok {
				t.Errorf("%s reaches %s, which is not a service", s.Spec.Name, r)
			}
		}
		if len(s.Ports) == 0 || s.Probes.Startup == nil || s.Probes.Readiness == nil || s.Probes.Liveness == nil {
			t.Errorf("%s: ports %v, probes %+v", s.Spec.Name, s.Ports, s.Probes)
			continue
		}
		for _, p := range []*supervisor.Probe{s.Probes.Startup, s.Probes.Readiness, s.Probes.Liveness} {
			if !slices.Contains(s.Ports, p.Port) || p.Interval <= 0 || p.Timeout <= 0 || p.Grace <= 0 {
				t.Errorf("%s: probe %+v", s.Spec.Name, *p)
			}
		}
		if s.Probes.Liveness.Kind == supervisor.ProbeTCP {
			t.Errorf("%s: a connect is no answer of the application", s.Spec.Name)
		}
		if s.Spec.StopTimeout <= 0 || s.Spec.StopSignal == "" || s.Spec.Limits.MemoryMax <= 0 || s.Spec.User == "" || s.Spec.NoFile != 65536 {
			t.Errorf("%s: %+v", s.Spec.Name, s.Spec)
		}
	}
	for _, j := range plan.Desired.Jobs {
		specs = append(specs, j.Spec)
	}
	for _, spec := range specs {
		for _, m := range spec.Mounts {
			if !m.Tmpfs && !dirs[m.Source] {
				t.Errorf("%s mounts %s, which nobody makes", spec.Name, m.Source)
			}
			if strings.HasPrefix(m.Source, plan.Dirs.Config) && !m.ReadOnly {
				t.Errorf("%s may write its settings in %s", spec.Name, m.Source)
			}
		}
	}
	for _, r := range plan.Desired.Routes {
		if s, ok := services[r.Service]; !ok || !slices.Contains(s.Ports, r.Port) {
			t.Errorf("route %s goes to %s:%d", r.Host, r.Service, r.Port)
		}
		for _, rule := range r.Rules {
			if rule.Service != "" && !slices.Contains(services[rule.Service].Ports, rule.Port) {
				t.Errorf("route %s%s goes to %s:%d", r.Host, rule.Path, rule.Service, rule.Port)
			}
		}
	}

	// What the supervisor keeps, shows and hashes holds no secret.
	s, err := loadSecrets(in.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	s.smarthost = in.MailPassword
	shown, err := json.Marshal(struct {
		supervisor.Desired
		Notes []string
	}{plan.Desired, plan.Notes})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range s.values() {
		quoted, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(shown), strings.Trim(string(quoted), `"`)) {
			t.Errorf("a secret is in the plan: %s", secret)
		}
	}
	for _, f := range plan.Files {
		if f.Mode != 0o400 || f.UID == 0 {
			t.Errorf("%s: mode %04o, user %d", f.Path, f.Mode, f.UID)
		}
	}
	var sum int64
	for _, s := range plan.Desired.Services {
		sum += s.Spec.Limits.MemoryMax
	}
	if total := int64(in.Config.Size.Memory); sum > total {
		t.Errorf("limits sum up to %d of %d bytes", sum, total)
	}
}

// checkOrder fails when something requires itself, by whatever way.
func checkOrder(t testing.TB, requires map[string][]string) {
	t.Helper()
	done := map[string]bool{}
	var visit func(name string, path []string)
	visit = func(name string, path []string) {
		if slices.Contains(path, name) {
			t.Errorf("a circle: %s", strings.Join(append(path, name), " requires "))
			return
		}
		if done[name] {
			return
		}
		for _, r := range requires[name] {
			visit(r, append(slices.Clone(path), name))
		}
		done[name] = true
	}
	for name := range requires {
		visit(name, nil)
	}
}

// TestEdgesMatchSettings: a container may speak to every server that its files
// name, and files of a service that is off name it nowhere.
func TestEdgesMatchSettings(t *testing.T) {
	inside := regexp.MustCompile(`\b(mysql|mongodb|redis-cache|redis|meilisearch|smtp|lms|cms|mfe):[0-9]+|"(?:HOST|EMAIL_HOST|host)"?: "(mysql|mongodb|smtp)"|host=(mysql)`)
	off := false
	for _, without := range []string{"", "meilisearch", "smtp", "mfe", "scheduler"} {
		t.Run("without "+without, func(t *testing.T) {
			plan := mustBuild(t, testInput(t, func(c *site.Config) {
				c.Mail.Smarthost = "mail.example.org"
				if without != "" {
					c.Services = map[string]site.Service{without: {Enabled: &off}}
				}
			}))
			type member struct {
				spec  container.Spec
				edges []string
			}
			var members []member
			for _, s := range plan.Desired.Services {
				members = append(members, member{s.Spec, append(slices.Clone(s.Requires), s.Reaches...)})
			}
			for _, j := range plan.Desired.Jobs {
				members = append(members, member{j.Spec, j.Requires})
			}
			for _, m := range members {
				named := map[string]bool{}
				for _, mount := range m.spec.Mounts {
					for _, f := range plan.Files {
						if mount.Source == "" || !strings.HasPrefix(filepath.Join(plan.Dirs.Config, f.Path), mount.Source+"/") {
							continue
						}
						if strings.HasSuffix(f.Path, ".py") || strings.Contains(f.Path, "jobs/openedx") {
							continue // code for several jobs and variants
						}
						for _, match := range inside.FindAllStringSubmatch(string(f.Content), -1) {
							named[match[1]+match[2]+match[3]] = true
						}
					}
				}
				for name := range named {
					if m.spec.Kind == container.Job && name == "smtp" {
						continue // no job sends mail
					}
					if name == without {
						t.Errorf("%s: its settings name %s, which the site has not", m.spec.Name, name)
					}
					if name != m.spec.Name && !slices.Contains(m.edges, name) {
						t.Errorf("%s: its settings name %s, and no edge leads there", m.spec.Name, name)
					}
				}
			}
		})
	}
}

// TestChangeTouchesOnly: a change of the site file replaces the services that
// it concerns, and no other.
func TestChangeTouchesOnly(t *testing.T) {
	platform := []string{"cms", "cms-worker", "lms", "lms-worker"}
	off := false
	base := mustBuild(t, testInput(t, nil))
	for _, c := range []struct {
		name   string
		change func(*site.Config)
		want   []string // services with another hash
		jobs   []string // jobs with another reason
	}{
		{"nothing", func(*site.Config) {}, nil, nil},
		{"a setting of the LMS", func(c *site.Config) {
			c.Settings.LMS = site.Table{{Key: "X", Value: "y"}}
		}, []string{"lms", "lms-worker"}, nil},
		{"a setting of Studio", func(c *site.Config) {
			c.Settings.CMS = site.Table{{Key: "X", Value: "y"}}
		}, []string{"cms", "cms-worker"}, nil},
		{"the name of the site", func(c *site.Config) { c.Site.Name = "Otra" }, platform, []string{"site-rows"}},
		{
			"the host", func(c *site.Config) { c.Site.Host = "other.example.org" },
			[]string{"cms", "cms-worker", "lms", "lms-worker", "smtp"},
			[]string{"lms-setup", "site-rows", "theme", "cms-reindex"},
		},
		{"memory of one service", func(c *site.Config) {
			c.Services = map[string]site.Service{"smtp": {Memory: 30 * site.MiB}}
		}, nil, nil},
		{"an image", func(c *site.Config) {
			c.Images.Use = map[string]string{"redis": "registry.test/redis:2"}
		}, []string{"redis", "redis-cache"}, nil},
		{"a micro-frontend setting", func(c *site.Config) {
			c.MFE = site.Table{{Key: "X", Value: true}}
		}, []string{"lms", "lms-worker"}, nil},
		{"no scheduler", func(c *site.Config) {
			c.Services = map[string]site.Service{"scheduler": {Enabled: &off}}
		}, []string{"lms", "lms-worker"}, nil}, // the form for scheduled mail goes
		{"processor weight", func(c *site.Config) {
			c.Services = map[string]site.Service{"mysql": {CPUWeight: 500}}
		}, nil, nil},
		{"environment of one service", func(c *site.Config) {
			c.Services = map[string]site.Service{"cms": {Env: map[string]string{"UWSGI_WORKERS": "4"}}}
		}, []string{"cms"}, nil},
		{"stop patience", func(c *site.Config) {
			c.Services = map[string]site.Service{"mysql": {StopTimeout: time.Hour}}
		}, []string{"mysql"}, nil},
		{"the mail server", func(c *site.Config) { c.Mail.Smarthost = "mail.example.org" }, []string{"smtp"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := mustBuild(t, testInput(t, c.change))
			got := changedServices(base, plan)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("replaced: %v, want %v", got, c.want)
			}
			was := map[string]string{}
			for _, j := range base.Desired.Jobs {
				was[j.Spec.Name] = j.Reason
			}
			var jobs []string
			for _, j := range plan.Desired.Jobs {
				if was[j.Spec.Name] != j.Reason {
					jobs = append(jobs, j.Spec.Name)
				}
			}
			slices.Sort(jobs)
			slices.Sort(c.jobs)
			if !slices.Equal(jobs, c.jobs) {
				t.Errorf("run again: %v, want %v", jobs, c.jobs)
			}
		})
	}
}

func changedServices(a, b Plan) []string {
	was := map[string]string{}
	for _, s := range a.Desired.Services {
		was[s.Spec.Name] = s.Hash
	}
	changed := map[string]bool{}
	for _, s := range b.Desired.Services {
		if h, ok := was[s.Spec.Name]; ok && h != s.Hash {
			changed[s.Spec.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

// TestContract: users, commands and signals as the published images want them.
func TestContract(t *testing.T) {
	plan := mustBuild(t, testInput(t, func(c *site.Config) { c.Site.Release = "ulmo" }))
	for _, want := range []struct{ name, user, command string }{
		{"lms", "1000:1000", "uwsgi /openedx/web/uwsgi.ini"},
		{"cms", "1000:1000", "uwsgi /openedx/web/uwsgi.ini"},
		{"lms-worker", "1000:1000", "celery --app=lms.celery worker --loglevel=info --hostname=edx.lms.core.default.%h --queues=edx.lms.core.default,edx.lms.core.high,edx.lms.core.high_mem --max-tasks-per-child=100 --prefetch-multiplier=1 --without-gossip --without-mingle --concurrency="},
		{"cms-worker", "1000:1000", "celery --app=cms.celery worker --loglevel=info --hostname=edx.cms.core.default.%h --queues=edx.cms.core.default,edx.cms.core.high,edx.cms.core.low --max-tasks-per-child=100 --prefetch-multiplier=1 --without-gossip --without-mingle --concurrency="},
		{"mysql", "999:999", "mysqld --character-set-server=utf8mb4 --collation-server=utf8mb4_unicode_ci --binlog-expire-logs-seconds=259200 "},
		{"mongodb", "999:999", "mongod --storageEngine wiredTiger --wiredTigerCacheSizeGB 0."},
		{"redis", "1000:1000", "redis-server /openedx/redis/config/redis.conf"},
		{"redis-cache", "1000:1000", "redis-server /openedx/redis/config/redis.conf"},
		{"meilisearch", "1000:1000", "/bin/meilisearch --config-file-path /etc/tarima/config.toml"},
		{"smtp", "100:101", ""},
		{"scheduler", "1000:1000", "python /openedx/scheduler/scheduler.py"},
		{"mfe", "1000:1000", ""},
	} {
		i := slices.IndexFunc(plan.Desired.Services, func(s supervisor.Service) bool { return s.Spec.Name == want.name })
		if i < 0 {
			t.Errorf("no service %s", want.name)
			continue
		}
		s := plan.Desired.Services[i].Spec
		if s.User != want.user || !strings.HasPrefix(strings.Join(s.Args, " "), want.command) || s.StopSignal != "SIGTERM" {
			t.Errorf("%s: user %s, command %q, signal %s", want.name, s.User, strings.Join(s.Args, " "), s.StopSignal)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	off := false
	for _, c := range []struct {
		name   string
		change func(*Input)
		want   error
	}{
		{"no host", func(in *Input) { in.Config.Site.Host = "" }, ErrConfig},
		{"a host that ends a line", func(in *Input) { in.Config.Site.Host = "a.org\nrespond 200" }, ErrConfig},
		{"a host that is too long", func(in *Input) {
			in.Config.Site.Host = strings.Repeat(strings.Repeat("a", 60)+".", 2) + "org"
		}, ErrConfig},
		{"one name for two parts", func(in *Input) { in.Config.Site.Studio = in.Config.Site.Host }, ErrConfig},
		{"no such release", func(in *Input) { in.Config.Site.Release = "../ulmo" }, ErrRelease},
		{"too little memory", func(in *Input) { in.Config.Size.Memory = site.GiB }, ErrTooSmall},
		{"more granted than there is", func(in *Input) {
			in.Config.Services = map[string]site.Service{"mysql": {Memory: 7 * site.GiB}}
		}, ErrTooSmall},
		{"relative folders", func(in *Input) { in.Dirs.Data = "data" }, ErrConfig},
		{"mail has no way out", func(in *Input) {
			in.Config.Services = map[string]site.Service{"smtp": {Enabled: &off}}
		}, ErrConfig},
		{"a password of two lines", func(in *Input) { in.MailPassword = "a\nb" }, ErrConfig},
		{"a secret that needs quotes", func(in *Input) {
			in.Secrets = func(string, func() (string, error)) (string, error) { return "it's secret, very secret", nil }
		}, ErrConfig},
		{"a secret in the environment", func(in *Input) {
			s, err := in.Secrets(SecretMySQL, nil)
			if err != nil {
				t.Fatal(err)
			}
			in.Config.Services = map[string]site.Service{"lms": {Env: map[string]string{"P": s}}}
		}, ErrConfig},
		{"a setting that is no number", func(in *Input) {
			in.Config.Settings.LMS = site.Table{{Key: "X", Value: notANumber()}}
		}, ErrConfig},
		{"a secret store that fails", func(in *Input) {
			in.Secrets = func(string, func() (string, error)) (string, error) { return "", errStore }
		}, errStore},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := testInput(t, nil)
			c.change(&in)
			_, err := Build(in)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			s, secretErr := testSecrets(t)(SecretMySQL, nil)
			if secretErr != nil {
				t.Fatal(secretErr)
			}
			if strings.Contains(err.Error(), s) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

var errStore = errors.New("disk full")

func notANumber() float64 { zero := 0.0; return zero / zero }

// TestPorts: a site on another port says so in every address that a browser
// gets, and in none of the names that servers compare.
func TestPorts(t *testing.T) {
	plan := mustBuild(t, testInput(t, func(c *site.Config) { c.Proxy.HTTPS = "127.0.0.1:8443" }))
	l := loadSettings(t, plan, "lms", "proxy")
	checkSettings(t, l.Settings, map[string]string{
		"LMS_ROOT_URL":          `"https://learn.example.org:8443"`,
		"LMS_BASE":              `"learn.example.org:8443"`,
		"ALLOWED_HOSTS":         `["learn.example.org","lms"]`,
		"SESSION_COOKIE_DOMAIN": `"learn.example.org"`,
		"CSRF_TRUSTED_ORIGINS":  `["https://apps.learn.example.org:8443"]`,
	})
	if h := plan.Desired.Routes[0].Host; h != "learn.example.org" {
		t.Errorf("route for %s", h)
	}
}

// TestMail: with a relay, without one, with a log-in.
func TestMail(t *testing.T) {
	off := false
	for _, c := range []struct {
		name   string
		change func(*site.Config)
		want   map[string]string
	}{
		{"relay", nil, map[string]string{"EMAIL_HOST": `"smtp"`, "EMAIL_PORT": `8025`, "EMAIL_USE_TLS": `false`, "EMAIL_USE_SSL": `false`}},
		{"no relay", func(c *site.Config) {
			c.Services = map[string]site.Service{"smtp": {Enabled: &off}}
			c.Mail = site.Mail{Smarthost: "mail.example.org", User: "u"}
		}, map[string]string{
			"EMAIL_HOST": `"mail.example.org"`, "EMAIL_PORT": `587`, "EMAIL_USE_TLS": `true`, "EMAIL_USE_SSL": `false`,
			"EMAIL_HOST_USER": `"u"`, "EMAIL_HOST_PASSWORD": `"p: \"#'"`,
		}},
		{"no relay, TLS from the start", func(c *site.Config) {
			c.Services = map[string]site.Service{"smtp": {Enabled: &off}}
			c.Mail = site.Mail{Smarthost: "mail.example.org", Port: 465}
		}, map[string]string{"EMAIL_PORT": `465`, "EMAIL_USE_TLS": `false`, "EMAIL_USE_SSL": `true`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := testInput(t, c.change)
			in.MailPassword = `p: "#'`
			checkSettings(t, loadSettings(t, mustBuild(t, in), "lms", "proxy").Settings, c.want)
		})
	}
	in := testInput(t, func(c *site.Config) {
		c.Mail = site.Mail{Smarthost: "mail.example.org", User: "u"}
		c.Network.Range4 = netip.MustParsePrefix("100.64.0.0/24")
	})
	in.MailPassword = "a password"
	plan := mustBuild(t, in)
	if got := string(fileOf(t, plan, "smtp/password")); got != "a password" {
		t.Errorf("password file %q", got)
	}
	i := slices.IndexFunc(plan.Desired.Services, func(s supervisor.Service) bool { return s.Spec.Name == "smtp" })
	env := fmt.Sprint(plan.Desired.Services[i].Spec.Env)
	for _, want := range []string{"SMARTHOST=mail.example.org::587", "SMTP_USERNAME=u", "RELAY_FROM_HOSTS=100.64.0.0/24"} {
		if !strings.Contains(env, want) {
			t.Errorf("%s is not in %s", want, env)
		}
	}
}

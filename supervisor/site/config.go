package site

import (
	"net/netip"
	"time"
)

// DefaultPath is where the daemon reads the site file.
const DefaultPath = "/etc/tarima/tarima.toml"

// Config is a site file. As [Parse] returns it, a zero value means that the
// file does not say; [Defaults] fills those in. The toml tags are the names in
// the file.
type Config struct {
	Site     Site               `toml:"site"`
	Proxy    Proxy              `toml:"proxy"`
	Network  Network            `toml:"network"`
	Engine   Engine             `toml:"engine"`
	Images   Images             `toml:"images"`
	Size     Size               `toml:"size"`
	Mail     Mail               `toml:"mail"`
	Services map[string]Service `toml:"services"` // by service name, see ServiceNames
	Settings Settings           `toml:"settings"`
	// MFE is passed through to the MFE_CONFIG dictionary of the LMS.
	MFE Table `toml:"mfe"`
}

// Site names the site and its public hosts. Host names are lower case and in
// their ASCII form (punycode), whatever the file says.
type Site struct {
	Host     string `toml:"host"`   // the LMS; required
	Studio   string `toml:"studio"` // default studio.HOST
	Apps     string `toml:"apps"`   // micro-frontends; default apps.HOST
	Search   string `toml:"search"` // default meilisearch.HOST
	Name     string `toml:"name"`
	Contact  string `toml:"contact"`  // mail address; default contact@HOST
	Language string `toml:"language"` // Open edX's form: lower case, as in "es-419"; default "en"
	// Languages that learners may choose; default: Language alone. Language
	// is always one of them.
	Languages []string `toml:"languages"`
	Timezone  string   `toml:"timezone"` // IANA name; default "UTC"
	Release   string   `toml:"release"`  // default [DefaultRelease]
}

// DefaultRelease is the Open edX release of a site file that names none.
const DefaultRelease = "ulmo"

// Network is the site's own range of addresses, seen by no one outside.
type Network struct {
	Range4 netip.Prefix `toml:"range4"` // /16 to /26, private; default 10.213.0.0/24
	// Range6 is a unique local /64 (RFC 4193). After Defaults the zero prefix
	// means that there is no IPv6 inside.
	Range6 netip.Prefix `toml:"range6"`
	// IPv6 false leaves IPv6 out; nil: as the host has it.
	IPv6 *bool `toml:"ipv6"`
}

// Engine chooses other parts than the ones shipped.
type Engine struct {
	Runtime string `toml:"runtime"` // OCI runtime: absolute path or a name in PATH; "": the runc shipped
	Socket  string `toml:"socket"`  // absolute path of an external containerd's socket; "": the embedded one
}

// Images says where images come from.
type Images struct {
	// Mirrors by registry name ("docker.io"): base URLs that are asked first,
	// in this order.
	Mirrors     map[string][]string `toml:"mirrors"`
	Credentials string              `toml:"credentials"` // absolute path of a file in Docker's config.json form
	Insecure    []string            `toml:"insecure"`    // registries (host[:port]) that may be spoken to by plain http
	// Use names another image than the release's, by image name (ImageNames).
	Use map[string]string `toml:"use"`
}

// Size is what the whole site may take of the host.
type Size struct {
	Memory Bytes `toml:"memory"` // default: the host's, or its cgroup's limit
	Cores  int   `toml:"cores"`  // default: the host's
}

// Mail is how mail leaves the site.
type Mail struct {
	Smarthost    string `toml:"smarthost"`     // host name; "": straight to the receivers' mail servers
	Port         uint16 `toml:"port"`          // default 587 with a smarthost
	User         string `toml:"user"`          // "": no login
	PasswordFile string `toml:"password_file"` // absolute path; its first line is the password
	From         string `toml:"from"`          // sender; default: the contact
}

// Service changes one service from what the release and the host's size say.
type Service struct {
	Memory Bytes `toml:"memory"` // limit; default: a share of [Size]
	// CPUWeight is the share of the processor under contention, as in
	// cgroup v2: 1 to 10,000, usual 100.
	CPUWeight   uint64            `toml:"cpu_weight"`
	Enabled     *bool             `toml:"enabled"` // false only for OptionalServices; see Config.Enabled
	Env         map[string]string `toml:"env"`
	StopTimeout time.Duration     `toml:"stop_timeout"` // before the kill; 1 s to 1 h
}

// Settings are Open edX settings, passed through as they are.
type Settings struct {
	LMS Table `toml:"lms"`
	CMS Table `toml:"cms"`
}

// Enabled says whether the service runs: every service does unless the file
// says enabled = false.
func (c *Config) Enabled(service string) bool {
	e := c.Services[service].Enabled
	return e == nil || *e
}

// ServiceNames are the services of an Open edX site, in the order in which
// people expect to read them.
func ServiceNames() []string {
	return []string{
		"lms", "cms", "lms-worker", "cms-worker", "scheduler",
		"mysql", "mongodb", "redis", "redis-cache", "meilisearch", "smtp", "mfe",
	}
}

// OptionalServices are the services that a site can do without.
func OptionalServices() []string {
	return []string{"scheduler", "meilisearch", "smtp", "mfe"}
}

// ImageNames are the names that [images.use] knows. The image openedx serves
// lms, cms, their workers and the scheduler.
func ImageNames() []string {
	return []string{"openedx", "mfe", "mysql", "mongodb", "redis", "meilisearch", "smtp"}
}

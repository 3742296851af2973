package openedx

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"

	"tarima/supervisor/site"
)

var (
	hostName    = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	simpleName  = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)
	plainSecret = regexp.MustCompile(`^[A-Za-z0-9_-]{16,}$`)
	siteName    = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)
)

// model is what the site file says, worked out: the one place from which
// settings, jobs and routes take their values.
type model struct {
	site    string
	config  site.Config
	release Release
	images  map[string]string
	secrets secrets
	sizes   Sizes

	lmsHost, cmsHost, mfeHost, searchHost string
	port                                  string // ":8443", "" for 443
	lmsURL, cmsURL, mfeURL, searchURL     string
	mail                                  mailServer
}

// mailServer is where LMS and Studio send mail to.
type mailServer struct {
	host           string
	port           int
	user, password string
	tls, ssl       bool
}

func newModel(in Input, release Release) (*model, error) {
	c := in.Config
	m := &model{
		site: in.Site, config: c, release: release, images: release.images(c.Images.Use),
		lmsHost: c.Site.Host, cmsHost: c.Site.Studio, mfeHost: c.Site.Apps, searchHost: c.Site.Search,
	}
	if !siteName.MatchString(in.Site) {
		return nil, fmt.Errorf("%w: %q is not the name of a site", ErrConfig, in.Site)
	}
	var seen []string
	for _, h := range []struct{ key, name string }{
		{"site.host", m.lmsHost}, {"site.studio", m.cmsHost}, {"site.apps", m.mfeHost}, {"site.search", m.searchHost},
	} {
		// Host names stand in files that do not quote, such as the Caddyfile.
		if !hostName.MatchString(h.name) {
			return nil, fmt.Errorf("%w: %s: %q is not a host name; was the file completed by its defaults?", ErrConfig, h.key, h.name)
		}
		// Rows of the table of sites hold 100 characters.
		if len(h.name) > 100 {
			return nil, fmt.Errorf("%w: %s: %s is longer than 100 characters, which Open edX cannot keep", ErrConfig, h.key, h.name)
		}
		if slices.Contains(seen, h.name) {
			return nil, fmt.Errorf("%w: %s: %s is already the name of another part", ErrConfig, h.key, h.name)
		}
		seen = append(seen, h.name)
	}
	var err error
	if m.port, err = publicPort(c.Proxy.HTTPS); err != nil {
		return nil, err
	}
	m.lmsURL, m.cmsURL = m.url(m.lmsHost), m.url(m.cmsHost)
	m.mfeURL, m.searchURL = m.url(m.mfeHost), m.url(m.searchHost)

	if m.secrets, err = loadSecrets(in.Secrets); err != nil {
		return nil, err
	}
	m.secrets.smarthost = in.MailPassword
	if strings.ContainsAny(in.MailPassword, "\x00\r\n") {
		return nil, fmt.Errorf("%w: the mail password holds a line break", ErrConfig)
	}
	if m.mail, err = m.mailServer(); err != nil {
		return nil, err
	}

	m.sizes, err = Size(int64(c.Size.Memory), c.Size.Cores, c.Enabled, GrantedLimits(c))
	return m, err
}

// GrantedLimits are the limits in bytes that the site file itself gives to
// services that are on.
func GrantedLimits(c site.Config) map[string]int64 {
	fixed := map[string]int64{}
	for name, s := range c.Services {
		if s.Memory > 0 && c.Enabled(name) {
			fixed[name] = int64(s.Memory)
		}
	}
	return fixed
}

// publicPort is what follows the host's name in URLs. A web server in front has
// the usual port.
func publicPort(address string) (string, error) {
	if address == site.Off {
		return "", nil
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("%w: proxy.https: %w", ErrConfig, err)
	}
	if port == "443" || port == "https" {
		return "", nil
	}
	return ":" + port, nil
}

func (m *model) url(host string) string { return "https://" + host + m.port }

// mailServer: the relay of the site, or without it the smarthost itself.
func (m *model) mailServer() (mailServer, error) {
	c := m.config
	if c.Enabled("smtp") {
		return mailServer{host: "smtp", port: 8025}, nil
	}
	if c.Mail.Smarthost == "" {
		return mailServer{}, fmt.Errorf("%w: services.smtp is off and mail.smarthost is not set: mail has no way out", ErrConfig)
	}
	s := mailServer{host: c.Mail.Smarthost, port: int(c.Mail.Port), user: c.Mail.User, password: m.secrets.smarthost}
	// 465 speaks TLS from the first byte (RFC 8314); elsewhere STARTTLS, but
	// port 25 without a log-in takes what the server offers.
	s.ssl = s.port == 465
	s.tls = !s.ssl && (s.port != 25 || s.user != "")
	return s, nil
}

// on says whether the site has the service.
func (m *model) on(service string) bool { return m.config.Enabled(service) }

// redisURL of a database of one of the two servers.
func (m *model) redisURL(server, password string, database int) string {
	return fmt.Sprintf("redis://:%s@%s:6379/%d", password, server, database)
}

// overrides are the pass-through settings of a variant.
func (m *model) overrides(variant string) map[string]any {
	if variant == "cms" {
		return m.config.Settings.CMS.Map()
	}
	return m.config.Settings.LMS.Map()
}

// host that a browser uses, with its port.
func (m *model) base(host string) string { return strings.TrimPrefix(m.url(host), "https://") }

package openedx

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"tarima/proxy/routes"
	"tarima/runtime/container"
	"tarima/supervisor"
	"tarima/supervisor/site"
)

// Input is all that a site depends on.
type Input struct {
	Site string // "" is "default"
	// Config completed by site.Defaults and found right by site.Validate.
	Config     site.Config
	Generation uint64 // of the applied site file
	// Secrets keeps what is generated once. It must not fail half-way.
	Secrets SecretFunc
	// MailPassword is the first line of mail.password_file, "" without one.
	MailPassword string
	Door         DoorSecrets
	Dirs         Dirs
	// Release other than the built-in one that the site file names.
	Release *Release
}

// Dirs are the site's folders on the host, absolute.
type Dirs struct {
	Config string // rendered files; Tarima's alone
	Data   string // what users and services make
}

// Plan is what a site file asks for.
type Plan struct {
	Desired supervisor.Desired
	Sizes   Sizes
	Release Release
	Dirs    Dirs
	Files   []File // below Dirs.Config, sorted by path
	// ConfigDirs below Dirs.Config and DataDirs below Dirs.Data, parents first.
	ConfigDirs []Dir
	DataDirs   []Dir
	// Notes for people: what is not as it should be, one sentence each.
	Notes []string
}

// Build works out the services, jobs, routes and files of a site. It reads
// and writes nothing, apart from what in.Secrets does. Errors wrap ErrConfig,
// ErrRelease or ErrTooSmall, or are those of in.Secrets.
func Build(in Input) (Plan, error) {
	if in.Site == "" {
		in.Site = "default"
	}
	for _, d := range []string{in.Dirs.Config, in.Dirs.Data} {
		if !filepath.IsAbs(d) {
			return Plan{}, fmt.Errorf("%w: folder %q is not absolute", ErrConfig, d)
		}
	}
	release, err := chooseRelease(in)
	if err != nil {
		return Plan{}, err
	}
	m, err := newModel(in, release)
	if err != nil {
		return Plan{}, err
	}
	folders, err := m.folders()
	if err != nil {
		return Plan{}, err
	}
	tls, err := TLS(in.Config.Proxy, in.Door)
	if err != nil {
		return Plan{}, err
	}
	b := builder{model: m, dirs: in.Dirs, folders: folders}
	services := b.services()
	plan := Plan{
		Sizes: m.sizes, Release: release, Dirs: in.Dirs,
		Desired: supervisor.Desired{
			Site: in.Site, Generation: in.Generation,
			Routes: m.door(m.routes(), in.Door), Egress: m.egress(),
			TLS: tls, Trusted: in.Config.Proxy.Trusted, Insiders: in.Config.Proxy.Maintenance.Networks,
			Page: routes.Page{
				SiteName: in.Config.Site.Name, Contact: in.Config.Site.Contact, Language: in.Config.Site.Language,
				TimeZone: in.Config.Site.Timezone,
			},
		},
	}
	for i := range services {
		s := &services[i]
		if err := m.adjust(s); err != nil {
			return Plan{}, err
		}
		s.Hash = b.asked(s)
		s.Spec.Labels = map[string]string{container.LabelFiles: b.contents(&s.Spec)}
		plan.Desired.Services = append(plan.Desired.Services, *s)
	}
	plan.Desired.Jobs = b.jobs()
	for _, path := range slices.Sorted(maps.Keys(folders)) {
		f := folders[path]
		plan.ConfigDirs = append(plan.ConfigDirs, f.dirs...)
		plan.Files = append(plan.Files, f.files...)
	}
	slices.SortFunc(plan.Files, func(a, b File) int { return compare(a.Path, b.Path) })
	plan.DataDirs = b.dataDirs()
	if m.sizes.Tight != "" {
		plan.Notes = append(plan.Notes, m.sizes.Tight)
	}
	return plan, nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func chooseRelease(in Input) (Release, error) {
	if in.Release != nil {
		return *in.Release, nil
	}
	return LoadRelease(in.Config.Site.Release)
}

// builder makes specs from the model.
type builder struct {
	*model
	dirs    Dirs
	folders map[string]*folder
	data    []Dir
}

// config mounts a folder of rendered files.
func (b *builder) config(path, target string) container.Mount {
	if b.folders[path] == nil {
		panic("openedx: mount of a folder that is not made: " + path)
	}
	return container.Mount{
		Source: filepath.Join(b.dirs.Config, filepath.FromSlash(path)), Target: target, ReadOnly: true, Idmap: true,
	}
}

// keep mounts a data folder, made for that user.
func (b *builder) keep(path, target string, uid, gid int) container.Mount {
	d := Dir{Path: path, Mode: 0o750, UID: uid, GID: gid}
	if !slices.Contains(b.data, d) {
		b.data = append(b.data, d)
	}
	return container.Mount{Source: filepath.Join(b.dirs.Data, path), Target: target, Idmap: true}
}

// dataDirs are the folders that keep was asked for.
func (b *builder) dataDirs() []Dir {
	dirs := slices.Clone(b.data)
	slices.SortFunc(dirs, func(a, b Dir) int { return compare(a.Path, b.Path) })
	return dirs
}

// tmpfs of at most size bytes for everyone in the container.
func tmpfs(target string, size int64) container.Mount {
	return container.Mount{Target: target, Tmpfs: true, Size: size, Mode: 0o1777}
}

// adjust lays the site file's table of the service over it.
func (m *model) adjust(s *supervisor.Service) error {
	own := m.config.Services[s.Spec.Name]
	if own.CPUWeight != 0 {
		s.Spec.Limits.CPUWeight = own.CPUWeight
	}
	if own.StopTimeout > 0 {
		s.Spec.StopTimeout = own.StopTimeout
	}
	for _, name := range slices.Sorted(maps.Keys(own.Env)) {
		s.Spec.Env = slices.DeleteFunc(s.Spec.Env, func(e string) bool {
			return len(e) > len(name) && e[:len(name)+1] == name+"="
		})
		s.Spec.Env = append(s.Spec.Env, name+"="+own.Env[name])
	}
	for _, e := range s.Spec.Env {
		for _, secret := range m.secrets.values() {
			if containsSecret(e, secret) {
				return fmt.Errorf("%w: services.%s.env holds one of the site's secrets; settings belong into files", ErrConfig, s.Spec.Name)
			}
		}
	}
	return nil
}

// containsSecret says whether a text holds a secret.
func containsSecret(text, secret string) bool {
	return len(secret) >= 8 && strings.Contains(text, secret)
}

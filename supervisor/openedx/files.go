package openedx

import (
	"embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed assets
var assets embed.FS

// File is one file below the site's configuration folder.
type File struct {
	Path    string // relative, slashes
	Content []byte
	Mode    uint32 // permission bits
	UID     int    // of the image that reads it; the mount is idmapped
	GID     int
}

// Dir is one folder below the site's configuration or data folder.
type Dir struct {
	Path string // relative, slashes
	Mode uint32
	UID  int
	GID  int
}

// Users of the images, as they are on disk.
const (
	platformUID = 1000
	storeUID    = 999
	mailUID     = 100
	mailGID     = 101
)

// folder gathers the files of one mounted folder.
type folder struct {
	path     string
	uid, gid int
	files    []File
	dirs     []Dir
}

func newFolder(path string, uid, gid int) *folder {
	return &folder{path: path, uid: uid, gid: gid, dirs: []Dir{{Path: path, Mode: 0o500, UID: uid, GID: gid}}}
}

// add puts a file that only the image's user may read into the folder.
func (f *folder) add(name string, content []byte) {
	if at := strings.LastIndexByte(name, '/'); at > 0 {
		f.dirs = append(f.dirs, Dir{Path: f.path + "/" + name[:at], Mode: 0o500, UID: f.uid, GID: f.gid})
	}
	f.files = append(f.files, File{
		Path: f.path + "/" + name, Content: content, Mode: 0o400, UID: f.uid, GID: f.gid,
	})
}

func (f *folder) text(name, format string, args ...any) {
	f.add(name, fmt.Appendf(nil, format, args...))
}

// asset adds a file that is the same for every site.
func (f *folder) asset(name, from string) error {
	data, err := assets.ReadFile("assets/" + from)
	if err != nil {
		return fmt.Errorf("part of the program is missing: %w", err)
	}
	f.add(name, data)
	return nil
}

// rendered adds a file made from a template; its values need no quoting.
func (f *folder) rendered(name, from string, values any) error {
	t, err := template.ParseFS(assets, "assets/"+from)
	if err != nil {
		return fmt.Errorf("part of the program is missing: %w", err)
	}
	var b strings.Builder
	if err := t.Option("missingkey=error").Execute(&b, values); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	f.add(name, []byte(b.String()))
	return nil
}

// folders makes every folder that services and jobs mount, by path.
func (m *model) folders() (map[string]*folder, error) {
	all := map[string]*folder{}
	add := func(f *folder, err error) error {
		if err != nil {
			return err
		}
		all[f.path] = f
		return nil
	}
	makers := []func() (*folder, error){
		func() (*folder, error) { return m.envFolder("lms") },
		func() (*folder, error) { return m.envFolder("cms") },
		func() (*folder, error) { return m.settingsFolder("lms") },
		func() (*folder, error) { return m.settingsFolder("cms") },
		func() (*folder, error) {
			return m.webFolder("lms", m.sizes.LMSProcesses, m.sizes.LMSRecycle)
		},
		func() (*folder, error) {
			return m.webFolder("cms", m.sizes.CMSProcesses, m.sizes.CMSRecycle)
		},
		m.jobsFolder, m.mysqlFolder, m.mysqlJobFolder,
		func() (*folder, error) {
			return m.redisFolder("redis", m.secrets.redis, m.sizes.RedisMemory, true)
		},
		func() (*folder, error) {
			return m.redisFolder("redis-cache", m.secrets.redisCache, m.sizes.CacheMemory, false)
		},
	}
	if m.on("scheduler") {
		makers = append(makers, m.schedulerFolder)
	}
	if m.on("meilisearch") {
		makers = append(makers, m.meilisearchFolder)
	}
	if m.on("mfe") {
		makers = append(makers, m.mfeFolder)
	}
	if m.relayNeedsPassword() {
		makers = append(makers, m.smtpFolder)
	}
	for _, make := range makers {
		if err := add(make()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (m *model) envFolder(variant string) (*folder, error) {
	f := newFolder(variant+"/config", platformUID, platformUID)
	data, err := m.envYAML(variant)
	if err != nil {
		return nil, err
	}
	f.add(variant+".env.yml", data)
	return f, nil
}

func (m *model) settingsFolder(variant string) (*folder, error) {
	f := newFolder(variant+"/settings", platformUID, platformUID)
	f.add("__init__.py", nil)
	for name, from := range map[string]string{
		"production.py":   "settings/" + variant + "_production.py",
		"shared.py":       "settings/shared.py",
		"workerhealth.py": "settings/workerhealth.py",
		"scheduled.py":    "settings/scheduled.py",
	} {
		if err := f.asset(name, from); err != nil {
			return nil, err
		}
	}
	data, err := m.siteJSON(variant)
	if err != nil {
		return nil, fmt.Errorf("settings.%s: %w", variant, err)
	}
	f.add("site.json", data)
	return f, nil
}

// Seconds after which uWSGI ends a request and its process. Studio's are
// longer: course uploads and exports.
const (
	lmsHarakiri = 120
	cmsHarakiri = 300
)

func (m *model) webFolder(variant string, processes int, recycle int64) (*folder, error) {
	f := newFolder(variant+"/web", platformUID, platformUID)
	harakiri := lmsHarakiri
	if variant == "cms" {
		harakiri = cmsHarakiri
	}
	f.text("public/alive", "ok\n")
	return f, f.rendered("uwsgi.ini", "uwsgi.ini", map[string]any{
		"Harakiri": harakiri, "RecycleMiB": recycle / mib, "Processes": processes,
	})
}

func (m *model) jobsFolder() (*folder, error) {
	f := newFolder("jobs/openedx", platformUID, platformUID)
	for _, name := range []string{
		"site_values.py", "meilisearch_key.py", "lms_setup.py", "cms_setup.py", "cms_reindex.py",
		"site_rows.py", "mfe_flags.py", "theme.py",
	} {
		if err := f.asset(name, "jobs/"+name); err != nil {
			return nil, err
		}
	}
	data, err := m.jobJSON()
	if err != nil {
		return nil, err
	}
	f.add("values.json", data)
	return f, nil
}

func (m *model) mysqlFolder() (*folder, error) {
	f := newFolder("mysql", storeUID, storeUID)
	f.add("root-password", []byte(m.secrets.mysqlRoot))
	return f, nil
}

func (m *model) mysqlJobFolder() (*folder, error) {
	f := newFolder("jobs/mysql", storeUID, storeUID)
	f.text("client.cnf", "[client]\nhost=mysql\nport=3306\nuser=root\npassword=%s\n", m.secrets.mysqlRoot)
	f.text("init.sql", `CREATE DATABASE IF NOT EXISTS openedx CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE USER IF NOT EXISTS 'openedx'@'%%' IDENTIFIED BY '%[1]s';
ALTER USER 'openedx'@'%%' IDENTIFIED BY '%[1]s';
GRANT ALL ON openedx.* TO 'openedx'@'%%';
`, m.secrets.mysql)
	return f, f.asset("mysql_init.sh", "jobs/mysql_init.sh")
}

func (m *model) redisFolder(name, password string, memory int64, durable bool) (*folder, error) {
	f := newFolder(name, platformUID, platformUID)
	f.add("password", []byte(password)) // for the supervisor's probe
	return f, f.rendered("redis.conf", "redis.conf", map[string]any{
		"Password": password, "Memory": memory, "Durable": durable,
	})
}

func (m *model) meilisearchFolder() (*folder, error) {
	f := newFolder("meilisearch", platformUID, platformUID)
	f.text("config.toml", `env = "production"
master_key = "%s"
http_addr = "0.0.0.0:7700"
db_path = "/meili_data/data.ms"
dump_dir = "/meili_data/dumps"
snapshot_dir = "/meili_data/snapshots"
max_indexing_memory = "%d MiB"
max_indexing_threads = %d
no_analytics = true
`, m.secrets.meiliMaster, m.sizes.SearchIndexing/mib, max(1, m.sizes.Cores/2))
	return f, nil
}

func (m *model) schedulerFolder() (*folder, error) {
	f := newFolder("scheduler", platformUID, platformUID)
	data, err := encodeJSON(map[string]any{
		"broker":   m.redisURL("redis", m.secrets.redis, 0),
		"timezone": m.config.Site.Timezone,
		"entries":  scheduleEntries,
	})
	if err != nil {
		return nil, err
	}
	f.add("schedule.json", data)
	return f, f.asset("scheduler.py", "scheduler/scheduler.py")
}

// scheduleEntry is one line of the timetable. Times are the site's own.
type scheduleEntry struct {
	Name    string `json:"name"` // in the table of assets/settings/scheduled.py
	Queue   string `json:"queue"`
	Every   int    `json:"every,omitempty"`   // seconds
	At      string `json:"at,omitempty"`      // HH:MM
	Weekday *int   `json:"weekday,omitempty"` // 0: Monday
}

const (
	lmsQueue = "edx.lms.core.default"
	cmsQueue = "edx.cms.core.default"
)

var scheduleEntries = []scheduleEntry{
	{Name: "instructor-tasks", Queue: lmsQueue, Every: 600},
	{Name: "digest-daily", Queue: lmsQueue, At: "08:05"},
	{Name: "digest-weekly", Queue: lmsQueue, At: "08:20", Weekday: new(0)},
	{Name: "saml-metadata", Queue: lmsQueue, At: "04:10"},
	{Name: "expired-tokens", Queue: lmsQueue, At: "03:40"},
	{Name: "rotate-logs", Queue: lmsQueue, Every: 3600},
	{Name: "rotate-logs", Queue: cmsQueue, Every: 3600},
}

func (m *model) mfeFolder() (*folder, error) {
	f := newFolder("mfe", platformUID, platformUID)
	return f, f.rendered("Caddyfile", "Caddyfile", map[string]any{"Apps": m.release.OpenEdX.MicroFrontends})
}

func (m *model) relayNeedsPassword() bool {
	return m.on("smtp") && m.config.Mail.Smarthost != "" && m.config.Mail.User != ""
}

func (m *model) smtpFolder() (*folder, error) {
	f := newFolder("smtp", mailUID, mailGID)
	f.add("password", []byte(m.secrets.smarthost))
	return f, nil
}

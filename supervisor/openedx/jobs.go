package openedx

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"tarima/runtime/container"
	"tarima/supervisor"
)

// Names of the initialisation jobs, in their order.
const (
	jobMySQL      = "mysql-init"
	jobSearchKey  = "meilisearch-init"
	jobLMSMigrate = "lms-migrate"
	jobLMSSetup   = "lms-setup"
	jobCMSMigrate = "cms-migrate"
	jobCMSSetup   = "cms-setup"
	jobSiteRows   = "site-rows"
	jobMFEFlags   = "mfe-flags"
	jobTheme      = "theme"
	jobCMSReindex = "cms-reindex"
)

// jobs prepare a new or changed site. Each is safe to repeat, waits for real
// readiness of what it requires, and runs again only when its reason changes.
func (b *builder) jobs() []supervisor.Job {
	// The caches are among them: what a job changes must leave the cache of an
	// LMS that runs. Search too: migrations prepare its indexes.
	stores := slices.Concat([]string{mysql, mongodb, redis, redisCache}, b.only(search), b.onlyJob(search, jobSearchKey))
	r := b.release
	jobs := []supervisor.Job{
		b.mysqlJob(),
		b.manage(jobLMSMigrate, lms, []string{"migrate", "--noinput"}, 3*time.Hour,
			append([]string{jobMySQL}, stores...), r.Version),
		b.script(jobLMSSetup, lms, "lms_setup.py", 30*time.Minute,
			append([]string{jobLMSMigrate}, stores...),
			b.cmsURL, b.secrets.studioOAuth, r.OpenEdX.LoadPolicies, b.searchValues()),
		b.manage(jobCMSMigrate, cms, []string{"migrate", "--noinput"}, 3*time.Hour,
			append([]string{jobLMSMigrate}, stores...), r.Version),
		b.script(jobCMSSetup, cms, "cms_setup.py", 30*time.Minute,
			append([]string{jobCMSMigrate, jobLMSSetup}, stores...), r.OpenEdX.LoadPolicies),
		b.script(jobSiteRows, lms, "site_rows.py", 20*time.Minute,
			append([]string{jobLMSMigrate}, stores...),
			b.lmsHost, b.cmsHost, b.model.config.Site.Name, b.model.config.Site.Languages),
	}
	if b.on(search) {
		jobs = append(jobs, b.searchKeyJob(),
			// Nothing waits for it, and it may take hours on a large site.
			b.script(jobCMSReindex, cms, "cms_reindex.py", 24*time.Hour,
				append([]string{jobCMSSetup}, stores...), b.searchValues()))
	}
	// Without micro-frontends their flags go, or the LMS would lead there.
	jobs = append(jobs, b.script(jobMFEFlags, lms, "mfe_flags.py", 30*time.Minute,
		append([]string{jobLMSMigrate, jobLMSSetup}, stores...), mfeFlags, b.on(mfe)))
	if r.OpenEdX.Theme != "" {
		jobs = append(jobs, b.script(jobTheme, lms, "theme.py", 20*time.Minute,
			append([]string{jobSiteRows}, stores...), b.lmsHost, b.cmsHost, r.OpenEdX.Theme))
	}
	return jobs
}

func (b *builder) onlyJob(service, job string) []string {
	if b.on(service) {
		return []string{job}
	}
	return nil
}

// jobMemory: the first start runs jobs before the applications, so the share
// of LMS and Studio is theirs; migrations need the most of it.
func (b *builder) jobMemory() int64 { return b.sizes.Limits[lms] + b.sizes.Limits[cms] }

func asJob(spec container.Spec) container.Spec {
	spec.Kind = container.Job
	spec.Group = container.Applications
	spec.StopTimeout = 30 * time.Second
	spec.OOMScoreAdj = 100
	return spec
}

func (b *builder) mysqlJob() supervisor.Job {
	spec := asJob(b.base(jobMySQL, "mysql", container.Applications))
	spec.Limits.MemoryMax = 128 * mib
	spec.User = "999:999"
	spec.Entrypoint = []string{"sh"}
	spec.Args = []string{"-e", ownDir + "/mysql_init.sh"}
	spec.Mounts = []container.Mount{b.config("jobs/mysql", ownDir), tmpfs("/tmp", 16*mib)}
	spec.ReadOnlyRoot = true
	return supervisor.Job{
		Spec: spec, Requires: []string{mysql}, Timeout: 10 * time.Minute, Retries: 5,
		Reason: b.reason(&spec, b.secrets.mysql, b.secrets.mysqlRoot, b.asset("mysql_init.sh")),
	}
}

func (b *builder) searchKeyJob() supervisor.Job {
	spec := asJob(b.base(jobSearchKey, "openedx", container.Applications))
	spec.Limits.MemoryMax = 128 * mib
	spec.User = "1000:1000"
	spec.Args = []string{"python", jobDir + "/meilisearch_key.py"}
	spec.Mounts = []container.Mount{b.config("jobs/openedx", jobDir), tmpfs("/tmp", 16*mib)}
	spec.ReadOnlyRoot = true
	return supervisor.Job{
		Spec: spec, Requires: []string{search}, Timeout: 5 * time.Minute, Retries: 5,
		Reason: b.reason(&spec, b.secrets.meiliUID, b.secrets.meiliKey, b.asset("meilisearch_key.py")),
	}
}

const jobDir = "/openedx/jobs"

// manage is a job that runs one management command.
func (b *builder) manage(name, variant string, command []string, timeout time.Duration, requires []string, matters ...any) supervisor.Job {
	spec := asJob(b.platform(name, variant))
	spec.Limits.MemoryMax = b.jobMemory()
	spec.Args = append([]string{"./manage.py", variant}, command...)
	spec.Mounts = append(spec.Mounts,
		b.config("jobs/openedx", jobDir),
		b.keep(variant+"-job", "/openedx/data", platformUID, platformUID),
		b.keep("openedx-media", "/openedx/media", platformUID, platformUID),
		b.keep("openedx-media-private", "/openedx/media-private", platformUID, platformUID),
	)
	return supervisor.Job{
		Spec: spec, Requires: requires, Timeout: timeout, Retries: 3,
		Reason: b.reason(&spec, matters...),
	}
}

// script is a job that runs a file of assets/jobs inside the platform.
func (b *builder) script(name, variant, file string, timeout time.Duration, requires []string, matters ...any) supervisor.Job {
	// run_path gives the file a namespace of its own; inside the shell's exec
	// its functions could not see its names.
	code := "import runpy, sys; sys.path.insert(0, '" + jobDir + "'); runpy.run_path('" + jobDir + "/" + file + "')"
	return b.manage(name, variant, []string{"shell", "-c", code}, timeout, requires,
		append(matters, b.asset(file), b.asset("site_values.py"))...)
}

// asset returns the text of a script, which is part of the reason to run it.
func (b *builder) asset(name string) string {
	data, err := assets.ReadFile("assets/jobs/" + name)
	if err != nil {
		panic(err) // part of the program, named in this file
	}
	return string(data)
}

// reason is a hash over the image, the command and what matters to it.
func (b *builder) reason(spec *container.Spec, matters ...any) string {
	h := sha256.New()
	for _, v := range append([]any{b.release.Name, spec.Image, strings.Join(spec.Args, "\x00")}, matters...) {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err) // plain data of our own
		}
		h.Write(data)
		h.Write([]byte{'\n'})
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

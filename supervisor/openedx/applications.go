package openedx

import (
	"fmt"
	"time"

	"tarima/runtime/container"
	"tarima/supervisor"
)

// platform is what every container of the platform's image has in common:
// settings, configuration, the folders of its variant.
func (b *builder) platform(name, variant string) container.Spec {
	spec := b.base(name, "openedx", container.Applications)
	spec.User = "1000:1000"
	spec.Env = []string{
		"SERVICE_VARIANT=" + variant,
		"DJANGO_SETTINGS_MODULE=" + variant + ".envs.tutor.production",
		"LMS_CFG=" + configDir + "/lms.env.yml",
		"CMS_CFG=" + configDir + "/cms.env.yml",
	}
	spec.Mounts = []container.Mount{
		b.config(variant+"/settings", platformDir+"/"+variant+"/envs/tutor"),
		b.config(variant+"/config", configDir),
	}
	return spec
}

// files are the folders in which the platform keeps its users' files.
func (b *builder) files(data string) []container.Mount {
	return []container.Mount{
		b.keep(data, "/openedx/data", platformUID, platformUID),
		b.keep("openedx-media", "/openedx/media", platformUID, platformUID),
		b.keep("openedx-media-private", "/openedx/media-private", platformUID, platformUID),
	}
}

// web makes the LMS and Studio.
func (b *builder) web(variant string) supervisor.Service {
	host, processes, harakiri := b.lmsHost, b.sizes.LMSProcesses, lmsHarakiri*time.Second
	if variant == cms {
		host, processes, harakiri = b.cmsHost, b.sizes.CMSProcesses, cmsHarakiri*time.Second
	}
	spec := b.platform(variant, variant)
	spec.Args = []string{"uwsgi", "/openedx/web/uwsgi.ini"}
	spec.Env = append(spec.Env, fmt.Sprintf("UWSGI_WORKERS=%d", processes))
	spec.Mounts = append(spec.Mounts, b.config(variant+"/web", "/openedx/web"))
	spec.Mounts = append(spec.Mounts, b.files(variant)...)
	if variant == lms {
		spec.Limits.CPUWeight = 200
	}
	spec.OOMScoreAdj = 250
	spec.StopTimeout = 45 * time.Second // uWSGI gives requests 30 s of it

	s := supervisor.Service{
		Spec: spec, Ports: []uint16{8000},
		Requires: []string{mysql, mongodb, redis, jobLMSMigrate, jobLMSSetup, jobSiteRows},
		Reaches:  b.only(redisCache, search, smtp),
		Probes: supervisor.Probes{
			Startup: probe(supervisor.ProbeHTTP, 8000, 2*time.Second, 5*time.Second, 10*time.Minute),
			// /heartbeat asks MySQL and MongoDB.
			Readiness: probe(supervisor.ProbeHTTP, 8000, 10*time.Second, 10*time.Second, 20*time.Second),
			// A file that uWSGI serves: says that the application server turns,
			// not that the databases do. While every process is busy nobody
			// answers, for at most harakiri.
			Liveness: probe(supervisor.ProbeHTTP, 8000, 15*time.Second, 10*time.Second, harakiri+30*time.Second),
		},
	}
	s.Probes.Startup.Path, s.Probes.Startup.Host = "/-/alive", host
	s.Probes.Readiness.Path, s.Probes.Readiness.Host = "/heartbeat", host
	s.Probes.Liveness.Path, s.Probes.Liveness.Host = "/-/alive", host
	if variant == cms {
		s.Requires = append(s.Requires, jobCMSMigrate, jobCMSSetup)
		s.Reaches = append(s.Reaches, lms) // log-in, server to server
	}
	return s
}

// worker makes the Celery workers.
func (b *builder) worker(variant string) supervisor.Service {
	name, third := variant+"-worker", "high_mem"
	children, size := b.sizes.LMSConcurrency, b.sizes.LMSChild
	if variant == cms {
		third = "low"
		children, size = b.sizes.CMSConcurrency, b.sizes.CMSChild
	}
	core := "edx." + variant + ".core."
	spec := b.platform(name, variant)
	spec.Args = []string{
		"celery", "--app=" + variant + ".celery", "worker",
		"--loglevel=info",
		"--hostname=" + core + "default.%h",
		"--queues=" + core + "default," + core + "high," + core + third,
		"--max-tasks-per-child=100",
		"--prefetch-multiplier=1",
		"--without-gossip",
		"--without-mingle",
		fmt.Sprintf("--concurrency=%d", children),
		fmt.Sprintf("--max-memory-per-child=%d", size/1024), // KiB
	}
	spec.Mounts = append(spec.Mounts, b.files(variant)...)
	spec.Limits.CPUWeight = 50
	spec.OOMScoreAdj = 300
	// TERM to the main process: running tasks end first.
	spec.StopTimeout = 2 * time.Minute
	s := supervisor.Service{
		Spec: spec, Ports: []uint16{workerHealthPort},
		Requires: []string{mysql, mongodb, redis, jobLMSMigrate},
		Reaches:  b.only(redisCache, search, smtp),
		Probes: supervisor.Probes{
			Startup:   probe(supervisor.ProbeHTTP, workerHealthPort, 2*time.Second, 5*time.Second, 10*time.Minute),
			Readiness: probe(supervisor.ProbeHTTP, workerHealthPort, 15*time.Second, 5*time.Second, 30*time.Second),
			Liveness:  probe(supervisor.ProbeHTTP, workerHealthPort, 30*time.Second, 10*time.Second, 3*time.Minute),
		},
	}
	for _, p := range []*supervisor.Probe{s.Probes.Startup, s.Probes.Readiness, s.Probes.Liveness} {
		p.Path = "/"
	}
	if variant == cms {
		s.Requires = append(s.Requires, jobCMSMigrate)
	}
	return s
}

// workerHealthPort is where workers and the scheduler say how they are
// (assets/settings/workerhealth.py, assets/scheduler/scheduler.py).
const workerHealthPort = 8001

// scheduler asks the workers for what has to happen at set times. It loads no
// platform code.
func (b *builder) scheduler() supervisor.Service {
	if !b.on(scheduler) {
		return supervisor.Service{}
	}
	spec := b.base(scheduler, "openedx", container.Applications)
	spec.User = "1000:1000"
	spec.Args = []string{"python", "/openedx/scheduler/scheduler.py"}
	// Without the platform in reach, nothing of it can be loaded by accident.
	spec.Workdir = "/openedx/data"
	spec.Mounts = []container.Mount{
		b.config("scheduler", "/openedx/scheduler"),
		b.keep("scheduler", "/openedx/data", platformUID, platformUID),
		tmpfs("/tmp", 16*mib),
	}
	spec.ReadOnlyRoot = true
	spec.Limits.CPUWeight = 50
	spec.OOMScoreAdj = 300
	spec.StopTimeout = 10 * time.Second
	s := supervisor.Service{
		Spec: spec, Ports: []uint16{workerHealthPort},
		Requires: []string{redis},
		Probes: supervisor.Probes{
			Startup:   probe(supervisor.ProbeHTTP, workerHealthPort, 2*time.Second, 5*time.Second, 5*time.Minute),
			Readiness: probe(supervisor.ProbeHTTP, workerHealthPort, 30*time.Second, 5*time.Second, 30*time.Second),
			Liveness:  probe(supervisor.ProbeHTTP, workerHealthPort, 60*time.Second, 10*time.Second, 5*time.Minute),
		},
	}
	s.Probes.Startup.Path, s.Probes.Readiness.Path, s.Probes.Liveness.Path = "/", "/ready", "/"
	return s
}

// mfe serves the micro-frontends: static files and nothing else, so it
// reaches nobody. Their configuration is a route of the proxy to the LMS.
func (b *builder) mfe() supervisor.Service {
	if !b.on(mfe) {
		return supervisor.Service{}
	}
	spec := b.base(mfe, "mfe", container.Applications)
	spec.User = "1000:1000"
	// Caddy's file carries this capability; without it in the bounding set the
	// kernel refuses to run the file at all (capabilities(7)).
	spec.Capabilities = []string{"CAP_NET_BIND_SERVICE"}
	spec.Mounts = []container.Mount{
		b.config("mfe", "/etc/caddy"),
		tmpfs("/data", 4*mib), tmpfs("/config", 4*mib),
	}
	spec.ReadOnlyRoot = true
	spec.OOMScoreAdj = 200
	spec.StopTimeout = 10 * time.Second
	path := "/"
	if apps := b.release.OpenEdX.MicroFrontends; len(apps) > 0 {
		path = "/" + apps[0] + "/"
		for _, a := range apps {
			if a == "authn" {
				path = "/authn/"
			}
		}
	}
	ask := func(interval, grace time.Duration) *supervisor.Probe {
		p := probe(supervisor.ProbeHTTP, 8002, interval, 5*time.Second, grace)
		p.Path, p.Host = path, b.mfeHost
		return p
	}
	return supervisor.Service{
		Spec: spec, Ports: []uint16{8002},
		Probes: supervisor.Probes{
			Startup:   ask(time.Second, 2*time.Minute),
			Readiness: ask(15*time.Second, 15*time.Second),
			Liveness:  ask(30*time.Second, 2*time.Minute),
		},
	}
}

// only the services that the site has.
func (b *builder) only(names ...string) []string {
	var out []string
	for _, n := range names {
		if b.on(n) {
			out = append(out, n)
		}
	}
	return out
}

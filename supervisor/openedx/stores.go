package openedx

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"tarima/runtime/container"
	"tarima/supervisor"
)

// Names of the services.
const (
	lms        = "lms"
	cms        = "cms"
	lmsWorker  = "lms-worker"
	cmsWorker  = "cms-worker"
	scheduler  = "scheduler"
	mysql      = "mysql"
	mongodb    = "mongodb"
	redis      = "redis"
	redisCache = "redis-cache"
	search     = "meilisearch"
	smtp       = "smtp"
	mfe        = "mfe"
)

// ownDir is where containers find files that have no place by contract.
const ownDir = "/etc/tarima"

// none: the images' servers run as their own user from the start, so nothing
// has to be dropped.
func none() []string { return []string{} }

// services in the order in which people expect to read them.
func (b *builder) services() []supervisor.Service {
	all := []supervisor.Service{
		b.web(lms), b.web(cms), b.worker(lms), b.worker(cms),
		b.scheduler(), b.mysql(), b.mongodb(),
		b.redis(redis), b.redis(redisCache), b.meilisearch(), b.smtp(), b.mfe(),
	}
	return slices.DeleteFunc(all, func(s supervisor.Service) bool { return s.Spec.Name == "" })
}

// base is what all services have in common.
func (b *builder) base(name, image string, group container.Group) container.Spec {
	return container.Spec{
		Site: b.site, Name: name, Kind: container.Service, Group: group,
		Image:        b.images[image],
		Capabilities: none(),
		NoFile:       65536,
		Limits: container.Limits{
			MemoryMax: b.sizes.Limits[name], CPUWeight: 100, Pids: 512,
		},
		StopSignal: "SIGTERM",
	}
}

func (b *builder) mysql() supervisor.Service {
	spec := b.base(mysql, "mysql", container.Stores)
	spec.User = "999:999"
	spec.Args = append([]string{
		"mysqld",
		"--character-set-server=utf8mb4",
		"--collation-server=utf8mb4_unicode_ci",
		"--binlog-expire-logs-seconds=259200",
		fmt.Sprintf("--innodb-buffer-pool-size=%d", b.sizes.InnoDBPool),
		"--max-connections=120",
		// Names are not looked up, so that a host whose handshakes end early
		// (a probe's do) is never blocked by the host cache.
		"--skip-name-resolve",
	}, b.release.MySQL.Flags...)
	spec.Env = []string{"MYSQL_ROOT_PASSWORD_FILE=" + ownDir + "/root-password"}
	spec.Mounts = []container.Mount{
		b.keep("mysql", "/var/lib/mysql", storeUID, storeUID),
		b.config("mysql", ownDir),
		// Sorting of large tables passes through here: disk, not memory.
		b.keep("mysql-tmp", "/tmp", storeUID, storeUID),
		tmpfs("/var/run/mysqld", 16*mib),
	}
	spec.ReadOnlyRoot = true
	spec.Limits.CPUWeight = 200
	spec.Limits.Pids = 1024
	spec.StopTimeout = 5 * time.Minute
	return supervisor.Service{
		Spec: spec, Ports: []uint16{3306}, Database: true,
		Probes: supervisor.Probes{
			// The first start makes the data folder behind a closed port.
			Startup:   probe(supervisor.ProbeMySQL, 3306, 2*time.Second, 5*time.Second, 20*time.Minute),
			Readiness: probe(supervisor.ProbeMySQL, 3306, 10*time.Second, 5*time.Second, 20*time.Second),
			Liveness:  probe(supervisor.ProbeMySQL, 3306, 30*time.Second, 20*time.Second, 10*time.Minute),
		},
	}
}

func (b *builder) mongodb() supervisor.Service {
	spec := b.base(mongodb, "mongodb", container.Stores)
	spec.User = "999:999"
	spec.Args = append([]string{"mongod"}, b.release.MongoDB.Flags...)
	spec.Args = append(spec.Args, "--wiredTigerCacheSizeGB", wiredTigerGB(b.sizes.WiredTigerCache))
	spec.Mounts = []container.Mount{
		b.keep("mongodb", "/data/db", storeUID, storeUID),
		tmpfs("/data/configdb", mib),
		tmpfs("/tmp", 16*mib),
	}
	spec.ReadOnlyRoot = true
	spec.Limits.CPUWeight = 200
	spec.Limits.Pids = 1024
	spec.StopTimeout = 5 * time.Minute
	return supervisor.Service{
		Spec: spec, Ports: []uint16{27017}, Database: true,
		Probes: supervisor.Probes{
			Startup:   probe(supervisor.ProbeMongo, 27017, 2*time.Second, 5*time.Second, 20*time.Minute),
			Readiness: probe(supervisor.ProbeMongo, 27017, 10*time.Second, 5*time.Second, 20*time.Second),
			Liveness:  probe(supervisor.ProbeMongo, 27017, 30*time.Second, 20*time.Second, 10*time.Minute),
		},
	}
}

// redis makes the durable server and the one for caches.
func (b *builder) redis(name string) supervisor.Service {
	spec := b.base(name, "redis", container.Stores)
	spec.User = "1000:1000"
	spec.Workdir = "/openedx/redis/data"
	spec.Args = []string{"redis-server", "/openedx/redis/config/redis.conf"}
	data := tmpfs("/openedx/redis/data", mib)
	spec.StopTimeout = time.Minute
	if name == redis {
		data = b.keep("redis", "/openedx/redis/data", platformUID, platformUID)
	} else {
		spec.StopTimeout = 10 * time.Second
		spec.OOMScoreAdj = 100
	}
	// The image declares /data for a server that is told nothing else.
	spec.Mounts = []container.Mount{b.config(name, "/openedx/redis/config"), data, tmpfs("/data", mib)}
	spec.ReadOnlyRoot = true
	password := filepath.Join(b.dirs.Config, name, "password")
	ask := func(interval, grace time.Duration) *supervisor.Probe {
		p := probe(supervisor.ProbeRedis, 6379, interval, 5*time.Second, grace)
		p.PasswordFile = password
		return p
	}
	return supervisor.Service{
		Spec: spec, Ports: []uint16{6379}, Database: name == redis,
		Probes: supervisor.Probes{
			Startup:   ask(time.Second, 10*time.Minute), // it may read back a long file
			Readiness: ask(10*time.Second, 15*time.Second),
			Liveness:  ask(20*time.Second, 2*time.Minute),
		},
	}
}

func (b *builder) meilisearch() supervisor.Service {
	if !b.on(search) {
		return supervisor.Service{}
	}
	spec := b.base(search, "meilisearch", container.Stores)
	spec.User = "1000:1000"
	spec.Args = []string{"/bin/meilisearch", "--config-file-path", ownDir + "/config.toml"}
	spec.Mounts = []container.Mount{
		b.keep("meilisearch", "/meili_data", platformUID, platformUID),
		b.config("meilisearch", ownDir),
		tmpfs("/tmp", 16*mib),
	}
	spec.ReadOnlyRoot = true
	spec.Limits.CPUWeight = 50
	spec.OOMScoreAdj = 200
	spec.StopTimeout = time.Minute
	health := func(interval, timeout, grace time.Duration) *supervisor.Probe {
		p := probe(supervisor.ProbeHTTP, 7700, interval, timeout, grace)
		p.Path = "/health"
		return p
	}
	return supervisor.Service{
		Spec: spec, Ports: []uint16{7700},
		Probes: supervisor.Probes{
			Startup:   health(time.Second, 5*time.Second, 10*time.Minute),
			Readiness: health(10*time.Second, 5*time.Second, 15*time.Second),
			Liveness:  health(30*time.Second, 20*time.Second, 3*time.Minute),
		},
	}
}

// smtp is the relay: it takes mail from the site and keeps it in a spool that
// outlives its container until a mail server has it.
func (b *builder) smtp() supervisor.Service {
	if !b.on(smtp) {
		return supervisor.Service{}
	}
	mail := b.model.config.Mail
	spec := b.base(smtp, "smtp", container.Stores)
	spec.User = "100:101"
	// Exim greets other servers with the host's name and refuses none of its
	// own mail only while that name is not also a domain of local mailboxes.
	if len(b.lmsHost) <= 63 {
		spec.Hostname = b.lmsHost
	}
	spec.Env = []string{"HOSTNAME=" + b.lmsHost, "LOCAL_DOMAINS=localhost"}
	if r := b.model.config.Network.Range4; r.IsValid() && !r.Addr().IsPrivate() {
		spec.Env = append(spec.Env, "RELAY_FROM_HOSTS="+r.String())
	}
	if mail.Smarthost != "" {
		spec.Env = append(spec.Env, fmt.Sprintf("SMARTHOST=%s::%d", mail.Smarthost, mail.Port))
	}
	spec.Mounts = []container.Mount{
		b.keep("smtp", "/var/spool/exim", mailUID, mailGID),
		tmpfs("/tmp", 16*mib),
	}
	if b.relayNeedsPassword() {
		spec.Env = append(spec.Env, "SMTP_USERNAME="+mail.User)
		spec.Mounts = append(spec.Mounts, b.config("smtp", ownDir))
		// The image takes the password from the environment alone. Read here,
		// it is in the environment of that one process and in no spec.
		spec.Entrypoint = []string{"/bin/sh", "-c", `SMTP_PASSWORD="$(cat ` + ownDir + `/password)" && export SMTP_PASSWORD && exec "$@"`, "sh"}
		spec.Args = []string{"/sbin/tini", "--", "exim", "-bdf", "-q15m"}
	}
	spec.ReadOnlyRoot = true
	spec.StopTimeout = 30 * time.Second
	return supervisor.Service{
		Spec: spec, Ports: []uint16{8025},
		Probes: supervisor.Probes{
			Startup:   probe(supervisor.ProbeSMTP, 8025, time.Second, 5*time.Second, 2*time.Minute),
			Readiness: probe(supervisor.ProbeSMTP, 8025, 20*time.Second, 10*time.Second, 30*time.Second),
			Liveness:  probe(supervisor.ProbeSMTP, 8025, 60*time.Second, 20*time.Second, 5*time.Minute),
		},
	}
}

func probe(kind supervisor.ProbeKind, port uint16, interval, timeout, grace time.Duration) *supervisor.Probe {
	return &supervisor.Probe{Kind: kind, Port: port, Interval: interval, Timeout: timeout, Grace: grace}
}

package main

import v1 "github.com/google/go-containerregistry/pkg/v1"

// path is what the published images have as PATH, less what is their own.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// debian is the layer that all images share.
func debian() *Stage {
	return &Stage{
		Name:     "debian",
		Packages: []string{"ca-certificates", "tini"},
		Script: `
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log /var/log/apt /var/cache/ldconfig
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /usr/share/info/*
: >/etc/hostname
rm -f /etc/resolv.conf
: >/etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts
: >/etc/machine-id
mkdir -p /var/cache/apt/archives/partial /var/lib/apt/lists/partial
`,
	}
}

// images lists all images, in the order in which they are made. Their shape is
// that of the published ones: the same parts at the same paths under the same
// users.
func images() []*Image {
	base := debian()
	python := campusPython(base)
	return []*Image{
		mysql(base), redis(base), mongodb(base), meilisearch(base), smtp(base), mfe(base),
		campus(python, "1"), campus(python, "2"),
	}
}

func mysql(base *Stage) *Image {
	return &Image{
		Name: "mysql", Tag: "1",
		Top: &Stage{
			Name: "mysql", Files: []string{"mysql"},
			Parent: &Stage{
				Name: "mariadb", Parent: base,
				Before: `
groupadd --system --gid 999 mysql
useradd --system --uid 999 --gid 999 --home-dir /var/lib/mysql --no-create-home --shell /usr/sbin/nologin mysql`,
				Packages: []string{"mariadb-server"},
				Script: `
# What only other uses of the server need.
rm -rf /var/lib/mysql /var/log/mysql /usr/share/mysql/mysql-test /usr/bin/mariadb-ldb /usr/bin/mysql_ldb \
	/usr/bin/sst_dump /usr/bin/aria_read_log /usr/bin/mariadb-backup /usr/bin/mariabackup /etc/mysql/mariadb.conf.d/50-server.cnf`,
			},
			Script: `
ln -sf /usr/sbin/mariadbd /usr/local/bin/mysqld
mkdir -p /var/lib/mysql /var/run/mysqld /docker-entrypoint-initdb.d
chown mysql:mysql /var/lib/mysql /var/run/mysqld
chmod 1777 /var/run/mysqld /var/lib/mysql`,
		},
		Config: v1.Config{
			Entrypoint:   []string{"docker-entrypoint.sh"},
			Cmd:          []string{"mysqld"},
			Env:          []string{path},
			Volumes:      map[string]struct{}{"/var/lib/mysql": {}},
			ExposedPorts: map[string]struct{}{"3306/tcp": {}},
		},
	}
}

func redis(base *Stage) *Image {
	return &Image{
		Name: "redis", Tag: "1",
		Top: &Stage{
			Name: "redis", Parent: base,
			Before: `
groupadd --system --gid 999 redis
useradd --system --uid 999 --gid 999 --home-dir /data --no-create-home --shell /usr/sbin/nologin redis`,
			Packages: []string{"redis-server"},
			Files:    []string{"redis"},
			Script: `
rm -rf /etc/redis /var/lib/redis /var/log/redis
mkdir -p /data
chown redis:redis /data`,
		},
		Config: v1.Config{
			Entrypoint:   []string{"docker-entrypoint.sh"},
			Cmd:          []string{"redis-server"},
			Env:          []string{path},
			WorkingDir:   "/data",
			Volumes:      map[string]struct{}{"/data": {}},
			ExposedPorts: map[string]struct{}{"6379/tcp": {}},
		},
	}
}

// endAsMongod is added to FerretDB, which after SIGTERM waits for its clients to
// go: mongod closes their connections and ends.
const endAsMongod = `package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

func init() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		// What is being written when the signal comes can end.
		time.Sleep(time.Second)
		os.Exit(0)
	}()
}
`

func mongodb(base *Stage) *Image {
	return &Image{
		Name: "mongodb", Tag: "1",
		Top: &Stage{
			Name: "mongodb", Parent: base,
			Before: `
groupadd --system --gid 999 mongodb
useradd --system --uid 999 --gid 999 --home-dir /data/db --no-create-home --shell /usr/sbin/nologin mongodb`,
			Programs: []Program{{
				Target:  "/usr/bin/ferretdb",
				Module:  "github.com/FerretDB/FerretDB@v1.24.0",
				Package: "./cmd/ferretdb",
				Write: map[string]string{
					// Empty in the module; the program refuses to start without.
					"build/version/version.txt": "v1.24.0\n",
					"cmd/ferretdb/stop.go":      endAsMongod,
				},
			}},
			Files: []string{"mongodb"},
			Script: `
mkdir -p /data/db /data/configdb
chown -R mongodb:mongodb /data`,
		},
		Config: v1.Config{
			Entrypoint:   []string{"docker-entrypoint.sh"},
			Cmd:          []string{"mongod"},
			Env:          []string{path, "HOME=/data/db"},
			Volumes:      map[string]struct{}{"/data/db": {}, "/data/configdb": {}},
			ExposedPorts: map[string]struct{}{"27017/tcp": {}},
		},
	}
}

func meilisearch(base *Stage) *Image {
	return &Image{
		Name: "meilisearch", Tag: "1",
		Top: &Stage{
			Name: "meilisearch", Parent: base,
			Programs: []Program{{Target: "/bin/meilisearch", Package: "./test/images/meilisearch"}},
			Script: `
mkdir -p /meili_data
chown 1000:1000 /meili_data`,
		},
		Config: v1.Config{
			Entrypoint:   []string{"tini", "--"},
			Cmd:          []string{"/bin/meilisearch"},
			Env:          []string{path, "MEILI_HTTP_ADDR=0.0.0.0:7700", "MEILI_SERVER_PROVIDER=docker"},
			WorkingDir:   "/meili_data",
			ExposedPorts: map[string]struct{}{"7700/tcp": {}},
		},
	}
}

func smtp(base *Stage) *Image {
	return &Image{
		Name: "smtp", Tag: "1",
		Top: &Stage{
			Name: "smtp", Parent: base,
			Before: `
groupadd --system --gid 101 Debian-exim
useradd --system --uid 100 --gid 101 --home-dir /var/spool/exim --no-create-home --shell /usr/sbin/nologin Debian-exim`,
			Packages: []string{"exim4-daemon-light"},
			Files:    []string{"smtp"},
			Script: `
ln -sf /usr/bin/tini /sbin/tini
ln -sf /usr/sbin/exim4 /usr/bin/exim
rm -rf /var/spool/exim4 /var/log/exim4 /var/lib/exim4/config.autogenerated
mkdir -p /var/spool/exim /var/log/exim
chmod 777 /var/spool/exim
for log in main panic reject; do ln -sf /dev/stdout /var/log/exim/${log}log; done
chown -R 100:101 /var/spool/exim /var/log/exim
chmod u-s /usr/sbin/exim4`,
		},
		Config: v1.Config{
			Entrypoint:   []string{"/sbin/tini", "--"},
			Cmd:          []string{"exim", "-bdf", "-q15m"},
			Env:          []string{path},
			User:         "100:101",
			ExposedPorts: map[string]struct{}{"8025/tcp": {}},
		},
	}
}

func mfe(base *Stage) *Image {
	return &Image{
		Name: "mfe", Tag: "1",
		Top: &Stage{
			Name: "mfe", Parent: &Stage{Name: "caddy", Parent: base, Packages: []string{"caddy"}, Script: "rm -rf /etc/caddy"},
			Files: []string{"mfe"},
			Script: `
mkdir -p /config /data
for app in admin-console authn authoring account communications discussions gradebook learner-dashboard learning ora-grading profile; do
	mkdir -p /openedx/dist/$app
	cp /usr/local/lib/mfe/* /openedx/dist/$app
	sed -i "s/@APP@/$app/g" /openedx/dist/$app/*
done
rm -rf /usr/local/lib/mfe`,
		},
		Config: v1.Config{
			Cmd:          []string{"caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"},
			Env:          []string{path, "XDG_CONFIG_HOME=/config", "XDG_DATA_HOME=/data"},
			WorkingDir:   "/srv",
			ExposedPorts: map[string]struct{}{"8002/tcp": {}},
		},
	}
}

// campusPython is what changes seldom of the platform's stand-in: Python with
// all packages, and the client of the database.
func campusPython(base *Stage) *Stage {
	debs := &Stage{
		Name: "campus-debian", Parent: base,
		Packages: []string{"python3", "python3-venv", "libpython3.11", "libmariadb3", "mariadb-client-core", "libxml2", "libyaml-0-2", "media-types", "tzdata"},
	}
	return &Stage{
		Name: "campus-python", Parent: debs,
		Wheels: &Wheels{
			Name: "campus-wheels", Parent: debs,
			Packages:     []string{"python3-dev", "python3-pip", "gcc", "libc6-dev", "libmariadb-dev", "pkg-config"},
			Requirements: "campus-python/requirements.txt",
			// As in the published image; and the application server is linked
			// against nothing that the image lacks.
			Env: []string{"UWSGI_PROFILE_OVERRIDE=xml=false;ssl=false;pcre=false;json=false;capabilities=false"},
		},
		Script: `
groupadd --gid 1000 app
useradd --uid 1000 --gid 1000 --home-dir /openedx --no-create-home --shell /bin/bash app
mkdir -p /openedx
python3 -m venv /openedx/venv
/openedx/venv/bin/pip install --quiet --no-compile --no-index --find-links /run/wheels --requirement /run/wheels/requirements.txt
/openedx/venv/bin/pip uninstall --quiet --yes pip setuptools
find /openedx/venv -name tests -type d -path '*site-packages*' -prune -exec rm -rf {} +
# Compiled files that do not depend on the sources' times.
find / -xdev -name __pycache__ -type d -prune -exec rm -rf {} +
python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3.11 /openedx/venv/lib || test $? = 1`,
	}
}

// campus stands in for the LMS and Studio. Two versions come from one source;
// the second has another database schema.
func campus(python *Stage, version string) *Image {
	return &Image{
		Name: "campus", Tag: version,
		Top: &Stage{
			Name: "campus-" + version, Parent: python,
			Programs: []Program{{Target: "/usr/local/bin/dockerize", Package: "./test/images/dockerize"}},
			Files:    []string{"campus"},
			Env:      []string{"VERSION=" + version},
			Script: `
cd /openedx/edx-platform
echo "VERSION = $VERSION" >campus/version.py
if [ "$VERSION" = 1 ]; then rm campus/migrations/*_v2_*.py; fi
mkdir -p /openedx/data /openedx/media /openedx/media-private /openedx/config /openedx/themes/indigo/lms/templates \
	/openedx/themes/indigo/cms/templates /openedx/staticfiles/studio /openedx/bin
/openedx/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /openedx/edx-platform
chown -R app:app /openedx/data /openedx/media /openedx/media-private /openedx/config /openedx/staticfiles /openedx/themes`,
		},
		Config: v1.Config{
			User: "1000",
			Cmd:  []string{"uwsgi", "/openedx/uwsgi.ini"},
			Env: []string{
				"PATH=/openedx/venv/bin:/openedx/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"VIRTUAL_ENV=/openedx/venv",
				"LMS_CFG=/openedx/config/lms.env.yml",
				"CMS_CFG=/openedx/config/cms.env.yml",
				"REVISION_CFG=/openedx/config/revisions.yml",
				"COMPREHENSIVE_THEME_DIRS=/openedx/themes",
				"STATIC_ROOT_LMS=/openedx/staticfiles",
				"STATIC_ROOT_CMS=/openedx/staticfiles/studio",
				"LC_ALL=C.UTF-8",
				"PYTHONUNBUFFERED=1",
				"SERVICE_VARIANT=lms",
				"DJANGO_SETTINGS_MODULE=lms.envs.tutor.production",
				"UWSGI_WORKERS=2",
			},
			WorkingDir:   "/openedx/edx-platform",
			ExposedPorts: map[string]struct{}{"8000/tcp": {}},
		},
	}
}

// Package openedx holds all that Tarima knows of Open edX: which services a
// site has, the settings that they read, the steps that prepare a new or
// changed site, the releases, and how the memory of a host is shared out.
//
// [Build] is a pure function from a site file to a [Plan]: the services, jobs
// and routes for the supervisor, and the files and folders that their mounts
// need. [Materialise] puts those on disk.
//
// # Files and how a change of one gets in
//
// A container mounts folders of the site's configuration, never single files:
// a file is replaced by renaming a new one over it, and a mounted file would
// keep showing the old one. Whatever the site file, the release or a secret
// puts into a service's folders is part of the service's hash, so a change of
// it replaces the services that mount it, and no other. What a new version of
// Tarima writes there otherwise is not: it is in the label LabelFiles, and
// gets in with the service's next start.
//
// No value of a site is ever written into Python, shell or SQL text. Python
// files are the same for every site and read their values from JSON beside
// them; what is rendered (YAML, JSON, redis.conf, a few lines of ini and TOML)
// is quoted by its own rules or takes only values of a checked form.
//
// # Two Redis servers
//
// redis holds what must not be lost: task queues (database 0), sessions
// (database 2) and the event bus. It evicts only keys with an end of life, the
// one nearest its end first (volatile-ttl), so a queued task is never evicted,
// and sessions only when they alone fill its memory. redis-cache holds the
// Django caches (database 1), keeps nothing on disk and evicts at will. Memory
// pressure by caches therefore never logs anybody out.
//
// # Where this differs from the usual arrangement on purpose
//
// Each variant mounts its own settings only, so that a change for Studio does
// not restart the LMS and its secrets stay with it. The micro-frontends'
// configuration (/api/mfe_config/v1) is answered by the public proxy from the
// LMS, so their container reaches nothing. The root file system of containers
// of the platform's image is writable and goes with the container: uploads of
// 250 MB pass through /tmp, which on a small server must be disk, not memory.
package openedx

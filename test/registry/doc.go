// Package registry is a container registry for tests and the demo: it serves
// images read-only over plain http on loopback, straight from folders that
// hold OCI image layouts, and it misbehaves on request. It speaks the pull half
// of the OCI distribution specification, v1.1: manifests, blobs with Range,
// tags, and both kinds of authentication that registries use.
//
// An image has a name by the annotations of its layout's index, the first that
// is present of io.containerd.image.name and org.opencontainers.image.ref.name.
// A full reference (docker.io/library/redis:7.4.1) is served under its
// repository path without the host, as a mirror would; a bare tag belongs to
// the repository that the folder's name gives.
//
// Nothing is copied or cached: what is added to the folder is served with the
// next request.
package registry

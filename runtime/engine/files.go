package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"tarima/runtime/container"
)

// writeFiles writes the files that the engine puts over those of the image:
// hosts, hostname and resolv.conf. It returns their folder.
func (e *Engine) writeFiles(record runRecord, spec *container.Spec) (string, error) {
	id := spec.ID()
	dir := e.filesDir(id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("files of %s: %w", id, err)
	}
	files := map[string]string{
		"hosts":       hostsText(record.Hostname, record.Addresses, spec.Hosts),
		"hostname":    record.Hostname + "\n",
		"resolv.conf": resolvText(spec.Resolvers),
	}
	for name, text := range files {
		if err := rewrite(filepath.Join(dir, name), []byte(text)); err != nil {
			return "", fmt.Errorf("files of %s: %w", id, err)
		}
	}
	return dir, nil
}

// UpdateHosts changes the entries of /etc/hosts of a container, running or
// not, beside those for itself. It takes effect at once.
func (e *Engine) UpdateHosts(id string, entries []container.HostsEntry) error {
	ctx := e.contextFor(e.background)
	c, err := e.client.ContainerService().Get(ctx, id)
	if err != nil {
		return e.notFound(id, err)
	}
	record, err := recordOf(c)
	if err != nil {
		return err
	}
	path := filepath.Join(e.filesDir(id), "hosts")
	if !exists(path) {
		return fmt.Errorf("%w: %s has no hosts file here (the machine was restarted)", ErrNotFound, id)
	}
	if err := rewrite(path, []byte(hostsText(record.Hostname, record.Addresses, entries))); err != nil {
		return fmt.Errorf("hosts file of %s: %w", id, err)
	}
	return nil
}

// rewrite replaces the content of a file and keeps the file itself: it is
// bind-mounted into a container, which would not see another one under the
// same name. One write of all bytes comes before the cut, so that a reader
// never finds the file empty.
func rewrite(path string, text []byte) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Chmod(0o644); err != nil { // whatever the umask is
		return err
	}
	if _, err := file.WriteAt(text, 0); err != nil {
		return err
	}
	return file.Truncate(int64(len(text)))
}

func hostsText(hostname string, own container.Addresses, entries []container.HostsEntry) string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	for _, addr := range []netip.Addr{own.V4, own.V6} {
		if addr.IsValid() {
			fmt.Fprintf(&b, "%s %s\n", addr, hostname)
		}
	}
	if !own.V4.IsValid() && !own.V6.IsValid() {
		fmt.Fprintf(&b, "127.0.0.1 %s\n", hostname)
	}
	for _, entry := range entries {
		if entry.Addr.IsValid() && len(entry.Names) > 0 {
			fmt.Fprintf(&b, "%s %s\n", entry.Addr, strings.Join(entry.Names, " "))
		}
	}
	return b.String()
}

// resolvText is a resolv.conf. Without a server the C library asks one on the
// container's own loopback, where nobody listens: the answer comes at once.
func resolvText(servers []netip.Addr) string {
	if len(servers) == 0 {
		return "# this container looks names up in /etc/hosts alone\n"
	}
	var b strings.Builder
	for _, server := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	return b.String()
}

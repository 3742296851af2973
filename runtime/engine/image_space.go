package engine

import (
	"context"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
)

// externalRoot is the folder in which an external containerd unpacks images; ""
// when it does not tell or its file system is not that of this process.
func externalRoot(ctx context.Context, client *containerd.Client) string {
	found, err := client.IntrospectionService().Plugins(ctx, "id=="+snapshotter)
	if err != nil {
		return ""
	}
	for _, plugin := range found.Plugins {
		root := plugin.Exports["root"]
		if info, err := os.Stat(root); root != "" && err == nil && info.IsDir() {
			return root
		}
	}
	return ""
}

// unpackFactor is how much larger than its compressed form a layer is taken to
// be on disk, for the check before a pull. Layers of Debian and Python that
// were measured lie between 2.3 and 3.2.
const unpackFactor = 3

// checkSpace fails with ErrNoSpace when a download of missing bytes and the
// unpacking of packed compressed bytes would leave less than the reserve. It is
// an estimate: a disk that fills up all the same fails the pull later.
func (c *imageCache) checkSpace(what string, missing, packed int64) error {
	if c.root == "" {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(c.root, &fs); err != nil {
		return fmt.Errorf("%s: free space of %s: %w", what, c.root, err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	need := missing + unpackFactor*packed
	if free-need >= c.cfg.Reserve {
		return nil
	}
	return &imageError{what: what, kind: ErrNoSpace, detail: fmt.Sprintf(
		"about %s are needed on %s and %s are to stay free, but only %s are there: free some space, for example with image prune",
		binarySize(need), c.root, binarySize(c.cfg.Reserve), binarySize(free))}
}

func binarySize(n int64) string {
	const mebi = 1 << 20
	if n < 10*1024*mebi {
		return fmt.Sprintf("%.1f MiB", float64(n)/mebi)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/1024/mebi)
}

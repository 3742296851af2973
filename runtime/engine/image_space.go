package engine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// unpackFactor is how much larger than its compressed form a layer is taken to
// be on disk, for the check before a pull. Layers of Debian and Python that
// were measured lie between 2.3 and 3.2.
const unpackFactor = 3

// checkSpace fails with ErrNoSpace when a download of missing bytes and the
// unpacking of packed compressed bytes would leave less than the reserve. It is
// an estimate: a disk that fills up all the same fails the pull later.
func (c *imageCache) checkSpace(what string, missing, packed int64) error {
	if c.root == "" { // an external containerd's root may be anywhere
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

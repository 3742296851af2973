package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"tarima/proxy/routes"
	"tarima/store/durable"
)

// snapshotFile in the proxy's folder: one line "tarima-routes 1 SHA256", then
// the snapshot as JSON. The sum finds what a power cut or a bad disk did.
const (
	snapshotFile  = "routes.snapshot"
	snapshotMagic = "tarima-routes 1 "
)

// errNoSnapshot: the proxy was never told any routes.
var errNoSnapshot = errors.New("no routes remembered")

func saveSnapshot(dir string, s routes.Snapshot) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("remember routes: %w", err)
	}
	sum := sha256.Sum256(body)
	data := append([]byte(snapshotMagic+hex.EncodeToString(sum[:])+"\n"), body...)
	if err := durable.Write(filepath.Join(dir, snapshotFile), data, 0o600); err != nil {
		return fmt.Errorf("remember routes: %w", err)
	}
	return nil
}

func loadSnapshot(dir string) (routes.Snapshot, error) {
	f, err := os.Open(filepath.Join(dir, snapshotFile))
	if errors.Is(err, fs.ErrNotExist) {
		return routes.Snapshot{}, errNoSnapshot
	}
	if err != nil {
		return routes.Snapshot{}, fmt.Errorf("remembered routes: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, 2*maxSnapshotBytes))
	if err != nil {
		return routes.Snapshot{}, fmt.Errorf("remembered routes: %w", err)
	}
	head, body, found := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if !found || string(head) != snapshotMagic+hex.EncodeToString(sum[:]) {
		return routes.Snapshot{}, fmt.Errorf("remembered routes: %w: the checksum does not fit", routes.ErrInvalid)
	}
	s, err := decodeSnapshot(body)
	if err != nil {
		return routes.Snapshot{}, fmt.Errorf("remembered routes: %w", err)
	}
	return s, nil
}

// setAside keeps a damaged file for whoever wants to know what happened.
func setAside(dir, name string) (string, error) {
	from := filepath.Join(dir, name)
	to := from + ".bad-" + time.Now().UTC().Format("20060102T150405.000Z")
	if err := os.Rename(from, to); err != nil {
		return "", fmt.Errorf("set aside %s: %w", from, err)
	}
	return to, nil
}

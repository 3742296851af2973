package engine

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// One database without the other is damage, but for a root whose first image
// was never unpacked.
func TestDatabasePair(t *testing.T) {
	meta, overlay := databases[0], databases[1]
	snapshots := filepath.Join(filepath.Dir(overlay), "snapshots")
	for name, test := range map[string]struct {
		files   []string
		folders []string
		damaged bool
	}{
		"nothing":                       {nil, nil, false},
		"both":                          {[]string{meta, overlay}, []string{snapshots + "/1"}, false},
		"nothing unpacked yet":          {[]string{meta}, []string{snapshots}, false},
		"snapshots without database":    {[]string{meta}, []string{snapshots + "/1"}, true},
		"the snapshotter's folder gone": {[]string{meta}, nil, true},
		"no metadata":                   {[]string{overlay}, []string{snapshots}, true},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, folder := range test.folders {
				if err := os.MkdirAll(filepath.Join(root, folder), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, file := range test.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte("pages"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := checkPair(root); errors.Is(err, ErrDamaged) != test.damaged {
				t.Errorf("error is %v, want damage %v", err, test.damaged)
			}
		})
	}
}

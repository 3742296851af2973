package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"
)

// maxSecret bounds one secret; an RSA key in PEM has two or three kilobytes.
const maxSecret = 64 << 10

// secretFiles guards the files beside the database.
type secretFiles struct {
	making sync.Mutex // one Secret at a time, so that a secret is made once
	files  sync.Mutex // around reading, changing and writing a file
}

// secretFile is secrets/SITE.json.
type secretFile struct {
	Version int               `json:"version"`
	SHA256  string            `json:"sha256"` // of the secrets as JSON, keys in order
	Secrets map[string]string `json:"secrets"`
}

func (f *secretFile) sum() (string, error) {
	body, err := json.Marshal(f.Secrets)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:]), nil
}

// Secret returns the site's generated secret of that name. The first time it
// calls generate and stores what comes, in the secrets' file and in the
// database; it returns only when both are on the disk. Secrets are never
// changed and never logged.
func (s *Store) Secret(site, name string, generate func() (string, error)) (string, error) {
	if err := checkNames(site, "secret", name); err != nil {
		return "", err
	}
	s.secrets.making.Lock()
	defer s.secrets.making.Unlock()
	l := location{site, bucketSecrets, []byte(name)}
	var value string
	inDatabase, err := s.get(l, &value)
	if err != nil {
		return "", fmt.Errorf("read secret %s of %s: %w", name, site, err)
	}
	if !inDatabase {
		if value, err = s.makeSecret(site, name, generate); err != nil {
			return "", fmt.Errorf("secret %s of %s: %w", name, site, classify(err))
		}
		if err := s.put(l, value); err != nil {
			return "", fmt.Errorf("secret %s of %s: %w", name, site, err)
		}
		return value, nil
	}
	if err := s.addToFile(site, map[string]string{name: value}); err != nil {
		return "", fmt.Errorf("secret %s of %s: %w", name, site, classify(err))
	}
	return value, nil
}

// makeSecret takes a secret that the database does not have from the file, or
// generates it and puts it there.
func (s *Store) makeSecret(site, name string, generate func() (string, error)) (string, error) {
	known, err := s.readSecrets(site)
	if err != nil {
		return "", err
	}
	if value, ok := known[name]; ok {
		return value, nil
	}
	if lost := s.lostFile(site); fileExists(lost) {
		return "", fmt.Errorf("%w: the database had to be recovered and %s is damaged; restore a backup of %s, or remove the damaged file to have new secrets made (data that the old ones protect stays locked)",
			ErrSecretLost, lost, s.secretFile(site))
	}
	value, err := generate()
	if err != nil {
		return "", fmt.Errorf("generate it: %w", err)
	}
	if value == "" || len(value) > maxSecret || !utf8.ValidString(value) {
		return "", fmt.Errorf("generate it: %d bytes came; valid UTF-8 of 1 to %d bytes is wanted", len(value), maxSecret)
	}
	return value, s.addToFile(site, map[string]string{name: value})
}

// SecretNames are the names of the site's generated secrets, in order.
func (s *Store) SecretNames(site string) ([]string, error) {
	if err := checkSite(site); err != nil {
		return nil, err
	}
	known, err := list[string](s, site, bucketSecrets)
	return slices.Sorted(maps.Keys(known)), err
}

func (s *Store) secretFile(site string) string {
	return filepath.Join(s.secretsDir(), site+".json")
}

// lostFile is where a damaged file waits for an administrator's decision.
func (s *Store) lostFile(site string) string { return s.secretFile(site) + ".damaged" }

// secretSites are the sites that have a secrets' file.
func (s *Store) secretSites() []string {
	files, _ := filepath.Glob(filepath.Join(s.secretsDir(), "*.json"))
	var sites []string
	for _, f := range files {
		if site := strings.TrimSuffix(filepath.Base(f), ".json"); siteName.MatchString(site) {
			sites = append(sites, site)
		}
	}
	return sites
}

var errSecretFile = errors.New("the secrets' file is damaged")

// readSecrets reads a site's file; a missing one holds nothing.
func (s *Store) readSecrets(site string) (map[string]string, error) {
	path := s.secretFile(site)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	// Errors of the decoder are not passed on: they may quote a secret.
	var f secretFile
	if json.Unmarshal(data, &f) != nil || f.Version != 1 || f.Secrets == nil {
		return nil, fmt.Errorf("%w: %s", errSecretFile, path)
	}
	if sum, err := f.sum(); err != nil || sum != f.SHA256 {
		return nil, fmt.Errorf("%w: %s does not match its checksum", errSecretFile, path)
	}
	return f.Secrets, nil
}

// addToFile adds secrets to a site's file. Nothing is written when they are
// there.
func (s *Store) addToFile(site string, more map[string]string) error {
	s.secrets.files.Lock()
	defer s.secrets.files.Unlock()
	known, err := s.readSecrets(site)
	if err != nil {
		return err
	}
	changed := false
	for name, value := range more {
		if known[name] != value {
			known[name], changed = value, true
		}
	}
	if !changed {
		return nil
	}
	return s.writeSecrets(site, known)
}

func (s *Store) writeSecrets(site string, known map[string]string) error {
	f := secretFile{Version: 1, Secrets: known}
	var err error
	if f.SHA256, err = f.sum(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(s.secretFile(site), func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	}, nil)
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// reconcileSecrets makes database and files agree after Open.
func (s *Store) reconcileSecrets() error { return s.reconcileSecretsIn(s.db) }

// reconcileSecretsIn gives each of the two places what the other one has.
// Where they differ the file is right: it is written first, and the database
// may come from an older copy.
func (s *Store) reconcileSecretsIn(db *bbolt.DB) error {
	s.secrets.files.Lock()
	defer s.secrets.files.Unlock()
	stored, err := secretsIn(db)
	if err != nil {
		return err
	}
	sites := slices.Collect(maps.Keys(stored))
	for _, site := range s.secretSites() {
		if !slices.Contains(sites, site) {
			sites = append(sites, site)
		}
	}
	for _, site := range sites {
		if err := s.reconcileSite(db, site, stored[site]); err != nil {
			return fmt.Errorf("secrets of %s: %w", site, err)
		}
	}
	return nil
}

func (s *Store) reconcileSite(db *bbolt.DB, site string, stored map[string]string) error {
	known, err := s.readSecrets(site)
	if errors.Is(err, errSecretFile) {
		known = map[string]string{}
		err = s.setAsideSecrets(site)
	}
	if err != nil {
		return err
	}
	all := maps.Clone(known)
	for name, value := range stored {
		if _, there := all[name]; !there {
			all[name] = value
		}
	}
	if !maps.Equal(all, known) {
		if err := s.writeSecrets(site, all); err != nil {
			return err
		}
	}
	if maps.Equal(all, stored) {
		return nil
	}
	s.log.Warn("generated secrets were restored from their file", "site", site, "file", s.secretFile(site))
	return db.Update(func(tx *bbolt.Tx) error {
		b, err := siteBucket(tx, site, bucketSecrets)
		if err != nil {
			return err
		}
		for name, value := range all {
			l := location{site, bucketSecrets, []byte(name)}
			record, err := encode(l, value)
			if err != nil {
				return err
			}
			if err := b.Put(l.key, record); err != nil {
				return err
			}
		}
		return nil
	})
}

// setAsideSecrets moves a damaged secrets' file away. If the database had to
// be recovered as well, secrets may be missing from both, and the file stays in sight
// as the mark of that.
func (s *Store) setAsideSecrets(site string) error {
	to := s.lostFile(site)
	if r, yes := s.Recovered(); !yes || r.Reason == "" {
		to = filepath.Join(s.damagedDir(), "secrets-"+site+"-"+stamp(time.Now())+".json")
	}
	s.log.Error("the file of generated secrets is damaged; it is written again from the database", "file", s.secretFile(site), "moved_to", to)
	if err := os.Rename(s.secretFile(site), to); err != nil {
		return err
	}
	return syncDir(s.secretsDir())
}

// secretsIn reads all secrets of the database.
func secretsIn(db *bbolt.DB) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSites).ForEachBucket(func(site []byte) error {
			b := findBucket(tx, string(site), bucketSecrets)
			if b == nil {
				return nil
			}
			out[string(site)] = map[string]string{}
			return b.ForEach(func(k, raw []byte) error {
				var value string
				// One that cannot be read is put into quarantine by its reader.
				if decode(location{string(site), bucketSecrets, k}, raw, &value) == nil {
					out[string(site)][string(k)] = value
				}
				return nil
			})
		})
	})
	return out, err
}

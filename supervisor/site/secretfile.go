package site

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// ErrSecretFile is matched by every error about a file of secrets that the
// site file names. None of them holds a part of the file.
var ErrSecretFile = errors.New("a file of secrets cannot be used")

const (
	maxSecretFile = 1 << 20
	maxUsers      = 1000
)

// readSecret reads a file that nobody but its owner may read.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSecretFile, err)
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrSecretFile, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a file", ErrSecretFile, path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%w: %s can be read by others than its owner (mode %04o): chmod 600 %s", ErrSecretFile, path, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSecretFile, err)
	}
	if len(data) > maxSecretFile {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrSecretFile, path, maxSecretFile)
	}
	return data, nil
}

// base64URL is RFC 4648 section 5, padded or not.
var base64URL = regexp.MustCompile(`^[A-Za-z0-9_-]{16,}={0,2}$`)

// ReadKey reads the key of an ACME account from a file: base64url, as the
// authority shows it. The error matches [ErrSecretFile].
func ReadKey(path string) (string, error) {
	data, err := readSecret(path)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	if !base64URL.MatchString(key) {
		return "", fmt.Errorf("%w: %s does not hold a key in base64url alone, as the authority shows it", ErrSecretFile, path)
	}
	return strings.TrimRight(key, "="), nil
}

// ReadSettings reads a DNS provider's settings: TOML of strings, as in
// api_token = "…". The error matches [ErrSecretFile].
func ReadSettings(path string) (map[string]string, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	return parseSettings(path, data)
}

func parseSettings(path string, data []byte) (map[string]string, error) {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		// The library's own words quote the line, and so the secret.
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			row, column := decode.Position()
			return nil, fmt.Errorf(`%w: %s:%d:%d: not valid TOML, as in api_token = "…"`, ErrSecretFile, path, row, column)
		}
		return nil, fmt.Errorf(`%w: %s is not valid TOML, as in api_token = "…"`, ErrSecretFile, path)
	}
	out := make(map[string]string, len(values))
	for _, name := range sortedKeys(values) {
		text, ok := values[name].(string)
		if !ok {
			return nil, fmt.Errorf(`%w: %s: %s is not a string in quotes`, ErrSecretFile, path, quoteKey(name))
		}
		out[name] = text
	}
	return out, nil
}

// bcryptHash is what `htpasswd -B` and its kin write: version, cost, 22
// characters of salt and 31 of the hash. Above cost 14 one log-in would take
// more than a second of a processor.
var bcryptHash = regexp.MustCompile(`^\$2[aby]\$(0[4-9]|1[0-4])\$[./A-Za-z0-9]{53}$`)

// ReadUsers reads users and the bcrypt hashes of their passwords from a file
// as `htpasswd -B` writes it: NAME:HASH in each line. Lines that are empty or
// begin with "#" say nothing. The error matches [ErrSecretFile].
func ReadUsers(path string) (map[string]string, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	return parseUsers(path, data)
}

func parseUsers(path string, data []byte) (map[string]string, error) {
	users := map[string]string{}
	number := 0
	for text := range strings.Lines(string(data)) {
		number++
		text = strings.TrimRight(text, "\r\n")
		if strings.TrimSpace(text) == "" || strings.HasPrefix(text, "#") {
			continue
		}
		wrong := func(what string) error {
			return fmt.Errorf("%w: %s:%d: %s", ErrSecretFile, path, number, what)
		}
		name, hash, found := strings.Cut(text, ":")
		switch {
		case !found || name == "" || len(name) > 100 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return nil, wrong("not NAME:HASH, as `htpasswd -B` writes it")
		case !bcryptHash.MatchString(hash):
			return nil, wrong("the password is not kept as a bcrypt hash of cost 4 to 14: write it with `htpasswd -B`")
		case users[name] != "":
			return nil, wrong("a user of this name is there already")
		}
		users[name] = hash
	}
	switch {
	case len(users) == 0:
		return nil, fmt.Errorf("%w: %s names no user: nobody could come in", ErrSecretFile, path)
	case len(users) > maxUsers:
		return nil, fmt.Errorf("%w: %s names %d users; at most %d", ErrSecretFile, path, len(users), maxUsers)
	}
	return users, nil
}

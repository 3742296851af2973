package openedx

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// SecretFunc returns the secret of that name, made by generate at the first
// call and the same for ever after.
type SecretFunc func(name string, generate func() (string, error)) (string, error)

// Names under which the site's secrets are kept.
const (
	SecretMySQLRoot      = "mysql-root-password"
	SecretMySQL          = "mysql-password"
	SecretRedis          = "redis-password"
	SecretRedisCache     = "redis-cache-password"
	SecretMeilisearch    = "meilisearch-master-key"
	SecretMeilisearchUID = "meilisearch-key-uid"
	SecretPlatform       = "openedx-secret-key"
	SecretStudioOAuth    = "cms-oauth2-secret"
	SecretJWT            = "jwt-rsa-private-key" // PKCS#1 PEM
)

// secrets of one site.
type secrets struct {
	mysqlRoot, mysql      string
	redis, redisCache     string
	meiliMaster, meiliUID string
	meiliKey              string // follows from the two above
	platform, studioOAuth string
	jwtPrivate, jwtPublic map[string]string // JSON Web Keys (RFC 7517)
	smarthost             string            // "": no login
	jwtPEM                string
}

// secretLength gives about 190 bits.
const secretLength = 32

func loadSecrets(get SecretFunc) (secrets, error) {
	var s secrets
	for _, want := range []struct {
		name     string
		into     *string
		generate func() (string, error)
	}{
		{SecretMySQLRoot, &s.mysqlRoot, randomSecret},
		{SecretMySQL, &s.mysql, randomSecret},
		{SecretRedis, &s.redis, randomSecret},
		{SecretRedisCache, &s.redisCache, randomSecret},
		{SecretMeilisearch, &s.meiliMaster, randomSecret},
		{SecretMeilisearchUID, &s.meiliUID, randomUUID},
		{SecretPlatform, &s.platform, randomSecret},
		{SecretStudioOAuth, &s.studioOAuth, randomSecret},
		{SecretJWT, &s.jwtPEM, generateRSA},
	} {
		value, err := get(want.name, want.generate)
		if err != nil {
			return s, fmt.Errorf("secret %s: %w", want.name, err)
		}
		// Passwords go into URLs, redis.conf and SQL: nothing in them may need
		// quoting there. Imported ones are checked like generated ones.
		if want.into != &s.jwtPEM && !plainSecret.MatchString(value) {
			return s, fmt.Errorf("%w: secret %s may hold only letters, digits, \"-\" and \"_\"", ErrConfig, want.name)
		}
		*want.into = value
	}
	s.meiliKey = deriveMeilisearchKey(s.meiliMaster, s.meiliUID)
	var err error
	if s.jwtPrivate, s.jwtPublic, err = webKeys(s.jwtPEM); err != nil {
		return s, fmt.Errorf("secret %s: %w", SecretJWT, err)
	}
	return s, nil
}

// values lists everything that must not appear outside of files.
func (s secrets) values() []string {
	all := []string{
		s.mysqlRoot, s.mysql, s.redis, s.redisCache, s.meiliMaster, s.meiliKey,
		s.platform, s.studioOAuth, s.jwtPrivate["d"], s.jwtPrivate["p"], s.jwtPrivate["q"],
	}
	if s.smarthost != "" {
		all = append(all, s.smarthost)
	}
	return all
}

// randomSecret returns letters and digits, each as likely as any other.
func randomSecret() (string, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, secretLength)
	for i := range out {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", err
		}
		out[i] = alphabet[n.Int64()]
	}
	return string(out), nil
}

// randomUUID returns a version 4 UUID (RFC 9562).
func randomUUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]), nil
}

func generateRSA() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{
		Type:  "RSA PRIVATE KEY",
		Bytes: x509.MarshalPKCS1PrivateKey(key),
	})), nil
}

// deriveMeilisearchKey is how Meilisearch makes a key from its number:
// https://www.meilisearch.com/docs/learn/security/differences_master_api_keys
func deriveMeilisearchKey(master, uid string) string {
	mac := hmac.New(sha256.New, []byte(master))
	mac.Write([]byte(uid))
	return hex.EncodeToString(mac.Sum(nil))
}

// webKeys turns an RSA key in PEM form into a private and a public JSON Web
// Key (RFC 7518, 6.3): integers as base64url of their big-endian bytes.
func webKeys(text string) (private, public map[string]string, err error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, nil, errors.New("not a PEM text")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, errors.New("not an RSA key in PKCS#1 form") // the cause could quote the key
	}
	if len(key.Primes) != 2 {
		return nil, nil, errors.New("an RSA key of more than two primes")
	}
	key.Precompute()
	b64 := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	public = map[string]string{
		"kid": "openedx", "kty": "RSA",
		"e": b64(big.NewInt(int64(key.E))), "n": b64(key.N),
	}
	private = map[string]string{
		"d": b64(key.D), "p": b64(key.Primes[0]), "q": b64(key.Primes[1]),
		"dp": b64(key.Precomputed.Dp), "dq": b64(key.Precomputed.Dq), "qi": b64(key.Precomputed.Qinv),
	}
	for name, value := range public {
		private[name] = value
	}
	return private, public, nil
}

package openedx

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"regexp"
	"testing"
)

func TestGeneratedSecrets(t *testing.T) {
	kept := map[string]string{}
	get := func(name string, generate func() (string, error)) (string, error) {
		if s, ok := kept[name]; ok {
			return s, nil
		}
		s, err := generate()
		kept[name] = s
		return s, err
	}
	first, err := loadSecrets(get)
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadSecrets(get)
	if err != nil {
		t.Fatal(err)
	}
	if first.mysql != again.mysql || first.meiliKey != again.meiliKey || first.jwtPEM != again.jwtPEM {
		t.Error("secrets change from one time to the next")
	}
	seen := map[string]string{}
	for name, s := range kept {
		if other, ok := seen[s]; ok {
			t.Errorf("%s and %s are the same", name, other)
		}
		seen[s] = name
		if name != SecretJWT && name != SecretMeilisearchUID && len(s) != secretLength {
			t.Errorf("%s has %d characters", name, len(s))
		}
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(kept[SecretMeilisearchUID]) {
		t.Errorf("not a UUID of version 4: %s", kept[SecretMeilisearchUID])
	}
}

// TestMeilisearchKey: computed beside with OpenSSL,
// printf %s 74c9c733-3368-4738-bbe5-1d18a5fecb37 | openssl dgst -sha256 -hmac MASTER_KEY_16_BYTES.
func TestMeilisearchKey(t *testing.T) {
	const want = "6e1f7d8de9948193595ae13f55ee8e4d5f6b83099545a233d3b5468b5338c915"
	if got := deriveMeilisearchKey("MASTER_KEY_16_BYTES", "74c9c733-3368-4738-bbe5-1d18a5fecb37"); got != want {
		t.Errorf("got %s", got)
	}
}

// TestWebKeys: the numbers of the web key are those of the key.
func TestWebKeys(t *testing.T) {
	text, err := testSecrets(t)(SecretJWT, nil)
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := webKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(text))
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	number := func(m map[string]string, name string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(m[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return new(big.Int).SetBytes(b)
	}
	one := big.NewInt(1)
	p, q := number(private, "p"), number(private, "q")
	if new(big.Int).Mul(p, q).Cmp(number(public, "n")) != 0 || number(public, "n").Cmp(key.N) != 0 {
		t.Error("n is not p times q")
	}
	// qi is the inverse of q modulo p (RFC 8017, 3.2), not the other way round.
	if new(big.Int).Mod(new(big.Int).Mul(number(private, "qi"), q), p).Cmp(one) != 0 {
		t.Error("qi is not the inverse of q modulo p")
	}
	if new(big.Int).Mod(number(private, "d"), new(big.Int).Sub(p, one)).Cmp(number(private, "dp")) != 0 {
		t.Error("dp is not d modulo p-1")
	}
	if number(public, "e").Int64() != 65537 || public["kty"] != "RSA" || public["kid"] != "openedx" {
		t.Errorf("public key: %v", public)
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		if _, ok := public[name]; ok {
			t.Errorf("the public key holds %s", name)
		}
	}
	for _, bad := range []string{"", "x", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"} {
		if _, _, err := webKeys(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

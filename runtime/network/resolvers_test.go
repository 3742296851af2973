package network

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestResolvers(t *testing.T) {
	const resolved = "# made by systemd-resolved\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nsearch lan\n"
	for _, in := range []struct {
		name, conf, resolved string
		want                 []string
	}{
		{"plain", "search lan\nnameserver 9.9.9.9\nnameserver 2620:fe::fe\n", "", []string{"9.9.9.9", "2620:fe::fe"}},
		{"stub", "nameserver 127.0.0.53\noptions edns0 trust-ad\n", resolved, []string{"10.0.0.53"}},
		{"stub beside a real one", "nameserver 127.0.0.53\nnameserver 9.9.9.9\n", resolved, []string{"9.9.9.9"}},
		{"no file", "-", resolved, []string{"10.0.0.53"}},
		{"metadata address", "nameserver 169.254.169.254", "", []string{"169.254.169.254"}},
		{"comments, spaces, rubbish", "#nameserver 1.1.1.1\n nameserver 1.1.1.2\nnameserver\t1.1.1.3 # x\nnameserver\noptions\nnameserver x\nnameservers 1.1.1.4\n", "", []string{"1.1.1.3"}},
		{"twice and too many", "nameserver 1.1.1.1\nnameserver 1.1.1.1\nnameserver ::ffff:1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n", "", []string{"1.1.1.1", "1.1.1.2", "1.1.1.3"}},
		{"loopback only", "nameserver 127.0.0.1\nnameserver ::1\n", "-", nil},
		{"the host's own address", "nameserver 192.0.2.7\n", "-", nil},
		{"none", "", "", nil},
		{"no files", "-", "-", nil},
	} {
		t.Run(in.name, func(t *testing.T) {
			paths := [2]string{filepath.Join(t.TempDir(), "resolv.conf"), filepath.Join(t.TempDir(), "resolved.conf")}
			for i, text := range []string{in.conf, in.resolved} {
				if text == "-" {
					continue
				}
				if err := os.WriteFile(paths[i], []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			own := func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.0.2.7")}, nil }
			got, err := resolvers(paths[0], paths[1], own)
			var want []netip.Addr
			for _, a := range in.want {
				want = append(want, netip.MustParseAddr(a))
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("resolvers are %v, want %v", got, want)
			}
			if (want == nil) != errors.Is(err, ErrNoResolver) {
				t.Errorf("error %v with resolvers %v", err, want)
			}
			if err != nil && !strings.Contains(err.Error(), paths[0]) {
				t.Errorf("error %q does not name the file", err)
			}
		})
	}
	if _, err := resolvers(t.TempDir(), "", hostAddresses); err == nil || errors.Is(err, ErrNoResolver) {
		t.Errorf("a folder as resolv.conf: %v, want an error of its own", err)
	}
}

func FuzzParseResolvConf(f *testing.F) {
	for _, s := range []string{"nameserver 9.9.9.9\n", "nameserver\tfe80::1%eth0", "nameserver ", "\x00", "options\nnameserver 1::\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		addrs, _ := parseResolvConf(bytes.NewReader(b))
		for _, a := range reachableResolvers(addrs, nil) {
			if !a.IsValid() || a.IsLoopback() || a.Zone() != "" || a.Is4In6() {
				t.Fatalf("%v is no resolver for a container", a)
			}
		}
	})
}

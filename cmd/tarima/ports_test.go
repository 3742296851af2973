package main

import (
	"slices"
	"testing"
)

// TestPublicPorts: a port on the loopback is nobody's but this host's, and
// doctor must not ask for a hole in the firewall for it.
func TestPublicPorts(t *testing.T) {
	for _, in := range []struct {
		addresses []string
		want      []uint16
	}{
		{nil, nil},
		{[]string{":80", ":443"}, []uint16{80, 443}},
		{[]string{"0.0.0.0:8080", "[::]:8443"}, []uint16{8080, 8443}},
		{[]string{"192.0.2.1:80", "[2001:db8::1]:443"}, []uint16{80, 443}},
		{[]string{"127.0.0.1:80", "[::1]:443", "localhost:81"}, nil},
		{[]string{"unix:/run/x.sock", "80", ":0", ":70000", ""}, nil},
	} {
		if ports := publicPorts(in.addresses...); !slices.Equal(ports, in.want) {
			t.Errorf("%v: ports %v, want %v", in.addresses, ports, in.want)
		}
	}
}

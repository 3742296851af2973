package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whatever comes and goes, the room keeps its bounds in number and bytes, is
// fair between clients, and forgets nobody.
func TestWaitingRoomProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hold := Hold{
			MaxPerHost: rapid.IntRange(1, 6).Draw(t, "per host"),
			MaxTotal:   rapid.IntRange(1, 10).Draw(t, "in all"),
			MaxBytes:   rapid.Int64Range(1, 100).Draw(t, "bytes"),
		}
		room := newWaitingRoom(hold)
		hosts := []string{"a.test", "b.test"}
		gates := []*gate{newGate(serviceKey{service: "a"}), newGate(serviceKey{service: "b"})}
		clients := []netip.Addr{
			netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"),
			netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), // one client
			{}, // behind a unix socket
		}
		var inside []*ticket // oldest first
		count := func(client netip.Addr, host string) int {
			n := 0
			for _, k := range inside {
				if k.client == network(client) && (host == "" || k.host == host) {
					n++
				}
			}
			return n
		}
		// settle drops who was sent out, and returns them.
		settle := func() (out []*ticket) {
			inside = slices.DeleteFunc(inside, func(k *ticket) bool {
				select {
				case <-k.out:
					out = append(out, k)
					return true
				default:
					return false
				}
			})
			return out
		}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				host := rapid.SampledFrom(hosts).Draw(t, "host")
				client := rapid.SampledFrom(clients).Draw(t, "client")
				bytes := rapid.Int64Range(1, 60).Draw(t, "size")
				own, most := count(client, ""), 0
				for _, c := range clients {
					most = max(most, count(c, host))
				}
				k, err := room.join(host, rapid.SampledFrom(gates).Draw(t, "gate"), client, bytes)
				for _, o := range settle() {
					if !errors.Is(o.why, errFull) || o.client == network(client) {
						t.Fatalf("%v was sent out for %v: %v", o.client, client, o.why)
					}
				}
				switch {
				case err == nil:
					inside = append(inside, k)
				case !errors.Is(err, errFull):
					t.Fatal(err)
				case own == 0 && most > 1 && bytes == 1:
					t.Fatalf("a client that has nothing here was refused, another has %d", most)
				}
			},
			"leave": func(t *rapid.T) {
				if len(inside) == 0 {
					return
				}
				i := rapid.IntRange(0, len(inside)-1).Draw(t, "who")
				room.leave(inside[i])
				room.leave(inside[i]) // once more changes nothing
				inside = slices.Delete(inside, i, i+1)
			},
			"call": func(t *rapid.T) {
				g := rapid.SampledFrom(gates).Draw(t, "gate")
				turn := room.inTurn(g)
				room.call(g)
				expected := 0
				for _, k := range inside {
					called := len(k.called) == 1
					if k.gate == g {
						expected++
						if !called {
							t.Fatal("who waits for it was not called")
						}
						<-k.called
					}
				}
				if len(turn) != expected {
					t.Fatalf("%d in turn, %d wait", len(turn), expected)
				}
				// One per client in turn: nobody is called for the n-th time
				// before all others who have as many.
				nth, last := map[netip.Addr]int{}, 0
				for _, k := range turn {
					nth[k.client]++
					if nth[k.client] < last {
						t.Fatalf("%v's request %d after request %d of another", k.client, nth[k.client], last)
					}
					last = nth[k.client]
				}
			},
			"": func(t *rapid.T) {
				if out := settle(); len(out) > 0 {
					t.Fatalf("%d were sent out for nobody", len(out))
				}
				var bytes int64
				perHost := map[string]int{}
				for _, k := range inside {
					bytes += k.bytes
					perHost[k.host]++
				}
				if len(inside) > hold.MaxTotal || bytes > hold.MaxBytes {
					t.Fatalf("%d requests of %d bytes", len(inside), bytes)
				}
				for host, n := range perHost {
					if n > hold.MaxPerHost {
						t.Fatalf("%d of %s", n, host)
					}
				}
				if room.bytes != bytes || len(room.waiting) != len(inside) || fmt.Sprint(room.hosts) != fmt.Sprint(perHost) {
					t.Fatalf("the room counts %d bytes, %d requests, %v", room.bytes, len(room.waiting), room.hosts)
				}
			},
		})
		room.close()
		if out := settle(); len(inside) > 0 || slices.ContainsFunc(out, func(k *ticket) bool { return !errors.Is(k.why, errClosing) }) {
			t.Fatalf("%d are still inside at the end", len(inside))
		}
		if _, err := room.join("a.test", gates[0], clients[0], 1); !errors.Is(err, errClosing) {
			t.Fatalf("a closed room: %v", err)
		}
	})
}

package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarima/proxy/routes"
)

// frame is a masked text frame, as a client sends it.
func frame(text string) string {
	return "\x81" + string([]byte{0x80 | byte(len(text)), 0, 0, 0, 0}) + text
}

// unmasked is a frame as a server sends it.
func unmasked(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// However frames are cut into writes, the farewell comes between two of them.
func TestFarewellComesBetweenFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		ends := []int{0}
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			size := rapid.SampledFrom([]int{0, 1, 5, 125, 126, 127, 300, 65535, 65536, 70000}).Draw(t, "size")
			first := rapid.SampledFrom([]byte{0x81, 0x01, 0x80, 0x82, 0x89}).Draw(t, "first")
			stream = append(stream, unmasked(first, make([]byte, size))...)
			ends = append(ends, len(stream))
		}
		at := rapid.IntRange(0, len(stream)).Draw(t, "farewell after")
		client, server := net.Pipe()
		defer func() { _ = client.Close() }()
		got := make(chan []byte, 1)
		go func() { all, _ := io.ReadAll(client); got <- all }()
		s := newSocket(server, newGate(serviceKey{})).(*socket)
		s.begun.Store(true)
		write := func(part []byte) {
			for len(part) > 0 {
				n := min(len(part), rapid.SampledFrom([]int{1, 2, 3, 9, 14, 1000, 100000}).Draw(t, "cut"))
				if m, err := s.Write(part[:n]); m != n || err != nil {
					t.Fatalf("%d of %d, %v", m, n, err)
				}
				part = part[n:]
			}
		}
		write(stream[:at])
		s.leave()
		write(stream[at:])
		_ = s.Close()
		end := ends[slices.IndexFunc(ends, func(e int) bool { return e >= at })]
		if want := string(stream[:end]) + string(farewell); string(<-got) != want {
			t.Fatalf("after %d bytes of frames that end at %v", at, ends)
		}
	})
}

// The client's answer to the farewell goes on to the upstream, which may end
// its side in peace.
func TestFarewellReachesTheUpstream(t *testing.T) {
	heard := make(chan string, 1)
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		// One frame, half of it before the drain.
		_, _ = c.Write(unmasked(0x81, []byte("whole"))[:4])
		last := make([]byte, 8)
		_, _ = io.ReadFull(rw, last[:1])
		_, _ = c.Write(unmasked(0x81, []byte("whole"))[4:])
		_, _ = c.Write(unmasked(0x81, []byte("never seen")))
		_, err = io.ReadFull(rw, last)
		heard <- fmt.Sprintf("%q %v", last, err)
	}))
	r := start(t)
	r.put(one(1, address(up), routes.Ready))
	c := r.dialTLS("lms.test", "http/1.1")
	_, _ = io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: lms.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	in := bufio.NewReader(c)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", resp, err)
	}
	if _, err := io.ReadFull(in, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	r.put(one(2, address(up), routes.Draining))
	_, _ = io.WriteString(c, "x")
	rest := make([]byte, 3+len(farewell))
	if _, err := io.ReadFull(in, rest); err != nil || string(rest) != "ole"+string(farewell) {
		t.Fatalf("%q, %v", rest, err)
	}
	answer := "\x88\x82\x00\x00\x00\x00\x03\xe9"
	_, _ = io.WriteString(c, answer)
	if got, want := <-heard, fmt.Sprintf("%q <nil>", answer); got != want {
		t.Errorf("the upstream heard %s, want %s", got, want)
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 {
		t.Errorf("%q after the farewell, %v", rest, err)
	}
}

// A drain ends streams of events, with a proper end of the answer.
func TestDrainEndsEventStreams(t *testing.T) {
	left := make(chan struct{}, 8)
	up := upstreamServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	}))
	r := start(t)
	generation := uint64(0)
	for _, h2 := range []bool{false, true} {
		generation++
		r.put(one(generation, address(up), routes.Ready))
		ctx, cancel := context.WithCancel(t.Context())
		events := r.client.Events(ctx)
		resp, err := r.browser(h2).Get("https://lms.test/events")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 9)); err != nil {
			t.Fatal(err)
		}
		generation++
		r.put(one(generation, address(up), routes.Draining))
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("h2 %v: %q, %v", h2, rest, err)
		}
		_ = resp.Body.Close()
		<-left
		for e := range events {
			if e.Kind == routes.Drained && e.Generation == generation {
				break
			}
		}
		cancel()
	}
	// So does the end of the proxy.
	generation++
	r.put(one(generation, address(up), routes.Ready))
	resp, err := r.browser(true).Get("https://lms.test/events")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(resp.Body); string(rest) != "data: 1\n\n" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	_ = resp.Body.Close()
}

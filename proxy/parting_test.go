package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"testing"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"
)

// However frames are cut into writes, the GOAWAY comes between two of them,
// once, and nothing is lost.
func TestPartingComesBetweenFrames(t *testing.T) {
	lender := httptest.NewTLSServer(nil)
	certificate := lender.TLS.Certificates[0]
	lender.Close()
	rapid.Check(t, func(t *rapid.T) {
		var stream bytes.Buffer
		framer := http2.NewFramer(&stream, nil)
		_ = framer.WriteSettings()
		frames := 1
		for range rapid.IntRange(0, 5).Draw(t, "frames") {
			size := rapid.SampledFrom([]int{0, 1, 255, 256, 16384}).Draw(t, "size")
			_ = framer.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, size))
			frames++
		}
		all := stream.Bytes()
		at := rapid.IntRange(0, len(all)).Draw(t, "part after")
		near, far := net.Pipe()
		server := tls.Server(near, &tls.Config{Certificates: []tls.Certificate{certificate}})
		client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
		got := make(chan []byte, 1)
		go func() { data, _ := io.ReadAll(client); got <- data }()
		if err := server.Handshake(); err != nil {
			t.Fatal(err)
		}
		c := &partingConn{Conn: server}
		write := func(part []byte) {
			for len(part) > 0 {
				n := min(len(part), rapid.SampledFrom([]int{1, 2, 9, 10, 4096, 100000}).Draw(t, "cut"))
				if m, err := c.Write(part[:n]); m != n || err != nil {
					t.Fatalf("%d of %d, %v", m, n, err)
				}
				part = part[n:]
			}
		}
		write(all[:at])
		c.part()
		write(all[at:])
		_ = server.Close()
		data := <-got
		_ = client.Close()
		in := http2.NewFramer(nil, bytes.NewReader(data))
		in.AllowIllegalReads = true
		farewells, others := 0, 0
		for {
			f, err := in.ReadFrame()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatalf("%v after %d frames", err, others)
				}
				break
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				if g.LastStreamID != 1<<31-1 || g.ErrCode != http2.ErrCodeNo || others == 0 {
					t.Fatalf("%v after %d frames", g, others)
				}
				farewells++
			} else {
				others++
			}
		}
		if farewells != 1 || others != frames {
			t.Fatalf("%d GOAWAY among %d frames of %d", farewells, others, frames)
		}
	})
}

package proxy

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var set []time.Time
		count := func(d time.Time) error {
			mu.Lock()
			defer mu.Unlock()
			set = append(set, d)
			return nil
		}
		over := func(d time.Duration) int {
			<-time.After(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			n := len(set)
			set = nil
			return n
		}
		a := newAlarm(&http.Request{ProtoMajor: 2}, count)
		a.arm(time.Now(), time.Second)
		<-time.After(999 * time.Millisecond)
		a.disarm()
		if n := over(time.Minute); n != 0 {
			t.Errorf("taken back in time, it was set %d times", n)
		}
		a.arm(time.Now(), time.Second)
		<-time.After(900 * time.Millisecond)
		a.disarm()
		a.arm(time.Now(), time.Second)
		if n := over(900 * time.Millisecond); n != 0 {
			t.Error("the first one's time ended the second")
		}
		if n := over(time.Minute); n != 1 {
			t.Errorf("it was set %d times", n)
		}
		a.disarm()
		// One that rings too late, while the next is under way already.
		a.arm(time.Now(), time.Second)
		a.ring()
		if n := over(0); n != 0 {
			t.Error("it rang before its time")
		}
		a.disarm()
		a.ring()
		if n := over(time.Minute); n != 0 {
			t.Error("it rang after it was taken back")
		}
		b := newAlarm(&http.Request{ProtoMajor: 1}, count)
		began := time.Now()
		b.arm(began, time.Second)
		b.disarm()
		if len(set) != 2 || !set[0].Equal(began.Add(time.Second)) || !set[1].IsZero() {
			t.Errorf("HTTP/1: %v", set)
		}
	})
}

func TestHasEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		length int64
		header http.Header
		want   bool
	}{
		{"a page", 200, 100_000, http.Header{"Content-Type": {"text/html"}}, true},
		{"without a type", 200, 100_000, http.Header{}, true},
		{"with a type that is none", 200, 100_000, http.Header{"Content-Type": {"/;;"}}, true},
		{"a part", 206, 100_000, http.Header{"Content-Type": {"video/mp4"}}, true},
		{"an error", 500, 100_000, http.Header{}, true},
		{"little", 200, smallAnswer, http.Header{}, false},
		{"no known end", 200, -1, http.Header{}, false},
		{"another protocol", 101, 100_000, http.Header{}, false},
		{"events", 200, 100_000, http.Header{"Content-Type": {"Text/Event-Stream; charset=utf-8"}}, false},
		{"pictures of a camera", 200, 100_000, http.Header{"Content-Type": {"multipart/x-mixed-replace;boundary=x"}}, false},
		{"asked for", 200, 100_000, http.Header{"X-Accel-Buffering": {"No"}}, false},
		{"asked for the other", 200, 100_000, http.Header{"X-Accel-Buffering": {"yes"}}, true},
	} {
		if got := hasEnd(&http.Response{StatusCode: c.status, ContentLength: c.length, Header: c.header}); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if hasEnd(&http.Response{StatusCode: 200, ContentLength: 100_000, Body: http.NoBody, Header: http.Header{}}) {
		t.Error("an answer to HEAD has nothing to be kept")
	}
}

package main

import "testing"

const wrkSaid = `Running 6s test @ https://localhost:8444/bytes/1024
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.44ms    4.55ms  50.22ms   91.06%
    Req/Sec     8.44k     2.63k   11.92k    70.00%
  50634 requests in 6.05s, 54.47MB read
Requests/sec:   8371.84
Transfer/sec:      9.01MB
`

func TestParseWrk(t *testing.T) {
	done, seconds, err := parseWrk(wrkSaid)
	if err != nil || done != 50634 || seconds != 6.05 {
		t.Errorf("%g requests in %g s, %v", done, seconds, err)
	}
	for name, text := range map[string]string{
		"refused":         wrkSaid + "  Non-2xx or 3xx responses: 3\n",
		"broken":          wrkSaid + "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
		"nothing":         "  0 requests in 6.05s, 0B read\n",
		"another program": "hello\n",
	} {
		if _, _, err := parseWrk(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

const h2loadSaid = `
finished in 3.01s, 9040.50 req/s, 9.02MB/s
requests: 27126 total, 27206 started, 27126 done, 27126 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 27128 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 27.06MB (28372345) total
`

func TestParseH2load(t *testing.T) {
	done, seconds, err := parseH2load(h2loadSaid)
	if err != nil || done != 27126 || seconds != 3.01 {
		t.Errorf("%g requests in %g s, %v", done, seconds, err)
	}
	for name, text := range map[string]string{
		"refused": "finished in 3.01s, 1 req/s\nrequests: 5 total, 5 started, 5 done, 4 succeeded, 1 failed, 0 errored, 0 timeout\nstatus codes: 4 2xx, 0 3xx, 0 4xx, 1 5xx\n",
		"broken":  "finished in 3.01s, 1 req/s\nrequests: 5 total, 5 started, 5 done, 4 succeeded, 0 failed, 1 errored, 0 timeout\nstatus codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx\n",
		"nothing": "finished in 3.01s, 0 req/s\nrequests: 0 total, 0 started, 0 done, 0 succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 0 2xx, 0 3xx, 0 4xx, 0 5xx\n",
		"other":   "hello\n",
	} {
		if _, _, err := parseH2load(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestChosenParts(t *testing.T) {
	if !chosen("", "door") || !chosen("memory,door", "door") || chosen("doorstep", "door") {
		t.Error("chosen")
	}
	if known("memory,door", partNames()) != nil || known("", partNames()) != nil || known("doors", partNames()) == nil || known("h1", doorNames()) != nil {
		t.Error("known")
	}
}

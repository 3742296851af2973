package supervisor

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tarima/runtime/container"
)

// Reason says why something is as it is: a code that never changes its meaning,
// and what fills the places of its sentence. People read it in their language;
// String is the English of it.
type Reason struct {
	Code string `json:"code"`
	// Args are names, numbers and what others said (errors, answers of probes);
	// the latter are English or whatever the other speaks.
	Args map[string]string `json:"args,omitempty"`
	// Because is the reason behind it, where the sentence has a place for it.
	Because *Reason `json:"because,omitempty"`
}

// sentences of reasons by code. A place is {Name}; {Because} is the sentence of
// the reason behind.
var sentences = map[string]string{
	"said":              "{Text}", // nothing but what somebody else said
	"site-stops":        "the site stops",
	"stopped":           "an administrator stopped it",
	"on-demand":         "starts with the first request",
	"unknown-yet":       "what runs is not known yet",
	"overdue":           "{Action} of {Name} has not returned for {Time}",
	"last":              "last: {Because}",
	"tried-again":       "{Because} (tried again at {At})",
	"step-failed":       "the last step failed: {Because}",
	"stop-failed":       "the last attempt to stop it failed",
	"draining":          "lets running requests end before it stops: {Because}",
	"changed":           "its specification changed",
	"changed-waits":     "its specification changed, and the present one goes on for now: {Because}",
	"requested":         "an administrator asked for a restart",
	"requested-waits":   "an administrator asked for a restart, and the present one goes on for now: {Because}",
	"other-details":     "this version of Tarima would start it with other details than the one that did",
	"job-outdated":      "it runs for a reason that is no longer wanted",
	"job-timeout":       "it took longer than {Time}",
	"job-late":          "it was stopped because it took longer than {Time}",
	"removed-waits":     "is no part of the site any more; waits for {Name} to stop first",
	"waits-stop":        "waits for {Name} to stop first",
	"waits-job":         "waits for the job {Name}",
	"waits-stopped":     "waits for {Name}, which an administrator stopped",
	"waits-service":     "waits for {Name}, which {Because}",
	"waits-replacement": "waits for {Name}, which is to be replaced first",
	"waits-network":     "waits for the site's network",
	"network-failed":    "waits for the site's network: {Error}",
	"pulling":           "its image is being brought here",
	"pull-queued":       "waits for other images to be brought here first",
	"pull-failed":       "its image could not be brought here: {Error}",
	"being-stopped":     "is being stopped",
	"being-started":     "is being started",
	"not-running":       "does not run",
	"starting":          "is starting",
	"starting-unasked":  "is starting: not asked yet",
	"starting-answer":   "is starting: {Answer}",
	"unready":           "does not answer as it should: {Answer}",
	"start-hung":        "did not finish starting: {Answer}",
	"hung":              "gave no sign of life: {Answer}",
	"hung-now":          "gives no sign of life: {Answer}",
	"held-dependency":   "{Because}; not restarted: {Name}, which it depends on, is not ready",
	"held-pressure":     "{Because}; not restarted: {Pressure}",
	"held-group":        "{Because}; not restarted: {Name} of the same group is being restarted",
	"held-budget":       "{Because}; not restarted: {Restarts} restarts for failed probes within {Time} are enough",
	"unseen":            "{Because} while the supervisor did not run",
	"exit-unknown":      "ended while nobody watched (the machine restarted, or the engine's state was lost)",
	"exit-code":         "ended with exit code {Code}",
	"exit-signal":       "ended by signal {Signal} (exit code {Code})",
	"oom":               "out of memory (exit code {Code})",
	"oom-limit":         "out of memory: it reached its limit of {Limit} (exit code {Code})",
}

// Sentences returns the English sentence of every code, for whoever says them in
// another language.
func Sentences() map[string]string { return maps.Clone(sentences) }

// KnownReason says whether there is a sentence for a code: a newer daemon may
// tell others.
func KnownReason(code string) bool { return sentences[code] != "" }

// because makes a reason of a code and of what fills its places: names and
// values in turn.
func because(code string, places ...string) Reason {
	r := Reason{Code: code}
	for pair := range slices.Chunk(places, 2) {
		if r.Args == nil {
			r.Args = map[string]string{}
		}
		r.Args[pair[0]] = pair[1]
	}
	return r
}

// behind returns r with the reason behind it.
func (r Reason) behind(other Reason) Reason {
	r.Because = &other
	return r
}

// said is what somebody else said; "" is no reason.
func said(text string) Reason {
	if text == "" {
		return Reason{}
	}
	return because("said", "Text", text)
}

// none says that there is no reason to tell.
func (r Reason) none() bool { return r.Code == "" }

// told is the reason as part of an answer; nil when there is none.
func (r Reason) told() *Reason {
	if r.none() {
		return nil
	}
	return &r
}

// String is the reason in English; "" when there is none.
func (r Reason) String() string {
	places := make([]string, 0, 2*len(r.Args)+2)
	for name, value := range r.Args {
		places = append(places, "{"+name+"}", value)
	}
	if r.Because != nil {
		places = append(places, "{Because}", r.Because.String())
	}
	// One pass: what somebody else said is not searched for places.
	return strings.NewReplacer(places...).Replace(sentences[r.Code])
}

// exitReason says how a container ended.
func exitReason(e *container.Exit, limits container.Limits) Reason {
	switch {
	case e == nil || e.Unknown:
		return because("exit-unknown")
	case e.OOM && limits.MemoryMax > 0:
		return because("oom-limit", "Limit", bytesText(limits.MemoryMax), "Code", strconv.Itoa(e.Code))
	case e.OOM:
		return because("oom", "Code", strconv.Itoa(e.Code))
	case e.Code > 128 && e.Code < 128+65:
		return because("exit-signal", "Signal", strconv.Itoa(e.Code-128), "Code", strconv.Itoa(e.Code))
	default:
		return because("exit-code", "Code", strconv.Itoa(e.Code))
	}
}

// recalled makes a reason of a sentence that was written down in an earlier life:
// that of an end with that exit code, where it is one.
func recalled(sentence string, code *int) Reason {
	_, unseen, _ := strings.Cut(sentences["unseen"], "{Because}")
	if end, found := strings.CutSuffix(sentence, unseen); found {
		return because("unseen").behind(recalled(end, code))
	}
	if time, found := strings.CutPrefix(sentence, strings.TrimSuffix(sentences["job-late"], "{Time}")); found {
		return because("job-late", "Time", time)
	}
	exits := []container.Exit{{Unknown: true}}
	if code != nil {
		exits = append(exits, container.Exit{Code: *code}, container.Exit{Code: *code, OOM: true})
	}
	for i := range exits {
		if r := exitReason(&exits[i], container.Limits{}); r.String() == sentence {
			return r
		}
	}
	before, after, _ := strings.Cut(sentences["oom-limit"], "{Limit}")
	rest, found := strings.CutPrefix(sentence, before)
	if code == nil || !found {
		return said(sentence)
	}
	limit, found := strings.CutSuffix(rest, strings.ReplaceAll(after, "{Code}", strconv.Itoa(*code)))
	if !found {
		return said(sentence)
	}
	return because("oom-limit", "Limit", limit, "Code", strconv.Itoa(*code))
}

// clock writes a time of day as reasons do.
func clock(t time.Time) string { return t.UTC().Format("15:04:05Z") }

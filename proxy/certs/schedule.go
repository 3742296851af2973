package certs

import (
	"hash/fnv"
	"time"
)

const (
	// watchEvery is how often everything is looked at again, whatever was
	// planned: the wall clock may have jumped.
	watchEvery = time.Minute
	// Pauses between attempts.
	firstRetry = time.Minute
	lastRetry  = 6 * time.Hour
	// maxRetryAfter is the longest wait that is believed of an authority: its
	// limits are counted by the week.
	maxRetryAfter = week
	// doubtFor is how long the check before a first order keeps a name back.
	// After that the authority has the last word: it may see another name
	// system than this server does.
	doubtFor = time.Hour
)

// retryPause after so many failures: doubled each time, a little different for
// each name so that they do not come all at once.
func retryPause(name string, failures int) time.Duration {
	pause := lastRetry
	if failures < 10 {
		pause = min(firstRetry<<max(failures-1, 0), lastRetry)
	}
	return pause + time.Duration(share(name)*float64(pause)/10)
}

// share of a name is a number from 0 to 1 that stays the same for the name.
func share(name string) float64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // never fails
	return float64(h.Sum32()) / (1 << 32)
}

// renewAt is when a certificate is due: at the moment within the window that
// its authority suggested (RFC 9773), otherwise with a third of its life left,
// half of it when that life is ten days or less (as Let's Encrypt advises).
// Names are spread over a hundredth of the life.
func renewAt(name string, notBefore, notAfter time.Time, a advice) time.Time {
	life := notAfter.Sub(notBefore)
	left := life / 3
	if life <= 10*24*time.Hour {
		left = life / 2
	}
	at := notAfter.Add(-left - time.Duration(share(name)*float64(life)/100))
	if !a.Selected.IsZero() {
		at = a.Selected
		// An authority that suggests a time when the certificate has run out
		// is wrong.
		if last := notAfter.Add(-life / 20); at.After(last) {
			at = last
		}
	}
	return at
}

// advice is what an authority said of the renewal of one certificate.
type advice struct {
	Serial   string    `json:"serial"` // of the certificate, hexadecimal
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Selected time.Time `json:"selected"`
	Ask      time.Time `json:"ask"` // again, not before
}

// Bounds of how often an authority is asked for its advice.
const (
	adviceLeast = time.Hour
	adviceUsual = 6 * time.Hour
	adviceMost  = 24 * time.Hour
)

// askAgain bounds what the authority said about when to ask again.
func askAgain(now time.Time, said *time.Time) time.Time {
	at := now.Add(adviceUsual)
	if said != nil {
		at = *said
	}
	if least := now.Add(adviceLeast); at.Before(least) {
		at = least
	}
	return earlier(at, now.Add(adviceMost))
}

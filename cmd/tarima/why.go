package main

import (
	"strings"

	"tarima/supervisor"
)

// why says a reason in the language of the reader. The English sentence is what
// remains of one that a newer daemon tells and this program does not know.
func (t text) why(english string, r *supervisor.Reason) string {
	if r == nil {
		return english
	}
	if said, ok := t.reason(*r); ok {
		return said
	}
	return english
}

func (t text) reason(r supervisor.Reason) (string, bool) {
	if !supervisor.KnownReason(r.Code) {
		return "", false
	}
	places := values{}
	for name, value := range r.Args {
		places[name] = value
	}
	if r.Because != nil {
		behind, ok := t.reason(*r.Because)
		if !ok {
			return "", false
		}
		places["Because"] = behind
	}
	said := t.say("why."+r.Code, places)
	return said, !strings.Contains(said, "<no value>")
}

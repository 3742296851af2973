package routes

import "time"

// RequestState is what a request under way is waiting for.
type RequestState string

// States of a request.
const (
	RequestReading RequestState = "reading" // the rest of its body
	RequestHeld    RequestState = "held"    // its service
	RequestWaiting RequestState = "waiting" // the application's answer
	RequestSending RequestState = "sending" // the visitor, who takes the answer
	RequestOpen    RequestState = "open"    // nothing: it is a websocket
)

// Request is one that is under way. It is input from a process that may be
// hostile: check every field.
type Request struct {
	ID       string        `json:"id"` // as in X-Request-Id
	Client   string        `json:"client"`
	Method   string        `json:"method"`
	Host     string        `json:"host"`
	Path     string        `json:"path"` // without query and without secrets
	Proto    string        `json:"proto"`
	State    RequestState  `json:"state"`
	Age      time.Duration `json:"age"`      // nanoseconds
	Received int64         `json:"received"` // bytes of its body
	Sent     int64         `json:"sent"`     // bytes of its answer's body
}

// Requests are those under way, the oldest first.
type Requests struct {
	InFlight int `json:"inFlight"` // all of them
	Held     int `json:"held"`     // of those, the ones that wait for a service
	// Requests are the oldest MaxRequests.
	Requests []Request `json:"requests"`
}

// MaxRequests bounds a list of requests.
const MaxRequests = 1000

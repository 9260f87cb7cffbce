package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
)

// Kind says what a line is about.
type Kind string

// The kinds. Begin and Broken open a file: the first of a chain, and the one after
// a place where the chain does not hold.
const (
	Change  Kind = "change"
	Refused Kind = "refusal"
	Begin   Kind = "begin"
	Broken  Kind = "broken"
)

// Request says who asks for something, and how the request is found in the log. The
// edge makes it, authentication completes it, and it goes with the caller through the
// core into the trail. The names of its members in JSON are part of the format.
type Request struct {
	User      string `json:"user,omitzero"`       // one that exists, or system:… for the service itself
	Method    string `json:"method,omitzero"`     // of authentication
	Address   string `json:"address,omitzero"`    // of the client, without port
	RequestID string `json:"request_id,omitzero"` // of this request alone
	Route     string `json:"route,omitzero"`      // HTTP method and template: one of a closed set
}

// Event is who did or tried what, when and with which outcome. Empty parts are
// left out. It holds no secret and nothing of a request's body: names, addresses
// and digests only.
type Event struct {
	Kind      Kind      `json:"event"`
	Time      time.Time `json:"time,omitzero"` // UTC, whole milliseconds
	Request             // its Route only where there is no Operation
	Operation string    `json:"operation,omitzero"`
	Slot      string    `json:"slot,omitzero"`
	From      string    `json:"from,omitzero"` // the slot that the key of Slot was in before
	Outcome   string    `json:"outcome,omitzero"`
	// SHA-256 of the DER, in hexadecimal, as openssl req or x509 -outform der gives
	// it to sha256sum.
	CSR         string `json:"csr_sha256,omitzero"`
	Certificate string `json:"certificate_sha256,omitzero"`
	// A line without Count is one refusal. Otherwise it is of that many, the first of
	// them at Since.
	Count int       `json:"count,omitzero"`
	Since time.Time `json:"since,omitzero"`
}

// committed is the outcome of every change: one that fails leaves no trace in the
// store, and none here.
const committed = "committed"

// unreadable is the outcome of a change whose note cannot be read.
const unreadable = "unreadable"

// noteVersion is the format that notes are written in. A change of format gets a
// new number, a reader of the old one, and its own golden file.
const noteVersion = 1

// note is an event without its place in the chain, as it waits in the outbox.
type note struct {
	Version int `json:"v"`
	Event   `json:",inline"`
}

// Bounds of what a line holds, in bytes.
const (
	maxText = 1024 // of one part
	maxLine = 16 << 10
)

// Note is what a change commits beside itself. Time, kind and outcome are set here.
func (e Event) Note(now time.Time) ([]byte, error) {
	e.Kind, e.Outcome, e.Time = Change, committed, stamp(now)
	e.bound()
	b, err := json.Marshal(note{noteVersion, e})
	if err != nil {
		return nil, fmt.Errorf("encode an audit note: %w", err)
	}
	return b, nil
}

// decodeNote is strict: it accepts what Note makes.
func decodeNote(b []byte) (Event, error) {
	var n note
	if err := json.Unmarshal(b, &n, json.RejectUnknownMembers(true)); err != nil {
		return Event{}, fmt.Errorf("decode an audit note: %w", err)
	}
	switch {
	case n.Version != noteVersion:
		return Event{}, fmt.Errorf("decode an audit note: it has format %d, this version reads %d", n.Version, noteVersion)
	case n.Kind != Change || n.Outcome != committed || !n.Time.Equal(stamp(n.Time)):
		return Event{}, errors.New("decode an audit note: it is not one of a change")
	}
	return n.Event, nil
}

func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// bound cuts every text to its bound, and replaces what a terminal would act on. An
// operation says more than a route.
func (e *Event) bound() {
	if e.Operation != "" {
		e.Route = ""
	}
	for _, s := range []*string{&e.User, &e.Method, &e.Address, &e.RequestID, &e.Operation, &e.Route, &e.Slot, &e.From, &e.Outcome} {
		*s = bounded(*s)
	}
}

func bounded(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '.'
		}
		return r
	}, s)
}

// unprintable is also true of bytes that are no UTF-8: ranging over a string gives
// the replacement character for them.
func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

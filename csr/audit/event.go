package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
)

// Kind says what a line is about.
type Kind string

// The kinds. Changes, administration and signatures are notes first; refusals, logins and
// logouts are folded. Begin and Broken open a file: the first of a chain, and the one after a
// place where the chain does not hold.
const (
	Change         Kind = "change"
	Administration Kind = "administration"
	Signed         Kind = "signature"
	Refused        Kind = "refusal"
	Login          Kind = "login"
	Logout         Kind = "logout"
	Begin          Kind = "begin"
	Broken         Kind = "broken"
)

// Operations of administration that this package knows. The others are those of
// whoever makes the events.
const (
	opRestore = "store.restore"
	opClock   = "clock.jump"
	opAccept  = "audit.accept"
)

// serviceUser does what no caller asks for: what the operator's settings order, and what
// the service finds. No users file can hold the name, since a colon ends a name there.
const serviceUser = "system:service"

// ByService is the request of what the service does by itself.
func ByService() Request { return Request{User: serviceUser, Method: "service"} }

// Request says who asks for something, and how the request is found in the log. The
// edge makes it, authentication completes it, and it goes with the caller through the
// core into the trail. The names of its members in JSON are part of the format.
type Request struct {
	User      string `json:"user,omitzero"`       // one that exists, or system:… for the service itself
	Method    string `json:"method,omitzero"`     // of authentication
	Address   string `json:"address,omitzero"`    // of the client, without port
	RequestID string `json:"request_id,omitzero"` // of this request alone
	Session   string `json:"session,omitzero"`    // the beginning of the SHA-256 of its id, in hexadecimal
	Route     string `json:"route,omitzero"`      // HTTP method and template: one of a closed set
	Peer      string `json:"peer,omitzero"`       // of a process on this host: its uid, gid and pid
}

// Event is who did or tried what, when and with which outcome. Empty parts are
// left out. It holds no secret and nothing of a request's body but names, addresses
// and digests.
type Event struct {
	Kind      Kind      `json:"event"`
	Time      time.Time `json:"time,omitzero"` // UTC, whole milliseconds
	Request             // its Route only where there is no Operation
	Operation string    `json:"operation,omitzero"`
	Slot      string    `json:"slot,omitzero"`
	From      string    `json:"from,omitzero"` // the slot that the key of Slot was in before, which is empty now
	Outcome   string    `json:"outcome,omitzero"`
	Replaced  string    `json:"replaced,omitzero"` // "unauthentic" or "damaged": what was in Slot before could not be read
	// Beside is what the same commit did to records without a key.
	Beside []Beside `json:"beside,omitempty"`
	// SHA-256 in hexadecimal: of the payload that Slot holds now, nothing where it is
	// empty; and of the DER, as openssl req or x509 -outform der gives it to sha256sum.
	Payload     string `json:"payload_sha256,omitzero"`
	CSR         string `json:"csr_sha256,omitzero"`
	Certificate string `json:"certificate_sha256,omitzero"`
	// What the CSR or certificate says. Of more than 4 KiB of names these are the first
	// ones, how many there are, and the SHA-256 of all, joined by newlines.
	Subject      string   `json:"subject,omitzero"`
	Names        []string `json:"names,omitempty"`
	NamesCount   int      `json:"names_count,omitzero"`
	NamesSHA256  string   `json:"names_sha256,omitzero"`
	KeyAlgorithm string   `json:"key_algorithm,omitzero"`
	KeySize      int      `json:"key_size,omitzero"`
	Issuer       string   `json:"issuer,omitzero"`
	Serial       string   `json:"serial,omitzero"` // in hexadecimal

	// Of a signature: the RFC 7638 thumbprint of the key, the algorithm, and the digest
	// that was signed, in hexadecimal.
	KeyID     string `json:"kid,omitzero"`
	Algorithm string `json:"algorithm,omitzero"`
	Digest    string `json:"digest,omitzero"`

	Warnings []string `json:"warnings,omitempty"` // of a certificate that was accepted all the same
	Settings []string `json:"settings,omitempty"` // names of those that changed
	// Of a user whom the operator added, changed or removed, and the privileges that were
	// given or taken away.
	Account    string   `json:"account,omitzero"`
	Privileges []string `json:"privileges,omitempty"`

	Reason  string `json:"reason,omitzero"`
	FromKey string `json:"from_key,omitzero"` // ids of keys of the sealing keyset
	ToKey   string `json:"to_key,omitzero"`
	// A line without Count is one event. Otherwise it is of that many, the first of
	// them at Since.
	Count int       `json:"count,omitzero"`
	Since time.Time `json:"since,omitzero"`
}

// Beside is a record without a key. Payload is the SHA-256 of its payload, or nothing
// where the record is gone.
type Beside struct {
	Slot    string `json:"slot"`
	Payload string `json:"payload_sha256,omitzero"`
}

// Outcomes of changes. One that fails leaves no trace in the store, and none here.
const (
	committed = "committed"
	// unreadable: the note of the change cannot be read.
	unreadable = "unreadable"
	// unauthentic: the service did not make the note.
	unauthentic = "unauthentic"
	// missing: notes were taken out of the store before they had lines.
	missing = "missing"
)

// unanchored is the outcome of a Begin where there should have been a chain already.
const unanchored = "unanchored"

// noteVersion is the format that notes are written in. A change of format gets a
// new number, a reader of the old one, and its own golden file.
const noteVersion = 2

// note is an event without its place in the chain, as it waits in the outbox.
type note struct {
	Version int `json:"v"`
	Event   `json:",inline"`
}

// Bounds of what a line holds, in bytes. JSON doubles quotation marks and backslashes
// at worst: an event of the longest parts takes 55 KiB. None has all parts: what has
// warnings has no settings or privileges.
const (
	maxText = 1024           // of one part
	maxSlot = 255 + 1 + 1024 // collection and id
	maxList = 4096           // of names, with three bytes more for each
	maxWarn = 2048           // of warnings, likewise
	maxLine = 64 << 10
)

// Note is what a change commits beside itself. Time, kind and outcome are set here.
func (e Event) Note(now time.Time) ([]byte, error) {
	e.Kind, e.Outcome = Change, committed
	return e.note(now)
}

// Administration is the note of an event that is no change of a record of a client.
func (e Event) Administration(now time.Time) ([]byte, error) {
	e.Kind, e.Outcome = Administration, ""
	return e.note(now)
}

// Signature is the note of a signature.
func (e Event) Signature(now time.Time) ([]byte, error) {
	e.Kind, e.Outcome = Signed, ""
	return e.note(now)
}

func (e Event) note(now time.Time) ([]byte, error) {
	e.Time = stamp(now)
	e.bound()
	b, err := json.Marshal(note{noteVersion, e})
	if err != nil {
		return nil, fmt.Errorf("encode an audit note: %w", err)
	}
	return b, nil
}

// decodeNote is strict: it accepts what Note, Administration and Signature make.
func decodeNote(b []byte) (Event, error) {
	var n note
	if err := json.Unmarshal(b, &n, json.RejectUnknownMembers(true)); err != nil {
		return Event{}, fmt.Errorf("decode an audit note: %w", err)
	}
	change := n.Kind == Change && n.Outcome == committed
	switch {
	case n.Version != noteVersion:
		return Event{}, fmt.Errorf("decode an audit note: it has format %d, this version reads %d", n.Version, noteVersion)
	case !change && (n.Kind != Administration && n.Kind != Signed || n.Outcome != "") || !n.Time.Equal(stamp(n.Time)):
		return Event{}, errors.New("decode an audit note: it is not one of a change, of administration or of a signature")
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
	for _, s := range []*string{
		&e.User, &e.Method, &e.Address, &e.RequestID, &e.Operation, &e.Route, &e.Outcome, &e.Replaced, &e.Subject,
		&e.KeyAlgorithm, &e.Issuer, &e.Serial, &e.Session, &e.Reason, &e.FromKey, &e.ToKey, &e.Peer, &e.KeyID, &e.Algorithm, &e.Digest, &e.Account,
	} {
		*s = bounded(*s, maxText)
	}
	e.Slot, e.From = bounded(e.Slot, maxSlot), bounded(e.From, maxSlot)
	for i := range e.Beside {
		e.Beside[i].Slot = bounded(e.Beside[i].Slot, maxSlot)
	}
	first, whole := boundedList(e.Names, maxList)
	if !whole {
		sum := sha256.Sum256([]byte(strings.Join(e.Names, "\n")))
		e.NamesCount, e.NamesSHA256 = len(e.Names), hex.EncodeToString(sum[:])
	}
	e.Names = first
	e.Settings, _ = boundedList(e.Settings, maxList)
	e.Privileges, _ = boundedList(e.Privileges, maxList)
	e.Warnings, _ = boundedList(e.Warnings, maxWarn)
}

// boundedList returns as many of the texts as fit their bound, and whether all do.
func boundedList(texts []string, most int) (first []string, whole bool) {
	size := 0
	for _, s := range texts {
		if size += len(s) + 3; size > most {
			return first, false
		}
		first = append(first, bounded(s, most))
	}
	return first, true
}

func bounded(s string, most int) string {
	if len(s) > most {
		s = s[:most]
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

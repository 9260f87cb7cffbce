package audit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/keystore/ownfile"
)

// State reads the store at one moment. It calls fn with every record, or with the
// error why it cannot be read, and returns the rest; the records are not in that. A nil
// fn reads no records.
type State func(ctx context.Context, fn func(slot string, revision uint64, digest [32]byte, err error) error) (Snapshot, error)

// Snapshot is what the store says of the trail at one moment.
type Snapshot struct {
	Revision   uint64            `json:"revision"` // of the newest commit
	Head       []byte            `json:"head"`     // code of the newest note, also where that is no more in the outbox
	Anchors    map[string][]byte `json:"anchors"`  // by stream; none where nothing was ever anchored
	Notes      []Note            `json:"notes"`    // in the outbox
	Records    []Held            `json:"records"`  // by slot
	Unreadable []string          `json:"unreadable"`
}

// Note is a note in the outbox.
type Note struct {
	Revision uint64 `json:"revision"`
	Previous []byte `json:"previous"` // code of the note before
	Code     []byte `json:"code"`
	Text     []byte `json:"text"`
	Problem  string `json:"problem,omitzero"` // why it is not authentic
}

// Held is a record of the store.
type Held struct {
	Slot     string `json:"slot"`
	Revision uint64 `json:"revision"`
	Digest   string `json:"payload_sha256"`
}

// Take reads a snapshot with its records.
func Take(ctx context.Context, state State) (Snapshot, error) {
	var held []Held
	var unreadable []string
	s, err := state(ctx, func(slot string, revision uint64, digest [32]byte, cannotRead error) error {
		slot = bounded(slot, maxSlot) // as in lines
		if cannotRead == nil {
			held = append(held, Held{slot, revision, hex.EncodeToString(digest[:])})
		} else {
			unreadable = append(unreadable, slot)
		}
		return nil
	})
	if err != nil {
		return Snapshot{}, err
	}
	slices.SortFunc(held, func(a, b Held) int { return cmp.Compare(a.Slot, b.Slot) })
	s.Records, s.Unreadable = held, unreadable
	return s, nil
}

// notesAfter is where the notes after a revision begin in the chain of notes.
func (s Snapshot) notesAfter(revision uint64) string {
	for _, n := range s.Notes {
		if n.Revision > revision {
			return hex.EncodeToString(n.Previous)
		}
	}
	return hex.EncodeToString(s.Head)
}

// Baseline is what the store held when a line was written. Verify replays the trail
// from there.
type Baseline struct {
	Revision uint64 `json:"revision"` // of the store
	Count    int    `json:"count"`    // of records
	SHA256   string `json:"sha256"`   // over "slot NUL revision NUL digest newline" of each, by slot
	File     string `json:"file,omitzero"`
}

// Break is what an operator accepted.
type Break struct {
	From     uint64   `json:"from"`               // sequence of the last line before the first problem
	To       uint64   `json:"to"`                 // sequence of the last line before this one
	First    string   `json:"first,omitzero"`     // problem
	Problems []string `json:"problems,omitempty"` // of lines before this one: Problem.id of each
	More     int      `json:"more,omitzero"`      // of them
	Records  int      `json:"records,omitzero"`   // problems of the store
}

func (s Summary) asBreak(to uint64) *Break {
	b := &Break{From: to, To: to, More: s.More}
	for i, p := range s.Problems {
		p.File = filepath.Base(p.File)
		if i == 0 {
			b.From, b.First = s.sound, bounded(p.String(), maxText)
		}
		if p.File == storeFile {
			b.Records++
		} else {
			b.Problems = append(b.Problems, p.id())
		}
	}
	return b
}

// id tells problems apart, in whatever folder the file is.
func (p Problem) id() string {
	p.File = filepath.Base(p.File)
	sum := sha256.Sum256([]byte(p.String()))
	return hex.EncodeToString(sum[:8])
}

func digestOf(records []Held) string {
	h, line := sha256.New(), []byte(nil)
	for _, r := range records {
		line = fmt.Appendf(line[:0], "%s\x00%d\x00%s\n", r.Slot, r.Revision, r.Digest)
		h.Write(line)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// newBaseline is the baseline of a snapshot. Where there are records, their list is on
// the disk when it returns. A list without a line, after a crash, harms nobody.
func newBaseline(dir string, s Snapshot) (*Baseline, error) {
	b := &Baseline{Revision: s.Revision, Count: len(s.Records), SHA256: digestOf(s.Records)}
	if b.Count == 0 {
		return b, nil
	}
	b.File = baselineName(b.SHA256[:baselineDigits])
	text, err := json.Marshal(s.Records)
	if err != nil {
		return nil, fmt.Errorf("encode the records of a baseline: %w", err)
	}
	path := filepath.Join(dir, b.File)
	if err := ownfile.Replace(path, text); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return b, errors.Join(ownfile.Adopt(f, dir), f.Close())
}

// The name of the file with a baseline's list has the beginning of its digest.
const (
	baselinePrefix = "baseline-"
	baselineDigits = 16
)

func baselineName(digest string) string { return baselinePrefix + digest + ".json" }

// records reads the list of a baseline, from the first of the folders that has it.
func (b *Baseline) records(o VerifyOptions) ([]Held, error) {
	if b.Count == 0 {
		return nil, nil
	}
	for _, open := range o.openers(filepath.Base(b.File)) {
		f, err := open()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(io.LimitReader(f, int64(b.Count)*(2*maxSlot+256)))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		var records []Held
		if err := json.Unmarshal(text, &records, json.RejectUnknownMembers(true)); err != nil || digestOf(records) != b.SHA256 {
			return nil, &damagedError{b.File + " was changed"}
		}
		return records, nil
	}
	return nil, &damagedError{b.File + " is missing"}
}

// ErrWhole: there is nothing to accept.
var ErrWhole = errors.New("the audit trail is whole and fits the store: there is nothing to accept")

// Accepted is what Accept has accepted.
type Accepted struct {
	Problems   []string `json:"problems"` // the first of them
	More       int      `json:"more,omitzero"`
	Records    int      `json:"records"`             // in the baseline
	Unreadable int      `json:"unreadable,omitzero"` // not in it: each stays a problem until it is deleted
}

// Accept records that the trail and the store are not what the service left, and why
// that is right: after a restore, say. From then on Verify expects what the store holds
// now. Each stream that has problems goes on in a new file, with a line of this; the
// changes in any case, and last. A crash leaves the rest to be accepted again.
func (l *Log) Accept(ctx context.Context, who Request, reason string) (Accepted, error) {
	if l == nil || l.o.State == nil {
		return Accepted{}, errors.New("there is no audit trail")
	}
	if err := l.Settle(ctx); err != nil { // lines of what waits are part of the break
		return Accepted{}, err
	}
	found, err := l.check(ctx)
	if err != nil {
		return Accepted{}, err
	}
	var a Accepted
	for _, s := range found {
		for _, p := range s.Problems {
			a.Problems = append(a.Problems, p.String())
		}
		a.More += s.More
	}
	if len(a.Problems) == 0 {
		return Accepted{}, ErrWhole
	}
	e := Event{Kind: Administration, Request: who, Operation: opAccept, Reason: reason}
	var s Snapshot
	for i, c := range []*chain{l.signatures, l.refusals, l.changes} {
		summary := found[len(found)-1-i]
		if c != l.changes && len(summary.Problems) == 0 {
			continue
		}
		if s, err = l.acceptIn(ctx, c, e, summary); err != nil {
			return Accepted{}, err
		}
	}
	a.Records, a.Unreadable = len(s.Records), len(s.Unreadable)
	return a, nil
}

// acceptIn goes on in a new file of a stream with a line of what is accepted.
func (l *Log) acceptIn(ctx context.Context, c *chain, e Event, found Summary) (s Snapshot, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := l.write(ctx, c, nil); err != nil { // the opening line, if that is due
		return s, err
	}
	number, err := c.nextFile()
	if err != nil {
		return s, err
	}
	a := c.anchored
	a.Kept, a.Last = c.keptWith(number), c.head
	a.Last.File, a.Last.Size = number, 0
	opening := entry{Break: found.asBreak(c.head.Seq)}
	if c == l.changes {
		if s, err = Take(ctx, l.o.State); err != nil {
			return s, err
		}
		if opening.Baseline, err = newBaseline(c.dir, s); err != nil {
			return s, err
		}
		a.Last.Code = s.notesAfter(c.head.Revision)
	}
	if err := c.at(stepListed); err != nil {
		return s, err
	}
	e.Time = stamp(l.o.Now())
	e.bound()
	opening.Event = e
	l.o.Logger.Warn("what is wrong with the audit trail was accepted", "stream", c.stream, "by", e.User, "reason", e.Reason, "file", fileName(c.stream, number))
	return s, c.beginFile(ctx, opening, a)
}

// acceptBreak makes remarks of the problems that were accepted, and goes on from what
// the store held then. Problems that came up later are not accepted.
func (v *verifier) acceptBreak(l line) {
	if v.summary.Stream == Changes {
		defer v.begin(l.Baseline)
	}
	s := &v.summary
	s.Problems = slices.DeleteFunc(s.Problems, func(p Problem) bool {
		accepted := slices.Contains(l.Break.Problems, p.id())
		if accepted && len(s.Remarks) < maxProblems {
			s.Remarks = append(s.Remarks, Problem{p.File, p.Line, "accepted: " + p.What})
		}
		return accepted
	})
	if s.More <= l.Break.More {
		s.More = 0
	}
	v.remark("at %s %s accepted what was wrong with the lines up to here and with the store: %s", l.Time.Format(time.RFC3339), l.User, l.Reason)
}

// begin replays from a baseline on.
func (v *verifier) begin(b *Baseline) {
	if b == nil {
		return
	}
	records, err := b.records(v.o)
	if err != nil {
		v.problem("the records that the store held here are not known: %v", err)
		v.replay.gap()
		return
	}
	v.replay.begin(b, records)
}

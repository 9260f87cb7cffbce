package audit

import (
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// replay follows the lines of changes, and says what the store has to hold after them.
type replay struct {
	held map[string]change // by slot; without digest where the slot is empty
	// floor is the highest revision that lines may have that are not there: what they
	// did to records is not known.
	floor  uint64
	unsure bool   // lines are missing, up to the revision of the next one
	base   uint64 // revision of the baseline, which has all lines up to there
	last   uint64 // revision of the newest line
}

// change is the last one of a slot.
type change struct {
	seq, revision uint64
	digest        string // as bytes
}

func newReplay() *replay { return &replay{held: map[string]change{}} }

// begin goes on from a baseline.
func (r *replay) begin(b *Baseline, records []Held) {
	*r = replay{held: map[string]change{}, base: b.Revision, last: b.Revision}
	for _, h := range records {
		digest, _ := hex.DecodeString(h.Digest) // any other text differs
		r.held[h.Slot] = change{0, h.Revision, string(digest)}
	}
}

// gap says that lines are missing here.
func (r *replay) gap() {
	clear(r.held)
	r.unsure = true
}

// apply follows a line or a note.
func (r *replay) apply(e Event, seq, revision uint64) {
	if revision == 0 {
		return
	}
	if r.unsure {
		r.unsure, r.floor = false, revision-1
	}
	r.last = max(r.last, revision)
	if revision <= r.base || e.Slot == "" || e.Kind == Signed {
		return
	}
	if e.From != "" {
		r.set(e.From, change{seq, revision, ""})
	}
	for _, b := range slices.Concat(e.Beside, []Beside{{e.Slot, e.Payload}}) {
		digest, _ := hex.DecodeString(b.Payload)
		r.set(b.Slot, change{seq, revision, string(digest)})
	}
}

func (r *replay) set(slot string, c change) {
	if c.digest == "" && r.floor == 0 {
		delete(r.held, slot)
		return
	}
	r.held[slot] = c
}

// compare says how the records of the store differ from what the lines say, and how
// many cannot be compared.
func (r *replay) compare(s Snapshot) (problems []string, uncompared int) {
	if r.unsure {
		return nil, len(s.Records)
	}
	for _, h := range s.Records {
		c, known := r.held[h.Slot]
		delete(r.held, h.Slot)
		digest, _ := hex.DecodeString(h.Digest)
		what := ""
		switch {
		case !known && h.Revision <= r.floor:
			uncompared++
		case !known:
			what = fmt.Sprintf("has revision %d, and no line has it: it was put there by somebody else", h.Revision)
		case c.digest == "":
			what = fmt.Sprintf("has revision %d, and %s emptied the slot: a record was put back", h.Revision, c)
		case h.Revision < c.revision:
			what = fmt.Sprintf("has revision %d, and %s wrote revision %d: an older record was put back", h.Revision, c, c.revision)
		case h.Revision > c.revision:
			what = fmt.Sprintf("has revision %d, and the last change of it is revision %d, by %s: lines are missing, or it was changed by somebody else", h.Revision, c.revision, c)
		case string(digest) != c.digest:
			what = fmt.Sprintf("has another payload than %s wrote", c)
		}
		if what != "" {
			problems = append(problems, fmt.Sprintf("%s: the record %s", h.Slot, what))
		}
	}
	for _, slot := range s.Unreadable {
		delete(r.held, slot)
		problems = append(problems, slot+": the record was not written by this service: restore a backup, or delete it")
	}
	for _, slot := range slices.Sorted(maps.Keys(r.held)) {
		if c := r.held[slot]; c.digest != "" {
			problems = append(problems, fmt.Sprintf("%s: there is no record, and %s wrote revision %d: it was removed", slot, c, c.revision))
		}
	}
	return problems, uncompared
}

func (c change) String() string {
	if c.seq == 0 {
		return "the baseline or a note"
	}
	return fmt.Sprintf("line %d", c.seq)
}

// checkStore compares the lines of changes with what the store has: notes that wait,
// and records.
func (v *verifier) checkStore() {
	v.checkUnanchored()
	lines := v.file
	at := v.line
	v.file, v.line = storeFile, 0
	v.checkNotes()
	if v.lost {
		v.replay.gap()
	}
	problems, uncompared := v.replay.compare(v.snapshot)
	for _, what := range problems {
		v.problem("%s", what)
	}
	v.summary.Records, v.summary.Uncompared = len(v.snapshot.Records)-uncompared, uncompared
	v.file, v.line = lines, at
}

// checkUnanchored checks that each line after the anchor is of a note that waits.
func (v *verifier) checkUnanchored() {
	waiting := map[uint64]Note{}
	for _, n := range v.snapshot.Notes {
		waiting[n.Revision] = n
	}
	for _, l := range v.unanchored {
		if l.Revision == 0 || l.Revision > v.snapshot.Revision || l.Outcome == unauthentic || l.Outcome == unreadable {
			continue // has no note; was written meanwhile; or is a problem anyway
		}
		event, err := decodeNote(waiting[l.Revision].Text)
		if err != nil || !reflect.DeepEqual(event, l.Event) {
			v.problem("line %d is of a commit with revision %d, of which the store does not know: the store is an older one, or somebody took its note out", l.Seq, l.Revision)
			return
		}
	}
}

// checkNotes follows the notes that have no line yet, as the service is going to do.
func (v *verifier) checkNotes() {
	at := v.anchor.Last.notePosition
	for _, n := range v.snapshot.Notes {
		if n.Revision <= v.anchor.Last.Revision {
			continue
		}
		if at.Code != hex.EncodeToString(n.Previous) && at.Code != unknownCode {
			v.problem("notes before that of revision %d are missing: somebody took them out", n.Revision)
		}
		at.Code = hex.EncodeToString(n.Code)
		event, err := decodeNote(n.Text)
		if n.Problem == "" && at.Keys != "" {
			var inOrder bool
			if at.Keys, inOrder = at.Keys.next(keyOf(n.Code), v.o.MAC.Primary()); !inOrder {
				n.Problem = "it was made with a key that another key has followed"
			}
		}
		if n.Problem != "" {
			v.problem("the note of revision %d was not made by this service: %s", n.Revision, n.Problem)
			at.Code = unknownCode
		} else if err == nil && n.Revision > v.replay.last {
			v.replay.apply(event, 0, n.Revision)
		}
	}
	if head := hex.EncodeToString(v.snapshot.Head); at.Code != head && at.Code != unknownCode {
		v.problem("the newest notes are missing: somebody took them out, or the store is an older one")
	}
}

// checkEnd checks that the store knows of all changes that have lines. now is the store
// after the lines were read.
func (v *verifier) checkEnd(now Snapshot) {
	if v.seen > now.Revision {
		v.problem("the lines go on to revision %d and the store has revision %d: the store is an older one", v.seen, now.Revision)
	}
}

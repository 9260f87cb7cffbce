package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"attestcsr/keystore/ownfile"
)

// open finds the end of the chain. The anchor says where it was. What a crash has
// left after it is kept or cut off (see commit). Files that are not what the chain
// left stay as they are, and the chain goes on in a new file whose first line says
// why.
//
// Where there should be an anchor already, its absence is an alarm.
func (c *chain) open(ctx context.Context, expected bool) error {
	text, err := c.outbox.Anchor(ctx, c.stream)
	if err != nil {
		return err
	}
	switch {
	case text == nil && expected:
		return c.begin(ctx, "the store has an anchor of the other stream and none of this one", true)
	case text == nil:
		return c.begin(ctx, "", false)
	}
	if c.anchored, err = decodeAnchor(c.anchors, c.stream, text); err != nil {
		return c.begin(ctx, "in the store, "+err.Error(), true)
	}
	c.head, c.kept = c.anchored.Last, c.anchored.Kept
	if err := c.removeReleased(); err != nil {
		return err
	}
	err = c.follow(ctx)
	damaged := (*damagedError)(nil)
	if err != nil && !errors.As(err, &damaged) {
		return err
	}
	if damaged != nil {
		if c.lost, err = c.newestRevision(); err != nil {
			return err
		}
	}
	if err := c.raiseRevisions(ctx); err != nil {
		return err
	}
	if damaged != nil {
		return c.continueAfterDamage(ctx, damaged.reason)
	}
	if _, err := c.append(ctx, nil); err != nil { // the opening line, if that is due
		return err
	}
	if !c.uncommitted() {
		return nil
	}
	return c.commit(ctx)
}

// raiseRevisions makes a store that was put back go on above the revisions that the
// trail has, so that no revision is of two changes, and makes a note of it. After a
// crash before the note the next start does both again.
func (c *chain) raiseRevisions(ctx context.Context) error {
	if c.state == nil {
		return nil
	}
	s, err := c.state(ctx, nil)
	if err != nil {
		return err
	}
	known := c.head.Revision // to the store, by its anchor and its notes
	for _, n := range s.Notes {
		known = max(known, n.Revision)
	}
	newest := max(known, c.lost, c.signatures.lost)
	if s.Revision > newest || s.Revision == newest && newest == known {
		return nil
	}
	if err := c.outbox.Advance(ctx, newest); err != nil {
		return err
	}
	c.tell(ctx, Event{Operation: opRestore, Reason: fmt.Sprintf(
		"the store was put back: it was at revision %d, and the audit trail has revision %d; \"attestcsr audit accept\" accepts that", s.Revision, newest)})
	return nil
}

// newestRevision is the highest revision that an authentic line of this chain has, from
// the file of the anchor on.
func (c *chain) newestRevision() (newest uint64, err error) {
	all, err := filesIn([]string{c.dir}, c.stream)
	if err != nil {
		return 0, err
	}
	for _, f := range all {
		if f.number < c.anchored.Last.File {
			continue
		}
		prev, first := "", true
		_, err := eachLine(f.open, 0, func(text []byte) error {
			l, mac, err := decodeLine(bytes.TrimSuffix(text, []byte("\n")))
			if err != nil || l.Chain != c.anchored.Chain || l.Stream != c.stream {
				prev = ""
				return nil //nolint:nilerr // it is no line of this chain
			}
			if first {
				prev = l.Prev
			}
			if right, _ := authentic(c.mac, l, mac, prev); right {
				newest = max(newest, l.Revision)
			}
			prev, first = mac, false
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	return newest, nil
}

// begin starts a chain. Files that are there already are those of another store. It is
// an alarm where there should have been a chain.
func (c *chain) begin(ctx context.Context, reason string, alarm bool) error {
	number, err := c.nextFile()
	if err != nil {
		return err
	}
	opening := entry{Event: Event{Kind: Begin, Time: stamp(c.now())}}
	at := position{File: number}
	if c.check != nil {
		at.Keys = keyOrder(c.mac.Primary())
	}
	if c.state != nil {
		s, err := Take(ctx, c.state)
		if err != nil {
			return err
		}
		if n := len(s.Records) + len(s.Unreadable); n > 0 && !alarm {
			reason, alarm = fmt.Sprintf("the store holds %d records, and has no anchor of their trail", n), true
		}
		if opening.Baseline, err = newBaseline(c.dir, s); err != nil {
			return err
		}
		at.Code = s.notesAfter(0)
	}
	if alarm {
		opening.Outcome = unanchored
	}
	if number > 1 && reason == "" {
		reason = "the store has no anchor, but there are files of an earlier chain"
	}
	if reason != "" {
		c.log.Error("a new audit trail begins; the files of the old one stay as they are, and \"attestcsr audit verify\" reports what can be said of them",
			"stream", c.stream, "reason", reason, "file", fileName(c.stream, number))
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, by its documentation
	opening.Reason = bounded(reason, maxText)
	return c.beginFile(ctx, opening, anchor{
		Stream: c.stream, Chain: hex.EncodeToString(id[:]), Begun: number,
		Kept: []start{{File: number, Seq: 1}}, Last: at,
	})
}

// continueAfterDamage goes on in a new file after one that is not what the chain
// left.
func (c *chain) continueAfterDamage(ctx context.Context, reason string) error {
	number, err := c.nextFile()
	if err != nil {
		return err
	}
	c.log.Error("the audit trail is damaged; it goes on in a new file, and the damaged one stays as it is: find out who changed it, and run \"attestcsr audit verify\"",
		"stream", c.stream, "reason", reason, "file", fileName(c.stream, number))
	a := c.anchored
	a.Kept, a.Last = c.keptWith(number), c.head
	a.Last.File, a.Last.Size = number, 0
	return c.beginFile(ctx, entry{Event: Event{Kind: Broken, Time: stamp(c.now()), Reason: bounded(reason, maxText)}}, a)
}

// beginFile goes on at the end of an anchor, which is the beginning of a new file,
// with a line that opens it. The anchor is committed first, and holds that line:
// after a crash the next start writes it, so that files without an anchor are always
// those of another store.
func (c *chain) beginFile(ctx context.Context, opening entry, a anchor) error {
	a.Opening = &opening
	if err := c.commitAnchor(ctx, a); err != nil {
		return err
	}
	c.head, c.kept, c.torn = a.Last, a.Kept, false
	_, err := c.append(ctx, nil)
	return err
}

// follow checks that the last line of the anchor is in its place, and moves head
// over the lines after it.
func (c *chain) follow(ctx context.Context) error {
	if err := c.followFile(ctx); err != nil {
		return err
	}
	all, err := filesIn([]string{c.dir}, c.stream)
	if err != nil {
		return err
	}
	for _, f := range all {
		if f.number <= c.head.File {
			continue
		}
		if c.torn {
			return &damagedError{fileName(c.stream, c.head.File) + " ends within a line, and there is a later file"}
		}
		c.moveTo(f.number)
		if err := c.followFile(ctx); err != nil {
			return err
		}
	}
	return nil
}

// followFile checks that head is in its place, and moves it over the lines after it in
// its file, as long as each is the one that the service was to write there. It sets
// torn where an unfinished write comes next.
func (c *chain) followFile(ctx context.Context) error {
	path, name := c.path(c.head.File), fileName(c.stream, c.head.File)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.head.Size == 0:
		return nil // a crash came before it was made
	case errors.Is(err, fs.ErrNotExist):
		return &damagedError{name + " is missing"}
	case err != nil:
		return err
	case info.Size() < c.head.Size:
		return &damagedError{fmt.Sprintf("%s has %d bytes and had %d: lines were cut off", name, info.Size(), c.head.Size)}
	}
	if err := ownfile.Check(path, info, c.log); err != nil {
		return err
	}
	size, inPlace := c.head.Size, c.head.Size == 0
	at := max(0, c.head.Size-maxLine-1) // before the last line
	c.torn, err = eachLine(openerOf(path), at, func(text []byte) error {
		at += int64(len(text))
		if !inPlace {
			l, mac, err := decodeLine(bytes.TrimSuffix(text, []byte("\n")))
			inPlace = err == nil && at == c.head.Size && l.Seq == c.head.Seq && mac == c.head.MAC
			return nil
		}
		expected, err := c.takeOver(ctx, text)
		if err == nil && !expected {
			err = &damagedError{fmt.Sprintf("%s holds, from byte %d on, what the service did not write after line %d", name, c.head.Size, c.head.Seq)}
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !inPlace:
		return &damagedError{fmt.Sprintf("%s does not have line %d where it was", name, c.head.Seq)}
	case c.head.Size > size:
		// A process that was killed may not have flushed them. This flushes any file.
		return ownfile.SyncDir(path)
	}
	return nil
}

// takeOver makes the line after head the new head if it is the one that the service
// was to write there: the line that opens the file, where that is due, or the one
// of the next entry. Other lines are not taken over even where their MAC is right:
// an older store was put back, which gives their revisions to other changes.
func (c *chain) takeOver(ctx context.Context, text []byte) (bool, error) {
	found, _, err := decodeLine(bytes.TrimSuffix(text, []byte("\n")))
	if err != nil {
		return false, nil //nolint:nilerr // it is no line of ours
	}
	want := entry{Event: found.Event}
	switch {
	case c.openingDue():
		want = *c.anchored.Opening
	case c.stream == Refusals: // they were in memory, so that any may be the one
		if want.Kind != Login && want.Kind != Logout {
			want.Kind = Refused
		}
	case c.stream == Signatures:
		waiting, last, err := c.readSignatures(ctx, found.Revision-1, 1)
		if err != nil || len(waiting) == 0 || last != found.Revision {
			return false, err
		}
		want = waiting[0]
	default:
		waiting, err := c.nextChange(ctx)
		if err != nil || len(waiting) == 0 {
			return false, err
		}
		want = waiting[0]
	}
	again, at, err := c.encode(c.head, want, found.Key)
	if err != nil || !bytes.Equal(again, text) {
		return false, nil //nolint:nilerr // it was made with a key that is not ours
	}
	c.head = at
	return true, nil
}

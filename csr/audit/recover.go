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
func (c *chain) open(ctx context.Context) error {
	text, err := c.outbox.Anchor(ctx, c.stream)
	if err != nil {
		return err
	}
	if text == nil {
		return c.begin(ctx, "")
	}
	if c.anchored, err = decodeAnchor(c.mac, c.stream, text); err != nil {
		return c.begin(ctx, "in the store, "+err.Error())
	}
	c.head, c.kept = c.anchored.Last, c.anchored.Kept
	if err := c.removeReleased(); err != nil {
		return err
	}
	err = c.follow(ctx)
	if damaged := (*damagedError)(nil); errors.As(err, &damaged) {
		return c.continueAfterDamage(ctx, damaged.reason)
	}
	if err != nil {
		return err
	}
	if _, err := c.append(ctx, nil); err != nil { // the opening line, if that is due
		return err
	}
	if !c.uncommitted() {
		return nil
	}
	return c.commit(ctx)
}

// begin starts a chain. Files that are there already are those of another store.
func (c *chain) begin(ctx context.Context, reason string) error {
	number, err := c.nextFile()
	if err != nil {
		return err
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
	return c.beginFile(ctx, Begin, reason, anchor{
		Stream: c.stream, Chain: hex.EncodeToString(id[:]), Begun: number,
		Kept: []start{{File: number, Seq: 1}}, Last: position{File: number},
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
	return c.beginFile(ctx, Broken, reason, a)
}

// beginFile goes on at the end of an anchor, which is the beginning of a new file,
// with a line that opens it. The anchor is committed first, and holds that line:
// after a crash the next start writes it, so that files without an anchor are always
// those of another store.
func (c *chain) beginFile(ctx context.Context, kind Kind, reason string, a anchor) error {
	a.Opening = &entry{Event: Event{Kind: kind, Time: stamp(c.now())}, Reason: bounded(reason)}
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
	c.torn, err = eachLine(path, at, func(text []byte) error {
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
		want.Kind = Refused
	default:
		waiting, err := c.readNotes(ctx, 1)
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

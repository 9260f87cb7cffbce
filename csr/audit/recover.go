package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	a.Opening = &opening{Event{Kind: kind, Time: stamp(c.now())}, bounded(reason)}
	if err := c.commitAnchor(ctx, a); err != nil {
		return err
	}
	c.head, c.kept, c.torn = a.Last, a.Kept, false
	if err := c.closeFile(); err != nil {
		return err
	}
	_, err := c.append(ctx, nil)
	return err
}

// follow checks that the last line of the anchor is in its place, and moves head
// over the lines after it.
func (c *chain) follow(ctx context.Context) error {
	if err := c.checkHead(); err != nil {
		return err
	}
	numbers, err := files(c.dir, c.stream)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n < c.head.File {
			continue
		}
		if n > c.head.File {
			if c.torn {
				return &damagedError{fileName(c.stream, c.head.File) + " ends within a line, and there is a later file"}
			}
			c.moveTo(n)
		}
		if err := c.followFile(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkHead checks that the file of head is there, is at least as long as it was,
// and has the last line in its place.
func (c *chain) checkHead() (err error) {
	name := fileName(c.stream, c.head.File)
	f, err := os.Open(c.path(c.head.File))
	if errors.Is(err, fs.ErrNotExist) {
		if c.head.Size == 0 {
			return nil // a crash came before it was made
		}
		return &damagedError{name + " is missing"}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := ownfile.Check(f.Name(), info, c.log); err != nil {
		return err
	}
	if info.Size() < c.head.Size {
		return &damagedError{fmt.Sprintf("%s has %d bytes and had %d: lines were cut off", name, info.Size(), c.head.Size)}
	}
	tail := make([]byte, min(c.head.Size, maxLine))
	if _, err := f.ReadAt(tail, c.head.Size-int64(len(tail))); err != nil {
		return err
	}
	if len(tail) == 0 {
		return nil
	}
	tail, whole := bytes.CutSuffix(tail, []byte("\n"))
	text := tail[bytes.LastIndexByte(tail, '\n')+1:]
	if l, mac, err := decodeLine(text); !whole || err != nil || l.Seq != c.head.Seq || mac != c.head.MAC {
		return &damagedError{fmt.Sprintf("%s does not have line %d where it was", name, c.head.Seq)}
	}
	return nil
}

// followFile moves head over the lines after it in its file, as long as each is the
// one that the service was to write there. It sets torn where an unfinished write
// comes next.
func (c *chain) followFile(ctx context.Context) (err error) {
	f, err := os.Open(c.path(c.head.File))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Seek(c.head.Size, io.SeekStart); err != nil {
		return err
	}
	lines := bufio.NewReaderSize(f, maxLine+1)
	for {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			c.torn = len(text) > 0
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		case hasHole(text):
			c.torn = true
			return nil
		}
		expected, err := c.takeOver(ctx, text)
		if err != nil {
			return err
		}
		if !expected {
			return &damagedError{fmt.Sprintf("%s holds, from byte %d on, what the service did not write after line %d",
				fileName(c.stream, c.head.File), c.head.Size, c.head.Seq)}
		}
	}
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
	var want entry
	if c.openingDue() {
		want = entry{Event: c.anchored.Opening.Event, reason: c.anchored.Opening.Reason}
	} else {
		var due bool
		if want, due, err = c.next(ctx, c.head.Revision, found); err != nil || !due {
			return false, err
		}
	}
	again, at, err := c.encode(c.head, want, found.Key)
	if err != nil || !bytes.Equal(again, text) {
		return false, nil //nolint:nilerr // it was made with a key that is not ours
	}
	c.head = at
	return true, nil
}

// hasHole reports whether text has zeros, as no line has. When the power goes while
// lines are written, a later part of them may be on the disk and an earlier one not,
// which then reads as zeros.
func hasHole(text []byte) bool { return bytes.IndexByte(text, 0) >= 0 }

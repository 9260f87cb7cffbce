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
	"path/filepath"
	"slices"

	"attestcsr/keystore/ownfile"
)

// behind says what a crash may have left behind the lines that the anchor knows.
type behind struct {
	// expected reports whether a line is one that the service was about to anchor.
	expected func(at position, text []byte, l line) (revision uint64, ok bool)
	// due reports whether the service was to write a line after a position.
	due func(at position) bool
}

// open finds the end of the chain. The anchor says where it was; lines behind it
// are taken over while they are expected, which is what a crash between a flush
// and the commit of the anchor leaves, and what is torn is cut off. What does not
// fit is left where it is, and the chain goes on in a new file whose first line says
// why.
func (c *chain) open(ctx context.Context, b behind) error {
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
	if err := c.sweep(); err != nil {
		return err
	}
	err = c.follow(b)
	if broken := (*brokenError)(nil); errors.As(err, &broken) {
		return c.goOn(ctx, broken.reason)
	}
	if err != nil {
		return err
	}
	if err := c.writeOpening(ctx); err != nil {
		return err
	}
	return c.release(ctx) // which a crash may have come before
}

// begin starts a chain. The anchor is committed first: after a crash the next start
// finds it and writes the line, and files without an anchor are always those of
// another store.
func (c *chain) begin(ctx context.Context, reason string) error {
	numbers, err := files(c.dir, c.stream)
	if err != nil {
		return err
	}
	number := 1
	if len(numbers) > 0 {
		number = numbers[len(numbers)-1] + 1
		if reason == "" {
			reason = "the store has no anchor, but there are files of an earlier chain"
		}
	}
	if reason != "" {
		c.log.Error("the audit trail begins a new chain beside the old files, which are left as they are; \"attestcsr audit verify\" says what can be told of them",
			"stream", c.stream, "reason", reason, "file", fileName(c.stream, number))
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, by its documentation
	if err := c.closeFile(); err != nil {
		return err
	}
	c.head, c.dirty = position{File: number}, false
	c.kept = []start{{File: number, Seq: 1}}
	err = c.commitAnchor(ctx, anchor{
		Stream: c.stream, Chain: hex.EncodeToString(id[:]), Begun: number, Kept: c.kept, Last: c.head,
		Opening: &opening{Event{Kind: Begin, Time: stamp(c.now())}, reason},
	}, 0)
	if err != nil {
		return err
	}
	return c.writeOpening(ctx)
}

// goOn continues the chain in a new file after a place where it does not hold. As
// in begin the anchor goes first.
func (c *chain) goOn(ctx context.Context, reason string) error {
	if err := c.closeFile(); err != nil {
		return err
	}
	numbers, err := files(c.dir, c.stream)
	if err != nil {
		return err
	}
	number := c.head.File + 1
	if len(numbers) > 0 {
		number = max(number, numbers[len(numbers)-1]+1)
	}
	c.log.Error("the audit trail is damaged; it goes on in a new file, and the damaged one is left as it is: find out who changed it, and run \"attestcsr audit verify\"",
		"stream", c.stream, "reason", reason, "file", fileName(c.stream, number))
	c.head.File, c.head.Size, c.dirty = number, 0, false
	if c.keep > 0 {
		c.kept = append(slices.Clone(c.kept), start{number, c.head.Seq + 1, c.head.MAC})
	}
	a := c.anchored
	a.Kept, a.Last = c.kept, c.head
	a.Opening = &opening{Event{Kind: Broken, Time: stamp(c.now())}, bounded(reason)}
	if err := c.commitAnchor(ctx, a, 0); err != nil {
		return err
	}
	if err := c.writeOpening(ctx); err != nil {
		return err
	}
	return c.release(ctx)
}

// writeOpening writes the line that is owed to the anchor, if it is, and anchors
// what is not.
func (c *chain) writeOpening(ctx context.Context) error {
	if c.owesOpening() {
		o := c.anchored.Opening
		if err := c.append([]entry{{Event: o.Event, reason: o.Reason}}); err != nil {
			return err
		}
	}
	if !c.unanchored() {
		return nil
	}
	return c.commit(ctx, c.head.Revision)
}

// follow checks that the files hold what the anchor says and moves head over the
// lines behind it.
func (c *chain) follow(b behind) error {
	numbers, err := files(c.dir, c.stream)
	if err != nil {
		return err
	}
	if c.keep > 0 { // these are few; of the others verify finds what is missing
		for _, s := range c.kept {
			if !slices.Contains(numbers, s.File) && (s.File != c.head.File || c.head.Size > 0) {
				return &brokenError{fileName(c.stream, s.File) + " is missing"}
			}
		}
	}
	if err := c.checkLast(); err != nil {
		return err
	}
	torn := false
	for i, n := range numbers {
		if n < c.head.File {
			continue
		}
		if n > c.head.File {
			if torn {
				return &brokenError{fileName(c.stream, numbers[i-1]) + " ends within a line, and there is a later file"}
			}
			c.head.File, c.head.Size = n, 0
			if c.keep > 0 {
				c.kept = append(slices.Clone(c.kept), start{n, c.head.Seq + 1, c.head.MAC})
			}
		}
		if torn, err = c.followFile(b); err != nil {
			return err
		}
	}
	c.dirty = torn // cut off before the next line
	return nil
}

// checkLast checks that the file of head is there, as long as it was at least, and
// has the last line in its place.
func (c *chain) checkLast() (err error) {
	name := fileName(c.stream, c.head.File)
	f, err := os.Open(c.path(c.head.File))
	if errors.Is(err, fs.ErrNotExist) {
		if c.head.Size == 0 {
			return nil // a crash came before it was made
		}
		return &brokenError{name + " is missing"}
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
		return &brokenError{fmt.Sprintf("%s has %d bytes and had %d: lines were cut off", name, info.Size(), c.head.Size)}
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
		return &brokenError{fmt.Sprintf("%s does not have line %d where it was", name, c.head.Seq)}
	}
	return nil
}

// followFile moves head over the lines that are behind it in its file. torn: what
// is behind head then was being written, and does not count.
func (c *chain) followFile(b behind) (torn bool, err error) {
	f, err := os.Open(c.path(c.head.File))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Seek(c.head.Size, io.SeekStart); err != nil {
		return false, err
	}
	lines := bufio.NewReaderSize(f, maxLine+1)
	for {
		text, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return len(text) > 0, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return false, err
		}
		l, mac, decodeErr := decodeLine(bytes.TrimSuffix(text, []byte("\n")))
		right := false
		if err == nil && decodeErr == nil {
			right, _ = authentic(c.mac, l, mac, c.head.MAC)
		}
		revision := uint64(0)
		if right = right && l.Chain == c.anchored.Chain && l.Stream == c.stream && l.Seq == c.head.Seq+1; right {
			revision, right = c.expects(b, text, l)
		}
		if !right && hollow(text) && (c.owesOpening() || b.due(c.head)) {
			return true, nil
		}
		if !right {
			return false, &brokenError{fmt.Sprintf("%s holds, from byte %d on, what the service did not write after line %d",
				filepath.Base(f.Name()), c.head.Size, c.head.Seq)}
		}
		c.head.Size += int64(len(text))
		c.head.Seq, c.head.MAC, c.head.Revision = l.Seq, mac, max(c.head.Revision, revision)
	}
}

// expects reports whether a line can be one that the service wrote just before it
// ended: the one that opens the file, where that is owed, or what expected says.
func (c *chain) expects(b behind, text []byte, l line) (revision uint64, ok bool) {
	if c.owesOpening() {
		o := c.anchored.Opening
		want, _, err := c.encode(c.head, entry{Event: o.Event, reason: o.Reason}, l.Key)
		return 0, err == nil && bytes.Equal(want, text)
	}
	return b.expected(c.head, text, l)
}

// owesOpening reports whether the line that the anchor holds comes next.
func (c *chain) owesOpening() bool {
	return c.anchored.Opening != nil && c.head.Seq == c.anchored.Last.Seq
}

// hollow reports whether text has a hole in it, which reads as zeros: no line has
// any. When power goes while lines are written, a later part of them may be on the
// disk and an earlier one not.
func hollow(text []byte) bool { return bytes.IndexByte(text, 0) >= 0 }

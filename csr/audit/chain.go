package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"attestcsr/keystore/ownfile"
)

// chain writes the lines of one stream. It is used by one goroutine.
type chain struct {
	stream string
	dir    string
	max    int64 // bytes of a file
	keep   int64 // bytes of all files, 0: no bound
	mac    MAC
	outbox Outbox
	log    *slog.Logger
	now    func() time.Time
	copies *copies            // nil: lines are not copied to the log
	step   func(string) error // tests end the process here, or make the step fail

	anchored anchor   // what the store has
	kept     []start  // see anchor
	head     position // the last line that is durable in its file
	file     *os.File // of head; nil: to be opened
	// dirty: behind head there may be what a failed write left.
	dirty bool
}

// The steps of a group of lines, at each of which a crash is harmless:
//
//	write   before the lines are written: the notes are in the outbox
//	written before they are flushed: some or none of the bytes are there; the start
//	        takes whole lines over and cuts off a torn one
//	flushed before the anchor is committed: the start takes the lines over
//	trimmed after: the anchor has the lines, the notes are gone
//	rotate  before a file is made, rotated before anything is in it: the start goes
//	        on in the newest file, empty or not
//	remove  before a file that the anchor gave up is removed: the start removes it
const (
	stepWrite   = "write"
	stepWritten = "written"
	stepFlushed = "flushed"
	stepTrimmed = "trimmed"
	stepRotate  = "rotate"
	stepRotated = "rotated"
	stepRemove  = "remove"
)

func (c *chain) at(step string) error {
	if c.step == nil {
		return nil
	}
	return c.step(c.stream + " " + step)
}

// entry is an event to be written, with the revision of its change.
type entry struct {
	Event
	revision uint64
	reason   string // of an opening
}

// append writes events as lines and flushes them. On an error head says how many
// of them are durable; the others are as good as not written.
func (c *chain) append(entries []entry) error {
	next, buf := c.head, []byte(nil)
	for _, e := range entries {
		text, mac, err := c.encode(next, e, c.mac.Primary())
		if err != nil {
			return err
		}
		if next.Size > 0 && next.Size+int64(len(text)) > c.max {
			if err := c.write(buf, next); err != nil {
				return err
			}
			if err := c.rotate(); err != nil {
				return err
			}
			next, buf = c.head, nil
		}
		buf = append(buf, text...)
		next.Size += int64(len(text))
		next.Seq, next.MAC, next.Revision = next.Seq+1, mac, max(next.Revision, e.revision)
	}
	return c.write(buf, next)
}

// encode makes the line that follows a position. It depends on nothing but the
// event, the chain and the key, so that a line that has to be written again is the
// same.
func (c *chain) encode(after position, e entry, key string) (text []byte, mac string, err error) {
	l := line{Stream: c.stream, Chain: c.anchored.Chain, Seq: after.Seq + 1, Event: e.Event, Revision: e.revision, Key: key}
	if l.opens() {
		l.Reason, l.Prev = e.reason, after.MAC
	}
	return l.encode(c.mac, after.MAC)
}

// write puts lines behind head and makes next the head once they are durable.
func (c *chain) write(buf []byte, next position) error {
	if len(buf) == 0 {
		return nil
	}
	if err := c.at(stepWrite); err != nil {
		return err
	}
	if err := c.openHead(); err != nil {
		return err
	}
	if c.dirty {
		if err := c.file.Truncate(c.head.Size); err != nil {
			return err
		}
	}
	c.dirty = true
	if _, err := c.file.WriteAt(buf, c.head.Size); err != nil {
		return err
	}
	if err := c.at(stepWritten); err != nil {
		return err
	}
	// After a flush that failed the pages count as clean without being on the
	// disk: the next attempt cuts them off and writes them again.
	if err := c.file.Sync(); err != nil {
		return err
	}
	c.dirty, c.head = false, next
	c.copies.add(buf)
	return c.at(stepFlushed)
}

// openHead opens the file of head, or makes it where nothing is in it yet, and
// finds out whether it still is what it was.
func (c *chain) openHead() error {
	path := c.path(c.head.File)
	if c.file == nil {
		flags := os.O_WRONLY
		if c.head.Size == 0 {
			flags |= os.O_CREATE
		}
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			return err
		}
		if err := ownfile.SyncDir(c.dir); err != nil {
			return errors.Join(err, f.Close())
		}
		c.file = f
	}
	ours, err := c.file.Stat()
	if err != nil {
		return err
	}
	named, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(ours, named) {
		return &brokenError{filepath.Base(path) + " was removed or replaced while it was in use"}
	}
	if err != nil {
		return err
	}
	if named.Size() != c.head.Size && !c.dirty {
		return &brokenError{fmt.Sprintf("%s has %d bytes and not %d: it was changed while it was in use", filepath.Base(path), named.Size(), c.head.Size)}
	}
	return nil
}

// brokenError: the files are not what the chain left. Nothing is overwritten; the
// chain goes on in a new file that says so.
type brokenError struct{ reason string }

func (e *brokenError) Error() string { return e.reason }

// rotate goes on in a new file, and where there is a bound for all of them lets
// the oldest go.
func (c *chain) rotate() error {
	if err := c.at(stepRotate); err != nil {
		return err
	}
	number, err := c.create()
	if err != nil {
		return err
	}
	if err := c.closeFile(); err != nil {
		return err
	}
	c.head.File, c.head.Size = number, 0
	if c.keep > 0 {
		c.kept = append(c.kept, start{number, c.head.Seq + 1, c.head.MAC})
	}
	if err := c.at(stepRotated); err != nil {
		return err
	}
	return c.release(context.Background())
}

// maxKept is how many files an anchor has room for.
const maxKept = 64

// create makes the next file.
func (c *chain) create() (number int, err error) {
	numbers, err := files(c.dir, c.stream)
	if err != nil {
		return 0, err
	}
	number = 1
	if len(numbers) > 0 {
		number = numbers[len(numbers)-1] + 1
	}
	f, err := os.OpenFile(c.path(number), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	return number, errors.Join(f.Close(), ownfile.SyncDir(c.dir))
}

// release lets the oldest files go until there is room for the newest to become
// full. The anchor goes first: a file that is missing though the anchor has it is an
// alarm, and one that is there though the anchor has given it up is removed by the
// next start.
func (c *chain) release(ctx context.Context) error {
	if c.keep == 0 {
		return nil
	}
	sizes := c.max
	present := make([]int64, len(c.kept)-1)
	for i := range present { // the last is the newest
		if info, err := os.Stat(c.path(c.kept[i].File)); err == nil {
			present[i] = info.Size()
		}
		sizes += present[i]
	}
	drop := 0
	for ; drop < len(present) && (sizes > c.keep || len(c.kept)-drop > maxKept); drop++ {
		sizes -= present[drop]
	}
	if drop == 0 {
		return nil
	}
	all := c.kept
	c.kept = slices.Clone(c.kept[drop:])
	if err := c.commit(ctx, 0); err != nil {
		c.kept = all
		return err
	}
	if err := c.at(stepRemove); err != nil {
		return err
	}
	return c.sweep()
}

// sweep removes the files of this chain that the anchor has given up.
func (c *chain) sweep() error {
	numbers, err := files(c.dir, c.stream)
	if err != nil || c.keep == 0 {
		return err
	}
	for _, n := range numbers {
		if n >= c.anchored.Begun && n < c.anchored.Kept[0].File {
			if err := os.Remove(c.path(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return ownfile.SyncDir(c.dir)
}

// commit anchors head in the store, and takes the notes up to a revision out of
// the outbox with it.
func (c *chain) commit(ctx context.Context, through uint64) error {
	a := c.anchored
	a.Kept, a.Last = c.kept, c.head
	if c.head.Seq > c.anchored.Last.Seq {
		a.Opening = nil // it was the first of these lines
	}
	return c.commitAnchor(ctx, a, through)
}

func (c *chain) commitAnchor(ctx context.Context, a anchor, through uint64) error {
	text, err := a.encode(c.mac)
	if err != nil {
		return err
	}
	if err := c.outbox.Trim(ctx, through, c.stream, text); err != nil {
		return err
	}
	c.anchored = a
	return c.at(stepTrimmed)
}

// unanchored reports whether lines are durable that the anchor does not have.
func (c *chain) unanchored() bool { return c.head != c.anchored.Last }

func (c *chain) closeFile() error {
	if c.file == nil {
		return nil
	}
	f := c.file
	c.file = nil
	return f.Close()
}

func (c *chain) path(number int) string { return filepath.Join(c.dir, fileName(c.stream, number)) }

func fileName(stream string, number int) string {
	return fmt.Sprintf("%s-%06d.jsonl", stream, number)
}

// files returns the numbers of a stream's files in ascending order.
func files(dir, stream string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		digits, is := strings.CutPrefix(e.Name(), stream+"-")
		digits, jsonl := strings.CutSuffix(digits, ".jsonl")
		if n, err := strconv.Atoi(digits); is && jsonl && err == nil && n > 0 && fileName(stream, n) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

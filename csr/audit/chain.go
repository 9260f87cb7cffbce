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

// chain writes the lines of one stream. One goroutine uses it.
type chain struct {
	stream   string
	dir      string
	maxFile  int64 // bytes of a file
	maxTotal int64 // bytes of all files; 0: no file is ever removed
	mac      MAC
	outbox   Outbox
	log      *slog.Logger
	now      func() time.Time
	copies   *copies // nil: lines are not copied to the log
	// next returns the entry that was to be written after a revision when the
	// process ended, false where there was none. found is the line that is there.
	next func(ctx context.Context, after uint64, found line) (entry, bool, error)
	step func(string) error // for tests: ends the process at a step, or makes it fail

	anchored anchor   // what the store has
	kept     []start  // see anchor
	head     position // the last line that is durable in its file
	file     *os.File // of head; nil: to be opened
	torn     bool     // an unfinished write may have left bytes after head
}

// The steps of writing at which tests end the process. See commit and release.
const (
	stepWrite   = "write"   // before lines are written
	stepWritten = "written" // before they are flushed
	stepFlushed = "flushed" // before their anchor is committed
	stepTrimmed = "trimmed" // after that
	stepRotate  = "rotate"  // before a new file is begun
	stepRemove  = "remove"  // before an old file is removed
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
	reason   string // of an opening line
}

// append writes entries as lines and flushes them. Where the line that opens the
// file is not written yet, it comes first. written is how many of the entries are
// durable, also beside an error; nothing is left of the others.
func (c *chain) append(ctx context.Context, entries []entry) (written int, err error) {
	if c.openingDue() {
		o := c.anchored.Opening
		if err := c.appendLines(ctx, []entry{{Event: o.Event, reason: o.Reason}}); err != nil {
			return 0, err
		}
	}
	before := c.head.Seq
	err = c.appendLines(ctx, entries)
	return int(c.head.Seq - before), err //nolint:gosec // at most len(entries)
}

// openingDue reports whether the next line is the one that opens the file.
func (c *chain) openingDue() bool {
	return c.anchored.Opening != nil && c.head.Seq == c.anchored.Last.Seq
}

func (c *chain) appendLines(ctx context.Context, entries []entry) error {
	end, buf := c.head, []byte(nil)
	for _, e := range entries {
		text, next, err := c.encode(end, e, c.mac.Primary())
		if err != nil {
			return err
		}
		if end.Size > 0 && next.Size > c.maxFile {
			if err := c.write(ctx, buf, end); err != nil {
				return err
			}
			if err := c.rotate(); err != nil {
				return err
			}
			buf = nil
			next.File, next.Size = c.head.File, int64(len(text))
		}
		buf, end = append(buf, text...), next
	}
	return c.write(ctx, buf, end)
}

// encode makes the line that follows a position, and its own position. The line
// depends on nothing but the entry, the chain and the key, so that a line that has to
// be written again is the same.
func (c *chain) encode(after position, e entry, key string) (text []byte, at position, err error) {
	l := line{Stream: c.stream, Chain: c.anchored.Chain, Seq: after.Seq + 1, Event: e.Event, Revision: e.revision, Key: key}
	if l.opens() {
		l.Reason, l.Prev = e.reason, after.MAC
	}
	text, mac, err := l.encode(c.mac, after.MAC)
	return text, position{
		File: after.File, Size: after.Size + int64(len(text)),
		Seq: l.Seq, MAC: mac, Revision: max(after.Revision, e.revision),
	}, err
}

// write puts lines after head, flushes them and makes end the head.
func (c *chain) write(ctx context.Context, lines []byte, end position) error {
	if len(lines) == 0 {
		return nil
	}
	if err := c.at(stepWrite); err != nil {
		return err
	}
	if err := c.openHead(ctx); err != nil {
		return err
	}
	if c.torn {
		if err := c.file.Truncate(c.head.Size); err != nil {
			return err
		}
	}
	c.torn = true
	if _, err := c.file.WriteAt(lines, c.head.Size); err != nil {
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
	c.torn, c.head = false, end
	c.copies.add(lines)
	return c.at(stepFlushed)
}

// openHead opens the file of head, or makes it where it has no line yet, and checks
// that nobody else has changed it.
func (c *chain) openHead(ctx context.Context) error {
	path := c.path(c.head.File)
	if c.file == nil {
		flags := os.O_WRONLY
		if c.head.Size == 0 {
			flags |= os.O_CREATE
			if err := c.release(ctx); err != nil {
				return err
			}
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
		return &damagedError{filepath.Base(path) + " was removed or replaced while it was in use"}
	}
	if err != nil {
		return err
	}
	if named.Size() != c.head.Size && !c.torn {
		return &damagedError{fmt.Sprintf("%s has %d bytes and not %d: it was changed while it was in use", filepath.Base(path), named.Size(), c.head.Size)}
	}
	return nil
}

// damagedError: a file is not what the chain left. Nothing is overwritten; see
// continueAfterDamage.
type damagedError struct{ reason string }

func (e *damagedError) Error() string { return e.reason }

// rotate goes on in a new file.
func (c *chain) rotate() error {
	if err := c.at(stepRotate); err != nil {
		return err
	}
	number, err := c.nextFile()
	if err != nil {
		return err
	}
	if err := c.closeFile(); err != nil {
		return err
	}
	c.moveTo(number)
	return nil
}

// nextFile is the number of a file that there never was.
func (c *chain) nextFile() (int, error) {
	numbers, err := files(c.dir, c.stream)
	return slices.Max(append(numbers, c.head.File)) + 1, err
}

// moveTo makes the beginning of a file the head.
func (c *chain) moveTo(file int) {
	c.kept = c.keptWith(file)
	c.head.File, c.head.Size = file, 0
}

// keptWith is kept with a file that begins after head.
func (c *chain) keptWith(file int) []start {
	if c.maxTotal == 0 {
		return c.kept
	}
	return append(slices.Clone(c.kept), start{file, c.head.Seq + 1, c.head.MAC})
}

// maxKept is how many files an anchor has room for.
const maxKept = 64

// release removes the oldest files until there is room for the newest to become
// full. The anchor gives them up first: a file that the anchor has and that is
// missing is an alarm, and one that it has given up is removed by the next start
// where a crash came between.
func (c *chain) release(ctx context.Context) error {
	if c.maxTotal == 0 {
		return nil
	}
	total := c.maxFile
	sizes := make([]int64, len(c.kept)-1) // without the newest
	for i := range sizes {
		if info, err := os.Stat(c.path(c.kept[i].File)); err == nil {
			sizes[i] = info.Size()
		}
		total += sizes[i]
	}
	drop := 0
	for ; drop < len(sizes) && (total > c.maxTotal || len(c.kept)-drop > maxKept); drop++ {
		total -= sizes[drop]
	}
	if drop == 0 {
		return nil
	}
	all := c.kept
	c.kept = slices.Clone(c.kept[drop:])
	if err := c.commit(ctx); err != nil {
		c.kept = all
		return err
	}
	if err := c.at(stepRemove); err != nil {
		return err
	}
	return c.removeReleased()
}

// removeReleased removes the files of this chain that the anchor has given up.
func (c *chain) removeReleased() error {
	numbers, err := files(c.dir, c.stream)
	if err != nil || c.maxTotal == 0 {
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

// commit anchors head in the store and takes the notes that have lines out of the
// outbox, in one commit. It is the last step of
//
//	read notes → write lines → flush → commit
//
// A crash before the flush leaves the notes, and none, some or all bytes of the
// lines. A crash after it leaves the notes and whole lines. The next start keeps the
// whole lines that are those of the waiting notes, cuts off an unfinished one, and
// goes on from there (see follow): each note becomes exactly one line. A commit that
// failed may have happened; the next one says the same and more.
func (c *chain) commit(ctx context.Context) error {
	a := c.anchored
	a.Kept, a.Last = c.kept, c.head
	if c.head.Seq > c.anchored.Last.Seq {
		a.Opening = nil // it was the first of these lines
	}
	return c.commitAnchor(ctx, a)
}

func (c *chain) commitAnchor(ctx context.Context, a anchor) error {
	text, err := a.encode(c.mac)
	if err != nil {
		return err
	}
	if err := c.outbox.Trim(ctx, a.Last.Revision, c.stream, text); err != nil {
		return err
	}
	c.anchored = a
	return c.at(stepTrimmed)
}

// uncommitted reports whether lines are durable that the anchor does not have.
func (c *chain) uncommitted() bool { return c.head != c.anchored.Last }

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

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
	"sync"
	"sync/atomic"
	"time"

	"attestcsr/keystore/ownfile"
)

// chain writes the lines of one stream.
type chain struct {
	stream   string
	dir      string
	maxFile  int64 // bytes of a file
	maxTotal int64 // bytes of all files; 0: no file is ever removed
	mac      MAC
	anchors  MAC // for anchors
	check    func(revision uint64, previous, code, note []byte) error
	state    State                        // nil: records are not compared
	tell     func(context.Context, Event) // makes a note of what happened to the store
	outbox   Outbox
	log      *slog.Logger
	now      func() time.Time
	copies   bool               // lines are copied to the log
	step     func(string) error // for tests: ends the process at a step, or makes it fail
	// signatures, of the changes, is the stream whose notes wait in the same outbox. The
	// anchors of both are committed together.
	signatures *chain

	full atomic.Pointer[error] // there is no space for a line

	mu       *sync.Mutex // held by whoever uses what follows
	anchored anchor      // what the store has
	kept     []start     // see anchor
	head     position    // the last line that is durable in its file
	torn     bool        // an unfinished write may have left bytes after head
	lost     uint64      // highest revision of the lines that open did not go on from
}

// The steps of writing at which tests end the process. See commit and release.
const (
	stepWrite   = "write"   // before lines are written
	stepWritten = "written" // before they are flushed
	stepFlushed = "flushed" // before their anchor is committed
	stepTrimmed = "trimmed" // after that
	stepRotate  = "rotate"  // before a new file is begun
	stepRemove  = "remove"  // before an old file is removed
	stepListed  = "listed"  // before the anchor of a new file, when its baseline is on the disk
)

func (c *chain) at(step string) error {
	if c.step == nil {
		return nil
	}
	return c.step(c.stream + " " + step)
}

// entry is an event to be written.
type entry struct {
	Event    `json:",inline"`
	Baseline *Baseline     `json:"baseline,omitzero"`
	Break    *Break        `json:"break,omitzero"`
	Revision uint64        `json:"revision,omitzero"` // of a change
	notes    *notePosition // after it; nil: as before it
}

// append writes entries as lines and flushes them. Where the line that opens the
// file is not written yet, it comes first. written is how many of the entries are
// durable, also beside an error; nothing is left of the others.
func (c *chain) append(ctx context.Context, entries []entry) (written int, err error) {
	opening := 0
	if c.openingDue() {
		opening = 1
		entries = append([]entry{*c.anchored.Opening}, entries...)
	}
	before := c.head.Seq
	err = c.appendLines(ctx, entries)
	return max(0, int(c.head.Seq-before)-opening), err //nolint:gosec // at most len(entries)
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
			if text, next, err = c.encode(c.head, e, c.mac.Primary()); err != nil {
				return err
			}
		}
		buf, end = append(buf, text...), next
	}
	return c.write(ctx, buf, end)
}

// encode makes the line that follows a position, and its own position. The line
// depends on nothing but the entry, the chain and the key, so that a line that has to
// be written again is the same.
func (c *chain) encode(after position, e entry, key string) (text []byte, at position, err error) {
	l := line{
		Stream: c.stream, Chain: c.anchored.Chain, Seq: after.Seq + 1, Event: e.Event,
		Baseline: e.Baseline, Break: e.Break, Revision: e.Revision, Key: key,
	}
	if after.Size == 0 {
		l.Prev, l.Sum = after.MAC, after.Sum
	}
	text, mac, err := l.encode(c.mac, after.MAC)
	at = position{
		File: after.File, Size: after.Size + int64(len(text)), Seq: l.Seq, MAC: mac, Sum: addLine(after.Sum, text),
		Revision: max(after.Revision, e.Revision), notePosition: after.notePosition,
	}
	if e.notes != nil {
		at.notePosition = *e.notes
	}
	return text, at, err
}

// write puts lines after head, flushes them and makes end the head.
func (c *chain) write(ctx context.Context, lines []byte, end position) (err error) {
	if len(lines) == 0 {
		return nil
	}
	if err := c.at(stepWrite); err != nil {
		return err
	}
	file, err := c.openHead(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if c.torn {
		if err := file.Truncate(c.head.Size); err != nil {
			return err
		}
	}
	c.torn = true
	if _, err := file.WriteAt(lines, c.head.Size); err != nil {
		return err
	}
	if err := c.at(stepWritten); err != nil {
		return err
	}
	// After a flush that failed the pages count as clean without being on the
	// disk: the next attempt cuts them off and writes them again.
	if err := file.Sync(); err != nil {
		return err
	}
	c.torn, c.head = false, end
	c.copyToLog(lines)
	return c.at(stepFlushed)
}

// openHead opens the file of head, or makes it where it has no line yet, and checks
// that nobody else has changed its length.
func (c *chain) openHead(ctx context.Context) (*os.File, error) {
	flags, name := os.O_WRONLY, fileName(c.stream, c.head.File)
	if c.head.Size == 0 {
		flags |= os.O_CREATE
		if err := c.release(ctx); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(c.path(c.head.File), flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && c.head.Size > 0 {
		return nil, &damagedError{name + " was removed while it was in use"}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != c.head.Size && !c.torn {
		err = &damagedError{fmt.Sprintf("%s has %d bytes and not %d: it was changed while it was in use", name, info.Size(), c.head.Size)}
	}
	if err == nil && c.head.Size == 0 {
		err = errors.Join(ownfile.Adopt(f, c.dir), ownfile.SyncDir(c.dir))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
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
	if err == nil {
		c.moveTo(number)
	}
	return err
}

// nextFile is the number of a file that there never was.
func (c *chain) nextFile() (int, error) {
	all, err := filesIn([]string{c.dir}, c.stream)
	newest := c.head.File
	if len(all) > 0 {
		newest = max(newest, all[len(all)-1].number)
	}
	return newest + 1, err
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
	drop := len(c.kept) - 1 // all but the newest
	for total := c.maxFile; drop > 0 && len(c.kept)-drop < maxKept; drop-- {
		if info, err := os.Stat(c.path(c.kept[drop-1].File)); err == nil {
			total += info.Size()
		}
		if total > c.maxTotal {
			break
		}
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
	all, err := filesIn([]string{c.dir}, c.stream)
	if err != nil || c.maxTotal == 0 {
		return err
	}
	for _, f := range all {
		if f.number >= c.anchored.Begun && f.number < c.anchored.Kept[0].File {
			if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
func (c *chain) commit(ctx context.Context) error { return c.commitAnchor(ctx, c.next()) }

// next is the anchor of head.
func (c *chain) next() anchor {
	a := c.anchored
	a.Kept, a.Last = c.kept, c.head
	if c.head.Seq > c.anchored.Last.Seq {
		a.Opening = nil // it was the first of these lines
	}
	return a
}

// commitAnchor keeps an anchor in the store. That of the changes takes the notes with it
// that have lines, and with them the anchor of the signatures: their lines are always
// written first.
func (c *chain) commitAnchor(ctx context.Context, a anchor) (err error) {
	anchors, through := map[string][]byte{}, uint64(0)
	var signatures anchor
	if c.signatures != nil {
		through, a.Signatures, signatures = a.Last.Revision, true, c.signatures.next()
		if anchors[Signatures], err = signatures.encode(c.anchors); err != nil {
			return err
		}
	}
	if anchors[c.stream], err = a.encode(c.anchors); err != nil {
		return err
	}
	if err := c.outbox.Trim(ctx, through, anchors); err != nil {
		return err
	}
	c.anchored = a
	if c.signatures != nil {
		c.signatures.anchored = signatures
	}
	return c.at(stepTrimmed)
}

// uncommitted reports whether lines are durable that the anchor does not have.
func (c *chain) uncommitted() bool {
	return c.head != c.anchored.Last || c.signatures != nil && c.signatures.uncommitted()
}

func (c *chain) path(number int) string { return filepath.Join(c.dir, fileName(c.stream, number)) }

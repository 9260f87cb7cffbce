package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// VerifyOptions says what is verified.
type VerifyOptions struct {
	// Dirs are where the files are: those of the service, and of an archive.
	Dirs    []string
	Files   fs.FS // in place of Dirs: files that have no path. What it opens is an io.Seeker
	MAC     MAC
	Anchors MAC // for anchors; nil is MAC
	// Snapshot reads the store. It is called before the files are read, and again where
	// a running service has written meanwhile.
	Snapshot func(context.Context) (Snapshot, error)

	archived bool // that the oldest files are not there is no problem
}

// Summary is what was found in a stream.
type Summary struct {
	Stream string    `json:"stream"`
	Files  int       `json:"files"`
	Lines  int       `json:"lines"`
	First  uint64    `json:"first_seq"`
	Last   uint64    `json:"last_seq"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	// Records is how many records were compared with the lines of changes, Uncompared
	// how many could not be, because their lines are not there.
	Records    int `json:"records"`
	Uncompared int `json:"uncompared"`
	// Problems are where stream and store are not what the service wrote: the first
	// maxProblems. More is the number of the others.
	Problems []Problem `json:"problems"`
	More     int       `json:"more_problems,omitzero"`
	// Remarks are what an operator has to know and has to do nothing about: problems
	// that were accepted, and jumps of the clock.
	Remarks []Problem `json:"remarks"`

	sound uint64 // sequence of the last line before the first problem
}

// maxProblems bounds what is listed of a stream: whoever has more needs a backup, not a
// longer list.
const maxProblems = 100

// String is a line for each problem and remark, and one for the stream.
func (s Summary) String() string {
	var b strings.Builder
	for _, remark := range s.Remarks {
		fmt.Fprintf(&b, "remark: %s\n", remark)
	}
	for _, problem := range s.Problems {
		fmt.Fprintln(&b, problem)
	}
	if s.More > 0 {
		fmt.Fprintf(&b, "and %d more problems\n", s.More)
	}
	if s.Uncompared > 0 {
		fmt.Fprintf(&b, "%d records were not compared: their lines are in files that were not given\n", s.Uncompared)
	}
	fmt.Fprintf(&b, "%s: %d lines in %d files", s.Stream, s.Lines, s.Files)
	if s.Lines > 0 {
		fmt.Fprintf(&b, ", sequence %d to %d, %s to %s", s.First, s.Last, s.From.Format(time.RFC3339), s.To.Format(time.RFC3339))
	}
	if len(s.Problems) > 0 {
		b.WriteString(": damaged; this is what could be verified\n")
	} else {
		b.WriteString(": whole\n")
	}
	return b.String()
}

// Problem is a place and what is wrong there. Line is 0 where it is a whole file's.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitzero"`
	What string `json:"what"`
}

func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.What)
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.What)
}

// verifyAttempts bounds how often a stream is read again because the service changed
// its anchor meanwhile.
const verifyAttempts = 5

// Verify reads all streams, and compares the changes with what the store holds. What
// it returns are findings; an error means that something could not be read.
func Verify(ctx context.Context, o VerifyOptions) ([]Summary, error) {
	if o.Anchors == nil {
		o.Anchors = o.MAC
	}
	snapshot, err := o.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var all []Summary
	for _, stream := range Streams() {
		s, err := verifyStream(ctx, o, stream, &snapshot)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", stream, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// verifyStream reads a stream again as long as it finds problems and the service has
// changed its anchor meanwhile: it may have removed the oldest file, or begun another.
func verifyStream(ctx context.Context, o VerifyOptions, stream string, snapshot *Snapshot) (Summary, error) {
	for attempt := 1; ; attempt++ {
		before := *snapshot
		v := &verifier{o: o, snapshot: before, summary: Summary{Stream: stream}, replay: newReplay()}
		if err := v.run(ctx); err != nil {
			return Summary{}, err
		}
		if len(v.summary.Problems) == 0 && v.seen <= before.Revision {
			return v.summary, nil
		}
		var err error
		if *snapshot, err = o.Snapshot(ctx); err != nil {
			return Summary{}, err
		}
		same := bytes.Equal(before.Anchors[stream], snapshot.Anchors[stream])
		if len(v.summary.Problems) == 0 || same || attempt == verifyAttempts {
			v.checkEnd(*snapshot)
			return v.summary, nil
		}
	}
}

// verifier goes through the files of a stream.
type verifier struct {
	o        VerifyOptions
	snapshot Snapshot
	anchor   anchor
	summary  Summary
	replay   *replay

	seq        uint64    // of the last line
	prev       string    // its MAC
	keys       keyOrder  // of lines up to there
	latest     time.Time // of the lines since the clock went back
	seenAnchor bool      // the line that the anchor names was there
	unanchored []line    // lines of changes after that
	seen       uint64    // highest revision of a line
	resumed    string    // MAC of the last line that resumed the chain
	lost       bool      // after a problem: no line is checked until one that resumes the chain
	file       string
	line       int
}

func (v *verifier) problem(format string, args ...any) {
	if len(v.summary.Problems) == 0 {
		v.summary.sound = v.seq
	}
	if len(v.summary.Problems) == maxProblems {
		v.summary.More++
		return
	}
	v.summary.Problems = append(v.summary.Problems, Problem{v.file, v.line, fmt.Sprintf(format, args...)})
}

func (v *verifier) remark(format string, args ...any) {
	if len(v.summary.Remarks) < maxProblems {
		v.summary.Remarks = append(v.summary.Remarks, Problem{v.file, v.line, fmt.Sprintf(format, args...)})
	}
}

func (v *verifier) run(ctx context.Context) error {
	all, err := v.o.files(v.summary.Stream)
	if err != nil {
		return err
	}
	if text := v.snapshot.Anchors[v.summary.Stream]; text == nil {
		v.checkUnknown(all)
		return nil
	} else if v.anchor, err = decodeAnchor(v.o.Anchors, v.summary.Stream, text); err != nil {
		v.file = storeFile
		v.problem("%v", err)
		return nil
	}
	first := v.anchor.Kept[0]
	v.seq, v.prev = first.Seq-1, first.Prev
	v.seenAnchor = v.anchor.Last.Seq == v.seq
	for i, f := range all {
		v.file, v.line = f.path, 0
		switch {
		case f.number < v.anchor.Begun:
			v.problem("the file is of an earlier chain, which the store does not know any more: it proves nothing; move it to an archive")
			continue
		case f.number < first.File:
			continue // the anchor has given it up, and it is about to be removed
		}
		if err := v.readFile(ctx, f.open, i == len(all)-1); err != nil {
			return err
		}
	}
	v.checkAnchor()
	switch v.summary.Stream {
	case Changes:
		v.checkStore()
	case Signatures:
		v.checkUnanchored()
	}
	return nil
}

// storeFile is the place of problems of the store.
const storeFile = "the store"

// checkUnknown is for a stream of which the store has no anchor. The refusals have
// theirs first.
func (v *verifier) checkUnknown(all []numbered) {
	n := len(v.snapshot.Records) + len(v.snapshot.Unreadable)
	switch {
	case len(all) > 0:
		v.file = all[0].path
		v.problem("the store knows nothing of this stream: the file belongs to another store, whose keys were discarded, or the store is an older one")
	case v.summary.Stream == Signatures:
		// The anchor of the changes says whether there was one. Older versions had none.
		changes, err := decodeAnchor(v.o.Anchors, Changes, v.snapshot.Anchors[Changes])
		if err == nil && changes.Signatures {
			v.file = storeFile
			v.problem("it knows nothing of this stream and has known it: somebody has removed its anchor")
		}
	case n > 0 || v.snapshot.Anchors[Changes] != nil:
		v.file = storeFile
		v.problem("it holds %d records, and knows nothing of this stream: somebody has removed the trail", n)
	}
}

// readFile goes through a file. The end of the newest may be an unfinished write,
// which is going on, or which the next start cuts off.
func (v *verifier) readFile(ctx context.Context, open opener, newest bool) error {
	unfinished, err := eachLine(open, 0, func(text []byte) error {
		v.line++
		v.check(bytes.TrimSuffix(text, []byte("\n")))
		return ctx.Err()
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed meanwhile: the next line shows whether it is missed
	}
	v.summary.Files++
	if unfinished && !newest {
		v.line++
		v.check(nil)
	}
	return err
}

// check looks at one line. The first line of a file can be checked by itself: after a
// problem, or where files are missing, checking goes on there.
func (v *verifier) check(text []byte) {
	l, mac, err := decodeLine(text)
	first := err == nil && v.line == 1 && l.Chain == v.anchor.Chain && l.Stream == v.summary.Stream
	if first {
		right, _ := authentic(v.o.MAC, l, mac, l.Prev)
		_, inOrder := v.keys.next(l.Key, v.o.MAC.Primary())
		first = right && inOrder
	}
	if first && mac != v.resumed && (l.Kind == Broken || l.accepts()) {
		v.resumed = mac
		v.resume(l)
		v.accept(l, mac)
		return
	}
	if first && l.Seq > v.seq && (v.lost || l.Seq > v.seq+1) {
		v.skip(l)
		v.accept(l, mac)
		return
	}
	if v.lost {
		return
	}
	if what := v.whatIsWrong(l, mac, err); what != "" {
		v.problem("%s", what)
		v.lost = true
		return
	}
	v.accept(l, mac)
}

// skip goes on at the first line of a file, where lines are missing before it.
func (v *verifier) skip(l line) {
	switch {
	case v.lost: // has been said
	case v.o.archived && v.summary.Lines == 0:
	default:
		v.problem("sequence %d follows %d: lines are missing, or in another order", l.Seq, v.seq)
	}
	v.replay.gap()
	v.lost = false
	v.seenAnchor = v.seenAnchor || v.anchor.Last.Seq < l.Seq
}

// resume goes on at a line with which the service went on in a new file after a
// problem, or with which an operator accepted what was before.
func (v *verifier) resume(l line) {
	if l.Kind == Broken {
		v.problem("the service found the trail damaged at %s and went on here after line %d: %s", l.Time.Format(time.RFC3339), l.Seq-1, l.Reason)
		if v.lost || v.seq < l.Seq-1 {
			v.replay.gap()
		}
	} else {
		v.acceptBreak(l)
	}
	switch at := v.anchor.Last; {
	case at.Seq == l.Seq-1 && at.MAC == l.Prev:
		v.seenAnchor, v.unanchored = true, nil
	case at.Seq >= l.Seq:
		v.seenAnchor, v.unanchored = false, nil // it has to come after this line
	}
	v.lost = false
}

// whatIsWrong returns nothing for a line that follows the one before.
func (v *verifier) whatIsWrong(l line, mac string, err error) string {
	if err != nil {
		return "the line " + err.Error()
	}
	right, known := authentic(v.o.MAC, l, mac, v.prev)
	want := v.seq + 1
	switch {
	case l.Stream != v.summary.Stream || l.Chain != v.anchor.Chain:
		return "the line belongs to another stream or chain"
	case right && l.Seq == want:
		if _, inOrder := v.keys.next(l.Key, v.o.MAC.Primary()); !inOrder {
			return fmt.Sprintf("the line was made with key %s, which another key had followed before: whoever has a key that was rotated away made it", l.Key)
		}
		return ""
	case l.Seq > want:
		return fmt.Sprintf("sequence %d follows %d: lines are missing, or in another order", l.Seq, v.seq)
	case l.Seq < want:
		return fmt.Sprintf("sequence %d follows %d: the line is repeated, inserted, or in another place", l.Seq, v.seq)
	case !known:
		return fmt.Sprintf("the line was made with key %.16q, which is not in the sealing keyset", l.Key)
	}
	return fmt.Sprintf("line %d, or a line before it, was changed: its authentication code does not fit", l.Seq)
}

// accept counts a line that is right, and looks at what it says.
func (v *verifier) accept(l line, mac string) {
	s := &v.summary
	if s.Lines == 0 {
		s.First, s.From = l.Seq, l.Time
	}
	s.Lines++
	s.Last, s.To = l.Seq, l.Time
	v.seq, v.prev = l.Seq, mac
	v.keys, _ = v.keys.next(l.Key, v.o.MAC.Primary())
	switch s.Stream {
	case Changes:
		v.acceptChange(l)
	case Signatures:
		v.acceptCommit(l)
	}
	if l.Kind == Begin && l.Outcome == unanchored {
		v.problem("a new chain begins where there was one already: %s", l.Reason)
	}
	if l.Seq == v.anchor.Last.Seq && mac == v.anchor.Last.MAC {
		v.seenAnchor, v.unanchored = true, nil
		v.checkAnchorKey()
	}
}

// clockSlack is how much older a line may be than one before it: what is under way at
// once is not written in the order of its times.
const clockSlack = time.Minute

func (v *verifier) acceptChange(l line) {
	switch {
	case l.Time.IsZero():
	case l.Time.Before(v.latest.Add(-clockSlack)):
		v.remark("the line is %s older than one before it: the clock went back", v.latest.Sub(l.Time))
		v.latest = l.Time
	case l.Time.After(v.latest):
		v.latest = l.Time
	}
	switch l.Outcome {
	case unauthentic:
		v.problem("revision %d of the store was committed with a note that the service did not make: somebody else wrote to the store", l.Revision)
	case missing:
		v.problem("changes before this line have no line: somebody took their notes out of the store")
	}
	if l.Kind == Begin {
		v.begin(l.Baseline)
	}
	v.acceptCommit(l)
	if l.Revision <= v.snapshot.Revision { // else it was written meanwhile
		v.replay.apply(l.Event, l.Seq, l.Revision)
	}
}

// acceptCommit notes a line of a commit, which the store has to know.
func (v *verifier) acceptCommit(l line) {
	v.seen = max(v.seen, l.Revision)
	if v.seenAnchor {
		v.unanchored = append(v.unanchored, l)
	}
}

// checkAnchorKey checks that the anchor was not made with a key that was rotated away
// before the line that it names.
func (v *verifier) checkAnchorKey() {
	if v.anchor.Key == v.o.MAC.Primary() {
		return
	}
	if _, inOrder := v.keys.next(v.anchor.Key, v.o.MAC.Primary()); !inOrder {
		v.problem("the anchor of this line was made with key %s, which another key had followed before: whoever has a key that was rotated away made it", v.anchor.Key)
	}
}

// checkAnchor checks that the lines go as far as the store says.
func (v *verifier) checkAnchor() {
	if v.seenAnchor || v.lost {
		return
	}
	if v.file == "" {
		v.file = fileName(v.summary.Stream, v.anchor.Kept[0].File)
	}
	v.line++
	if v.seq < v.anchor.Last.Seq {
		v.problem("the lines end at sequence %d and the store has %d on record: lines were cut off, or a file is missing", v.seq, v.anchor.Last.Seq)
		v.replay.gap()
		return
	}
	v.problem("line %d is not the one that the store has on record", v.anchor.Last.Seq)
}

package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// Snapshot is what the store says of the trail at one moment.
type Snapshot struct {
	Anchors map[string][]byte // by stream; none where nothing was ever anchored
	Pending int               // notes in the outbox
}

// VerifyOptions says what is verified.
type VerifyOptions struct {
	// Dirs are where the files are: those of the service, and of an archive.
	Dirs []string
	MAC  MAC
	// Snapshot reads the store. It is called before the files are read, and again
	// after that: a running service writes meanwhile.
	Snapshot func(context.Context) (Snapshot, error)
}

// Summary is what was found in a stream.
type Summary struct {
	Stream      string
	Files       int
	Lines       int
	First, Last uint64 // sequence numbers
	From, To    time.Time
	// Problems are where the stream is not what the service wrote: the first one,
	// and one for each later file that the service began because of a problem.
	Problems []Problem
}

// String is a line for each problem, and one for the stream.
func (s Summary) String() string {
	var b strings.Builder
	for _, problem := range s.Problems {
		fmt.Fprintln(&b, problem)
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
	File string
	Line int
	What string
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

// Verify reads both streams. What it returns are findings; an error means that
// something could not be read.
func Verify(ctx context.Context, o VerifyOptions) ([]Summary, error) {
	var all []Summary
	for _, stream := range []string{Changes, Refusals} {
		s, err := verifyStream(ctx, o, stream)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", stream, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func verifyStream(ctx context.Context, o VerifyOptions, stream string) (Summary, error) {
	before, err := o.Snapshot(ctx)
	if err != nil {
		return Summary{}, err
	}
	for attempt := 1; ; attempt++ {
		v := &verifier{mac: o.MAC, summary: Summary{Stream: stream}}
		if err := v.run(o.Dirs, before.Anchors[stream]); err != nil {
			return Summary{}, err
		}
		after, err := o.Snapshot(ctx)
		if err != nil {
			return Summary{}, err
		}
		if len(v.summary.Problems) == 0 {
			v.checkEnd(after)
			return v.summary, nil
		}
		// A problem may be that the service removed the oldest file, or began a new
		// chain, while the files were read.
		if bytes.Equal(before.Anchors[stream], after.Anchors[stream]) || attempt == verifyAttempts {
			return v.summary, nil
		}
		before = after
	}
}

// verifier goes through the files of a stream.
type verifier struct {
	mac     MAC
	anchor  anchor
	summary Summary

	seq        uint64 // of the last line
	prev       string // its MAC
	seenAnchor bool   // the line that the anchor names was there
	lost       bool   // after a problem: no line is checked until one that resumes the chain
	file       string
	line       int
}

func (v *verifier) problem(format string, args ...any) {
	v.summary.Problems = append(v.summary.Problems, Problem{v.file, v.line, fmt.Sprintf(format, args...)})
}

func (v *verifier) run(dirs []string, text []byte) error {
	all, err := filesIn(dirs, v.summary.Stream)
	if err != nil {
		return err
	}
	if text == nil {
		if len(all) > 0 {
			v.file = all[0].path
			v.problem("the store knows nothing of this stream: the file belongs to another store, whose keys were discarded, or the store is an older one")
		}
		return nil
	}
	if v.anchor, err = decodeAnchor(v.mac, v.summary.Stream, text); err != nil {
		v.file = "the store"
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
		if err := v.readFile(f.path, i == len(all)-1); err != nil {
			return err
		}
	}
	v.checkAnchor()
	return nil
}

// readFile goes through a file. The end of the newest may be an unfinished write,
// which is going on, or which the next start cuts off.
func (v *verifier) readFile(path string, newest bool) error {
	unfinished, err := eachLine(path, 0, func(text []byte) error {
		v.line++
		v.check(bytes.TrimSuffix(text, []byte("\n")))
		return nil
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

// check looks at one line. After a problem, checking resumes at a line with which
// the service went on in a new file: nobody else can have made it.
func (v *verifier) check(text []byte) {
	l, mac, err := decodeLine(text)
	if err == nil && v.line == 1 && v.resumes(l, mac) {
		v.problem("the service found the trail damaged at %s and went on here after line %d: %s", l.Time.Format(time.RFC3339), l.Seq-1, l.Reason)
		switch at := v.anchor.Last; {
		case at.Seq == l.Seq-1 && at.MAC == l.Prev:
			v.seenAnchor = true
		case at.Seq >= l.Seq:
			v.seenAnchor = false // it has to come after this line
		}
		v.lost = false
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

// resumes reports whether a line is one that the service wrote after damage.
func (v *verifier) resumes(l line, mac string) bool {
	if l.Kind != Broken || l.Chain != v.anchor.Chain || l.Stream != v.summary.Stream {
		return false
	}
	right, _ := authentic(v.mac, l, mac, l.Prev)
	return right
}

// whatIsWrong returns nothing for a line that follows the one before.
func (v *verifier) whatIsWrong(l line, mac string, err error) string {
	if err != nil {
		return "the line " + err.Error()
	}
	right, known := authentic(v.mac, l, mac, v.prev)
	want := v.seq + 1
	switch {
	case l.Stream != v.summary.Stream || l.Chain != v.anchor.Chain:
		return "the line belongs to another stream or chain"
	case right && l.Seq == want:
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

// accept counts a line that is right.
func (v *verifier) accept(l line, mac string) {
	s := &v.summary
	if s.Lines == 0 {
		s.First, s.From = l.Seq, l.Time
	}
	s.Lines++
	s.Last, s.To = l.Seq, l.Time
	v.seq, v.prev = l.Seq, mac
	v.seenAnchor = v.seenAnchor || l.Seq == v.anchor.Last.Seq && mac == v.anchor.Last.MAC
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
		return
	}
	v.problem("line %d is not the one that the store has on record", v.anchor.Last.Seq)
}

// checkEnd checks that the lines of changes do not go further than the store knows:
// the notes of lines that are not anchored yet are still in the outbox.
func (v *verifier) checkEnd(now Snapshot) {
	if v.summary.Stream != Changes || now.Anchors[Changes] == nil {
		return
	}
	a, err := decodeAnchor(v.mac, Changes, now.Anchors[Changes])
	if err != nil || a.Chain != v.anchor.Chain {
		return
	}
	known := a.Last.Seq + uint64(now.Pending) //nolint:gosec // not negative
	if a.Opening != nil {
		known++
	}
	if v.seq > known {
		v.problem("the lines go on to sequence %d and the store knows of %d: the store is an older one", v.seq, known)
	}
}

package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Query asks for lines of the trail. Texts are compared without letter case, and a line
// has to contain all of them; "" is any.
type Query struct {
	Who    string // user, address, or process on this host
	What   string // kind of event, operation or route, or outcome
	Object string // slot, the slot before, or subject
	After  string // Page.Next of the page before; "" begins with the newest line
	Limit  int    // of lines
}

// Page is a part of the trail, the newest line first. It may be empty though Next goes on:
// no more than maxRead is read for it.
type Page struct {
	Lines      []Line
	Next       string // "": the trail has no older line
	Unreadable int    // lines that were met and are no lines; verify says more
}

// Line is a line of a stream. That it is authentic is for Verify to say.
type Line struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
	Event  `json:",inline"`
}

const (
	maxRead    = 4 << 20  // bytes of files for a page, more or less
	readChunk  = 64 << 10 // bytes at a time
	maxReaders = 2        // pages that are read at once
	readerWait = 2 * time.Second
)

// Errors of Read.
var (
	ErrReaders  = errors.New("too many requests read the audit trail at once")
	ErrPosition = errors.New("this position is none that the audit trail has given")
)

// Read returns lines that are in the files. A line that waits in the outbox, or in memory,
// comes within a second. It takes no lock of those who write.
//
// Errors: ErrReaders after a wait, ErrPosition, and those of files.
func (l *Log) Read(ctx context.Context, q Query) (Page, error) {
	if l == nil {
		return Page{}, nil
	}
	select {
	case l.readers <- struct{}{}:
		defer func() { <-l.readers }()
	case <-time.After(readerWait):
		return Page{}, ErrReaders
	case <-ctx.Done():
		return Page{}, ctx.Err()
	}
	ends, err := parsePositions(q.After)
	if err != nil {
		return Page{}, err
	}
	var streams []*backward
	for i, stream := range Streams() {
		streams = append(streams, &backward{dir: l.o.Dir, stream: stream, place: ends[i]})
	}
	defer func() {
		for _, s := range streams {
			s.close()
		}
	}()
	page := Page{Lines: []Line{}}
	for ctx.Err() == nil {
		more, err := page.next(q, streams)
		if err != nil {
			return Page{}, err
		}
		if !more {
			break
		}
	}
	for _, s := range streams {
		page.Unreadable += s.unreadable
	}
	return page, ctx.Err()
}

// next puts the newest line that is left on the page, if it is asked for. At the end of
// the page it sets Next.
func (p *Page) next(q Query, streams []*backward) (more bool, err error) {
	var newest *backward
	budget, over := maxRead, true
	for _, s := range streams {
		if err := s.look(); err != nil {
			return false, err
		}
		budget -= s.read
		over = over && s.place.number == 0
		if s.has && (newest == nil || s.line.Time.After(newest.line.Time)) {
			newest = s
		}
	}
	switch {
	case over:
		return false, nil
	case budget <= 0 || len(p.Lines) == q.Limit || newest == nil:
		p.Next = encodePositions(streams)
		return false, nil
	}
	if q.matches(newest.line) {
		p.Lines = append(p.Lines, newest.line)
	}
	newest.take()
	return true, nil
}

func (q Query) matches(l Line) bool {
	return contain(q.Who, l.User, l.Address, l.Peer) &&
		contain(q.What, string(l.Kind), l.Operation, l.Route, l.Outcome) &&
		contain(q.Object, l.Slot, l.From, l.Subject)
}

// contain reports whether one of the texts contains what is looked for.
func contain(what string, texts ...string) bool {
	what = strings.ToLower(what)
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(strings.ToLower(text), what) })
}

// place is where the reading of a stream goes on: before a size of a file. The file with
// the number 0 is none.
type place struct {
	number int
	end    int64
}

// backward reads the lines of a stream, the last first.
type backward struct {
	dir, stream string
	place       place
	file        *os.File // nil: not open yet
	rest        []byte   // what was read of the file and is before place

	has        bool
	line       Line
	start      int64 // of the line, in its file
	read       int   // bytes
	unreadable int
}

// older goes to the end of the newest file with a smaller number.
func (s *backward) older() error {
	s.close()
	files, err := filesIn([]string{s.dir}, s.stream)
	if err != nil {
		return err
	}
	than := s.place.number
	s.place, s.rest = place{}, nil
	for _, f := range slices.Backward(files) {
		if f.number < than {
			s.place = place{f.number, math.MaxInt64}
			return nil
		}
	}
	return nil
}

// look finds the line before place, unless it has one. It ends without one where the
// stream has no more, or maxRead bytes were read.
func (s *backward) look() error {
	for !s.has && s.place.number > 0 && s.read < maxRead {
		last := bytes.LastIndexByte(s.rest[:max(0, len(s.rest)-1)], '\n')
		var err error
		switch {
		case s.place.end == 0:
			err = s.older()
		case last < 0 && int64(len(s.rest)) < s.place.end && len(s.rest) <= maxLine:
			err = s.fill()
		default:
			text := s.rest[last+1:]
			s.rest, s.start = s.rest[:last+1], s.place.end-int64(len(text))
			s.decode(text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// decode reads a line. One that is none is counted and passed over; what has no newline is
// being written.
func (s *backward) decode(text []byte) {
	object, whole := bytes.CutSuffix(text, []byte("\n"))
	s.line = Line{}
	err := json.Unmarshal(object, &s.line)
	if s.has = whole && err == nil && s.line.Stream == s.stream; s.has {
		return
	}
	if whole {
		s.unreadable++
	}
	s.take()
}

// take goes on before the line.
func (s *backward) take() { s.has, s.place.end = false, s.start }

// fill reads a chunk before rest. A file that the bound of its stream has removed has no
// lines.
func (s *backward) fill() error {
	if s.file == nil {
		file, err := os.Open(filepath.Join(s.dir, fileName(s.stream, s.place.number)))
		if errors.Is(err, os.ErrNotExist) {
			s.place.end = 0
			return nil
		}
		if err != nil {
			return err
		}
		s.file = file
		info, err := file.Stat()
		if err != nil {
			return err
		}
		s.place.end = min(s.place.end, info.Size())
	}
	known := int64(len(s.rest))
	chunk := make([]byte, min(readChunk, s.place.end-known), readChunk+known)
	if _, err := s.file.ReadAt(chunk, s.place.end-known-int64(len(chunk))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	s.read += len(chunk)
	s.rest = append(chunk, s.rest...)
	return nil
}

func (s *backward) close() {
	if s.file != nil {
		_ = s.file.Close() // it was only read
		s.file = nil
	}
}

// encodePositions makes Page.Next: the place of each stream, as two unsigned varints.
func encodePositions(streams []*backward) string {
	var b []byte
	for _, s := range streams {
		b = binary.AppendUvarint(b, uint64(s.place.number)) //nolint:gosec // not negative
		b = binary.AppendUvarint(b, uint64(s.place.end))    //nolint:gosec // not negative
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parsePositions reads Query.After. A client can make up any place, which does no harm.
func parsePositions(text string) (places []place, err error) {
	if text == "" {
		return slices.Repeat([]place{{math.MaxInt32, 0}}, len(Streams())), nil // the end of the newest file
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, ErrPosition
	}
	for range Streams() {
		number, n := binary.Uvarint(b)
		end, m := binary.Uvarint(b[max(0, n):])
		if n <= 0 || m <= 0 || number > math.MaxInt32 || end > math.MaxInt64 {
			return nil, ErrPosition
		}
		places, b = append(places, place{int(number), int64(end)}), b[n+m:]
	}
	if len(b) > 0 {
		return nil, ErrPosition
	}
	return places, nil
}

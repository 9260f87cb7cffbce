package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// numbered is a file of a stream.
type numbered struct {
	number int
	path   string // for people, where open does not need it
	open   opener
}

// opener opens a file, which is an io.Seeker.
type opener func() (fs.File, error)

func openerOf(path string) opener { return func() (fs.File, error) { return os.Open(path) } }

func fileName(stream string, number int) string {
	return fmt.Sprintf("%s-%06d.jsonl", stream, number)
}

// filesIn returns a stream's files in ascending order.
func filesIn(dirs []string, stream string) ([]numbered, error) {
	var all []numbered
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if n, is := numberOf(e.Name(), stream); is {
				path := filepath.Join(dir, e.Name())
				all = append(all, numbered{n, path, openerOf(path)})
			}
		}
	}
	sortFiles(all)
	return all, nil
}

// numberOf returns the number of a stream's file.
func numberOf(name, stream string) (number int, is bool) {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(name, stream+"-"), ".jsonl"))
	return n, err == nil && n > 0 && fileName(stream, n) == name
}

func sortFiles(all []numbered) {
	slices.SortStableFunc(all, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
}

// files returns a stream's files in ascending order.
func (o VerifyOptions) files(stream string) ([]numbered, error) {
	if o.Files == nil {
		return filesIn(o.Dirs, stream)
	}
	entries, err := fs.ReadDir(o.Files, ".")
	var all []numbered
	for _, e := range entries {
		if n, is := numberOf(e.Name(), stream); is {
			all = append(all, numbered{n, e.Name(), func() (fs.File, error) { return o.Files.Open(e.Name()) }})
		}
	}
	sortFiles(all)
	return all, err
}

// openers returns how the files with a name are opened, one in each folder.
func (o VerifyOptions) openers(name string) (all []opener) {
	if o.Files != nil {
		return []opener{func() (fs.File, error) { return o.Files.Open(name) }}
	}
	for _, dir := range o.Dirs {
		all = append(all, openerOf(filepath.Join(dir, name)))
	}
	return all
}

// IsFile reports whether a name is that of a file of the trail.
func IsFile(name string) bool {
	if digest, is := strings.CutPrefix(strings.TrimSuffix(name, ".json"), baselinePrefix); is {
		sum, err := hex.DecodeString(digest)
		return err == nil && baselineName(hex.EncodeToString(sum)) == name && len(digest) == baselineDigits
	}
	return slices.ContainsFunc(Streams(), func(stream string) bool { _, is := numberOf(name, stream); return is })
}

// eachLine calls fn with the lines of a file from an offset on, each with its newline.
// One that is longer than a line may be comes in pieces. It stops before an unfinished
// write, and reports it: a last line without newline, or zeros, as no line has. When
// the power goes while lines are written, a later part of them may be on the disk and
// an earlier one not, which then reads as zeros.
func eachLine(open opener, offset int64, fn func(text []byte) error) (unfinished bool, err error) {
	f, err := open()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at, is := f.(io.Seeker)
	if !is {
		return false, errors.ErrUnsupported
	}
	if _, err := at.Seek(offset, io.SeekStart); err != nil {
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
		case bytes.IndexByte(text, 0) >= 0:
			return true, nil
		}
		if err := fn(text); err != nil {
			return false, err
		}
	}
}

// Hold calls fn while no line is written, no anchor committed, and no file begun or
// removed: lines wait for its end in memory and in the store.
func (l *Log) Hold(fn func() error) error {
	if l != nil {
		l.changes.mu.Lock() // that of the signatures, too
		defer l.changes.mu.Unlock()
		l.refusals.mu.Lock()
		defer l.refusals.mu.Unlock()
	}
	return fn()
}

// Part is a file of the trail from its beginning to where an anchor has it.
type Part struct {
	Name string
	Size int64
}

// Parts lists what of the files in a folder is as old as the anchors of a store: the
// store and these parts are a whole trail. What comes after an anchor is of notes that
// the store still has. The files of a stream without an anchor are listed whole.
func Parts(dir string, mac MAC, anchors map[string][]byte) (all []Part, err error) {
	for _, stream := range Streams() {
		files, err := filesIn([]string{dir}, stream)
		if err != nil {
			return nil, err
		}
		a, unanchored := decodeAnchor(mac, stream, anchors[stream])
		for _, f := range files {
			info, err := os.Stat(f.path)
			if err != nil {
				return nil, err
			}
			size := info.Size()
			if last := a.Last; unanchored == nil {
				switch {
				case f.number > last.File:
					size = 0
				case f.number == last.File:
					size = min(size, last.Size)
				}
			}
			if size > 0 {
				all = append(all, Part{fileName(stream, f.number), size})
			}
		}
	}
	baselines, err := fs.Glob(os.DirFS(dir), baselineName("*"))
	if err != nil {
		return nil, err
	}
	for _, name := range baselines {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if IsFile(name) {
			all = append(all, Part{name, info.Size()})
		}
	}
	return all, nil
}

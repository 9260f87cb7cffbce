package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// numbered is a file of a stream.
type numbered struct {
	number int
	path   string
}

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
			digits := strings.TrimSuffix(strings.TrimPrefix(e.Name(), stream+"-"), ".jsonl")
			if n, err := strconv.Atoi(digits); err == nil && n > 0 && fileName(stream, n) == e.Name() {
				all = append(all, numbered{n, filepath.Join(dir, e.Name())})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	return all, nil
}

// eachLine calls fn with the lines of a file from an offset on, each with its newline.
// One that is longer than a line may be comes in pieces. It stops before an unfinished
// write, and reports it: a last line without newline, or zeros, as no line has. When
// the power goes while lines are written, a later part of them may be on the disk and
// an earlier one not, which then reads as zeros.
func eachLine(path string, offset int64, fn func(text []byte) error) (unfinished bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
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

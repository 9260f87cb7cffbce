package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

const (
	// maxCopies is how many lines may wait for the log: as many as are written at
	// once, so that a log that keeps up misses none.
	maxCopies = maxGroups + pageSize
	// lastCopies is how long Close waits for the log to take the last copies.
	lastCopies = time.Second
)

// copies brings lines to the log, for collectors. The files are the evidence: a
// line is copied once it is durable there. When the log is too slow, lines are left
// out, because nothing may wait for a log; their sequence numbers are missing then.
//
// The methods of nil do nothing.
type copies struct {
	lines chan []byte
	done  chan struct{}
}

func newCopies(log *slog.Logger) *copies {
	c := &copies{lines: make(chan []byte, maxCopies), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for line := range c.lines {
			// A JSON log holds the line as an object, byte for byte as in the file. A
			// text log holds it as a quoted string.
			log.LogAttrs(context.Background(), slog.LevelInfo, "audit", slog.Any("line", json.RawMessage(line)))
		}
	}()
	return c
}

// add copies durable lines. The caller changes none of their bytes afterwards.
func (c *copies) add(lines []byte) {
	if c == nil {
		return
	}
	for line := range bytes.Lines(lines) {
		select {
		case c.lines <- bytes.TrimSuffix(line, []byte("\n")):
		default:
		}
	}
}

// close is called once, after the last add.
func (c *copies) close() {
	if c == nil {
		return
	}
	close(c.lines)
	select {
	case <-c.done:
	case <-time.After(lastCopies):
	}
}

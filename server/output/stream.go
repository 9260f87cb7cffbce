package output

import (
	"bytes"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// bound is how many bytes of a stream may wait for its reader: some 3,000 lines of
	// requests. Readers pause for less than the second in which they come at full speed,
	// and two streams take 4 MiB at most.
	bound = 1 << 20
	// atomicWrite is what one write has at most, unless a single line is longer: where
	// stdout and stderr are one pipe, the kernel keeps such a write together (pipe(7),
	// PIPE_BUF).
	atomicWrite = 4096
	// keep is the size of a buffer that is used again.
	keep = 64 << 10
	// gather is the pause after lines were written, unless many come. A line that comes
	// alone is written at once; under load the lines of a pause share a system call.
	gather = 5 * time.Millisecond
	// retry is the time between attempts while a stream takes nothing: the reader of a
	// FIFO may come back, and a disk may get room.
	retry = time.Second
	// lastWait is how long Close waits for a reader that takes nothing.
	lastWait = time.Second
)

// Stream is an io.Writer that never waits and never fails. A goroutine writes what is
// queued, in order and in whole lines. When bound is reached, lines are dropped and
// counted until the reader has caught up with half of it; then a line says how many.
type Stream struct {
	to      io.Writer
	dropped prometheus.Counter
	gapLine func(lines int) []byte // what stands in the place of dropped lines
	failed  func(error)            // called when the stream stops taking lines, once until it takes one again

	wake    chan struct{} // something is queued; has room for one
	hurry   chan struct{} // much is queued; has room for one
	closing chan struct{}
	done    chan struct{} // closed when the goroutine has ended

	taken []byte // the last batch, whose memory the next queue uses

	mu        sync.Mutex
	queue     []byte
	unwritten int       // bytes of a batch that the goroutine took from the queue and has not written
	gap       int       // lines dropped since the queue was full
	began     time.Time // when the present write began
}

func newStream(to io.Writer, dropped prometheus.Counter, gapLine func(int) []byte, failed func(error)) *Stream {
	s := &Stream{
		to: to, dropped: dropped, gapLine: gapLine, failed: failed,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	go s.run()
	return s
}

// Write queues whole lines, or drops them.
func (s *Stream) Write(lines []byte) (int, error) {
	s.mu.Lock()
	if s.gap > 0 || len(s.queue)+s.unwritten+len(lines) > bound {
		n := max(1, bytes.Count(lines, []byte("\n")))
		s.gap += n
		s.dropped.Add(float64(n))
	} else {
		s.queue = append(s.queue, lines...)
	}
	much := len(s.queue) > bound/4
	s.mu.Unlock()
	signal(s.wake)
	if much {
		signal(s.hurry)
	}
	return len(lines), nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has one that was not taken yet
	}
}

func (s *Stream) run() {
	defer close(s.done)
	for {
		select {
		case <-s.wake:
		case <-s.closing:
			s.writeAll()
			return
		}
		s.writeAll()
		select {
		case <-time.After(gather):
		case <-s.hurry:
		case <-s.closing:
		}
	}
}

// writeAll writes until the queue is empty. A stream that takes nothing keeps it, and is
// given up when it is closed.
func (s *Stream) writeAll() {
	var batch []byte
	failing := false
	for {
		batch = s.take(batch)
		if len(batch) == 0 {
			return
		}
		n, err := s.to.Write(firstLines(batch))
		batch = batch[n:] // a torn line is gone on with
		if err == nil {
			failing = false
			continue
		}
		if !failing {
			s.failed(err)
		}
		failing = true
		select {
		case <-time.After(retry):
		case <-s.closing:
			return
		}
	}
}

// take returns what is to be written next: the rest of a batch, or else the queue.
func (s *Stream) take(batch []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gap > 0 && len(s.queue)+len(batch) <= bound/2 {
		s.queue = append(s.queue, s.gapLine(s.gap)...)
		s.gap = 0
	}
	if len(batch) == 0 {
		if cap(s.taken) > keep {
			s.taken = nil
		}
		s.queue, s.taken = s.taken[:0], s.queue
		batch = s.taken
	}
	s.unwritten, s.began = len(batch), time.Now()
	return batch
}

// firstLines returns as many lines as one write should have.
func firstLines(batch []byte) []byte {
	if len(batch) <= atomicWrite {
		return batch
	}
	if end := bytes.LastIndexByte(batch[:atomicWrite], '\n'); end >= 0 {
		return batch[:end+1]
	}
	if end := bytes.IndexByte(batch, '\n'); end >= 0 {
		return batch[:end+1]
	}
	return batch
}

// close writes what is queued, and ends. It waits until the write that is going on, or
// else the call, is lastWait old: for a reader that stalled before, it does not wait.
func (s *Stream) close() {
	began := time.Now()
	s.mu.Lock()
	if s.unwritten > 0 {
		began = s.began
	}
	s.mu.Unlock()
	close(s.closing)
	select {
	case <-s.done:
	case <-time.After(time.Until(began.Add(lastWait))):
	}
}

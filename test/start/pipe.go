package start

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestcsr/test/kit"
)

// Pipe is a pipe for the service to write to. Its reader may stall.
type Pipe struct {
	W    *os.File // for Options
	r    *os.File
	into *kit.Buffer
	done chan struct{}
	t    *testing.T
}

// NewPipe makes a pipe of a page whose reader reads into a buffer.
func NewPipe(t *testing.T, into *kit.Buffer) *Pipe {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	p := &Pipe{W: w, r: r, into: into, t: t}
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	p.Resume()
	return p
}

// Stall stops the reader, and fills the pipe.
func (p *Pipe) Stall() {
	p.t.Helper()
	if err := p.r.SetReadDeadline(time.Now()); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
	// A file of its own: the service's must go on to block.
	fill, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", p.W.Fd()), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer fill.Close()
	if err := fill.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		p.t.Fatal(err)
	}
	if _, err := fill.Write(bytes.Repeat([]byte("\n"), 1<<16)); !os.IsTimeout(err) {
		p.t.Fatalf("the pipe is not full: %v", err)
	}
}

// Resume lets the reader go on.
func (p *Pipe) Resume() {
	p.t.Helper()
	if err := p.r.SetReadDeadline(time.Time{}); err != nil {
		p.t.Fatal(err)
	}
	p.done = make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		_, _ = io.Copy(p.into, p.r) // until Stall or Leave
	}(p.done)
}

// Leave takes the reader away.
func (p *Pipe) Leave() {
	p.t.Helper()
	if err := p.r.Close(); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
}

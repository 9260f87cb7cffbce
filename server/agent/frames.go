package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// maxMessage bounds a message after its length, in bytes.
const maxMessage = 1 << 20

// Types of messages (draft-ietf-sshm-ssh-agent section 6.1).
const (
	typeFailure    = 5
	typeList       = 11
	typeIdentities = 12
	typeSign       = 13
	typeSignature  = 14
)

// failure is the answer to what is not done.
func failure() []byte { return []byte{0, 0, 0, 1, typeFailure} }

// frames is a connection as agent.ServeAgent reads and writes it. It bounds a message
// before ServeAgent makes room for it: that takes 16 MiB. It lets through what asks for
// the list of keys and for signatures, and answers all else by itself, so that no library
// parses what nobody needs.
type frames struct {
	conn     net.Conn
	draining context.Context
	answered func(kind byte)
	in       *bufio.Reader
	out      bytes.Buffer // the answer, which goes when the next message is read
	left     int          // bytes of the message that ServeAgent is reading
}

func newFrames(draining context.Context, c net.Conn, answered func(kind byte)) *frames {
	return &frames{conn: c, draining: draining, answered: answered, in: bufio.NewReader(c)}
}

// Write keeps what ServeAgent writes in several parts.
func (f *frames) Write(p []byte) (int, error) { return f.out.Write(p) }

func (f *frames) Read(p []byte) (int, error) {
	for f.left == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n, err := f.in.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// next sends the answer to the message before and waits for another one. It sets left
// where the message is for ServeAgent.
func (f *frames) next() error {
	if err := f.flush(); err != nil {
		return err
	}
	if err := f.expect(); err != nil {
		return err
	}
	length, err := f.in.Peek(4)
	if err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(length)
	if size == 0 || size > maxMessage {
		f.out.Write(failure())
		return errors.Join(fmt.Errorf("a message of %d bytes: 1 to %d are allowed", size, maxMessage), f.flush())
	}
	if err := f.expect(); err != nil {
		return err
	}
	header, err := f.in.Peek(5)
	if err != nil {
		return err
	}
	if kind := header[4]; kind == typeList || kind == typeSign {
		f.left = 4 + int(size)
		return nil
	}
	_, err = f.in.Discard(4 + int(size))
	f.out.Write(failure())
	return err
}

// expect starts the time in which something has to come. Whoever drains ends it: before
// the check, or else after the deadline was set here.
func (f *frames) expect() error {
	if err := f.conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	return f.draining.Err()
}

func (f *frames) flush() error {
	if f.out.Len() == 0 {
		return nil
	}
	if answer := f.out.Bytes(); len(answer) > 4 {
		f.answered(answer[4])
	}
	if err := f.conn.SetWriteDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	_, err := f.out.WriteTo(f.conn)
	return err
}

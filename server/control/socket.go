package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxConnections is how many commands are served at once. Others wait.
const maxConnections = 8

// place is data_dir, opened as a place only. The address of a UNIX socket takes 107
// bytes, and the path of data_dir may be longer: the socket is reached through the
// descriptor.
type place int

func openPlace(dataDir string) (place, error) {
	fd, err := unix.Open(dataDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dataDir, Err: err}
	}
	return place(fd), nil
}

func (p place) close() error { return os.NewSyscallError("close", unix.Close(int(p))) }

func (p place) socket() string { return fmt.Sprintf("/proc/self/fd/%d/%s", int(p), SocketFile) }

// remove removes the socket, if there is one.
func (p place) remove() error {
	err := unix.Unlinkat(int(p), SocketFile, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return os.NewSyscallError("unlinkat "+SocketFile, err)
}

// listener accepts maxConnections connections at a time.
type listener struct {
	*net.UnixListener
	at     place
	taken  chan struct{}
	closed context.Context
	close  context.CancelFunc
}

// listen makes the socket, mode 0600. The caller holds the store's lock, so that a
// socket that is there is of a process that was killed. A crash leaves one more.
func listen(dataDir string) (*listener, error) {
	at, err := openPlace(dataDir)
	if err != nil {
		return nil, err
	}
	if err := at.remove(); err != nil {
		return nil, errors.Join(err, at.close())
	}
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		// The mode of the socket file is that of the descriptor (less the umask), so
		// that nobody can connect before a chmod.
		control := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(control, err)
	}}
	l, err := config.Listen(context.Background(), "unix", at.socket())
	own, is := l.(*net.UnixListener)
	if err != nil || !is {
		return nil, errors.Join(err, at.close())
	}
	own.SetUnlinkOnClose(false) // end does that
	closed, closing := context.WithCancel(context.Background())
	return &listener{own, at, make(chan struct{}, maxConnections), closed, closing}, nil
}

// end removes the socket of a listener that is closed.
func (l *listener) end() error { return errors.Join(l.at.remove(), l.at.close()) }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.taken <- struct{}{}:
	case <-l.closed.Done():
		return nil, net.ErrClosed
	}
	c, err := l.AcceptUnix()
	if err != nil {
		<-l.taken
		return nil, err
	}
	return &conn{c, sync.OnceFunc(func() { <-l.taken })}, nil
}

// Close also ends an Accept that waits for its turn.
func (l *listener) Close() error {
	l.close()
	return l.UnixListener.Close()
}

type conn struct {
	*net.UnixConn
	release func()
}

func (c *conn) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}

// dial connects to the service. ErrNoService: there is none.
func dial(ctx context.Context, dataDir string) (net.Conn, error) {
	at, err := openPlace(dataDir)
	if err != nil {
		return nil, unreachable(dataDir, err)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", at.socket())
	if err := errors.Join(unreachable(dataDir, err), at.close()); err != nil {
		return nil, err
	}
	return c, nil
}

func unreachable(dataDir string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		return ErrNoService
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("no access to the control socket in %s: run this command as root, or as the user of the service", dataDir)
	}
	return err
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Listen makes the socket, which everybody may connect to. One that a crash left is
// replaced; one that a process serves is not. The folder is the service's alone.
func Listen(path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is there and is no socket: remove it, or choose another path", path)
	default:
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	own, is := l.(*net.UnixListener)
	if !is {
		return nil, errors.Join(fmt.Errorf("%s: no UNIX socket", path), l.Close())
	}
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // the kernel says who connects
		return nil, errors.Join(err, own.Close())
	}
	return own, nil
}

func removeStale(path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		return errors.Join(fmt.Errorf("another process serves %s: stop it, or choose another path", path), c.Close())
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}

// Passed returns the socket that systemd listens on for the service (sd_listen_fds(3)):
// the one with the name, or the only one; nil: there is none.
func Passed(name string) (*net.UnixListener, error) {
	passed, err := activation.ListenersWithNames()
	if err != nil {
		return nil, err
	}
	var all []net.Listener
	for _, some := range passed {
		all = append(all, some...)
	}
	chosen := passed[name]
	if len(chosen) == 0 {
		chosen = all
	}
	switch {
	case len(all) == 0:
		return nil, nil //nolint:nilnil // there is none
	case len(chosen) != 1:
		return nil, fmt.Errorf("systemd passes %d sockets, and not one alone with the name %s: set FileDescriptorName=%s for it", len(all), name, name)
	}
	l, is := chosen[0].(*net.UnixListener)
	if !is {
		return nil, fmt.Errorf("systemd passes a socket for %s, and none with ListenStream= and a path", chosen[0].Addr().Network())
	}
	return l, nil
}

package control

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"attestcsr/csr/audit"
)

// The methods of authentication that lines of the trail have for commands.
const (
	methodControl = "control" // by the kernel, on the socket
	methodCommand = "command" // none: whoever holds the store's lock
)

// Self is the caller of an operation that runs in the command.
func Self() audit.Request { return requestOf(os.Geteuid(), methodCommand) }

func requestOf(uid int, method string) audit.Request {
	name := "uid:" + strconv.Itoa(uid)
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		name += " (" + u.Username + ")"
	}
	return audit.Request{User: name, Method: method}
}

var errNoPeer = errors.New("the kernel does not say who asks")

// ErrHidden: the process at the other end has a user of another user namespace.
var ErrHidden = errors.New("the user is not known in the container of the service")

// Peer says which process has made a connection to a UNIX socket. With ErrHidden its
// numbers stand for users of other namespaces, and may be those of a user here.
func Peer(c syscall.Conn) (peer *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	control := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(control, err); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPeer, err)
	}
	hiddenUser, err := unmapped("uid", peer.Uid)
	hiddenGroup, err2 := unmapped("gid", peer.Gid)
	if err = errors.Join(err, err2); err == nil && (hiddenUser || hiddenGroup) {
		err = ErrHidden
	}
	return peer, err
}

// caller returns who is at the other end of a connection, and refuses who may not ask.
func caller(connection any) (audit.Request, error) {
	c, is := connection.(*conn) // what our listener returns
	if !is {
		return audit.Request{}, errNoPeer
	}
	peer, err := Peer(c)
	if peer == nil {
		return audit.Request{}, err
	}
	who := requestOf(int(peer.Uid), methodControl)
	switch {
	case errors.Is(err, ErrHidden):
		return who, fmt.Errorf("your user is not known in the container of the service (it sees %s): run this command inside, as root or as the user of the service", who.User)
	case err != nil:
		return who, err
	case peer.Uid != 0 && int(peer.Uid) != os.Geteuid():
		return who, fmt.Errorf("%s may not use the control socket: run this command as root, or as the user of the service, uid %d", who.User, os.Geteuid())
	}
	return who, nil
}

// all is the number of uids that there are, and of gids.
const all = 1<<32 - 1

// unmapped reports whether a uid or gid stands for those of other user namespaces. The
// kernel shows all of them as one number, which can be that of the service.
func unmapped(kind string, id uint32) (bool, error) {
	text, err := os.ReadFile("/proc/sys/kernel/overflow" + kind)
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(text)) != strconv.FormatUint(uint64(id), 10) {
		return false, nil
	}
	table := "/proc/self/" + kind + "_map"
	if text, err = os.ReadFile(table); err != nil {
		return false, err
	}
	mapped := uint64(0)
	for line := range strings.Lines(string(text)) {
		var inside, outside, length uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &length); err != nil {
			return false, fmt.Errorf("%s: %w", table, err)
		}
		mapped += length
	}
	return mapped < all, nil
}

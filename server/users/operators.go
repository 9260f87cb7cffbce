package users

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// operators is the operator's users file while it is changed. Several services may have
// the same one, so the lock on the store is not enough.
type operators struct {
	path string // as the operator wrote it
	real string // without symbolic links: what is replaced
	file *os.File
	info fs.FileInfo // when it was locked
}

// lockTimeout is how long a change waits for others.
const lockTimeout = 10 * time.Second

// lockOperators takes the lock of a users file that can be replaced. Whoever changes the
// file in an editor does not look at the lock: see changed.
func lockOperators(ctx context.Context, path string) (*operators, error) {
	o := &operators{path: path}
	var err error
	if o.real, err = filepath.EvalSymlinks(path); err != nil {
		return nil, err
	}
	if o.ofKubernetes() { // also where it could be written: it would be put back
		return nil, o.explain(unix.EROFS)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		if o.file, err = os.OpenFile(o.real, os.O_RDWR, 0); err != nil {
			return nil, o.explain(err)
		}
		o.info, err = o.file.Stat()
		if err == nil {
			err = flock(ctx, o.file)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, errors.Join(fmt.Errorf("another command is changing %s: run this one again", path), o.unlock())
		case err != nil:
			return nil, errors.Join(err, o.unlock())
		case o.changed():
		case mountedAlone(o.real):
			return nil, errors.Join(o.explain(unix.EBUSY), o.unlock())
		default:
			if err := o.sweep(); err != nil {
				return nil, errors.Join(err, o.unlock())
			}
			return o, nil
		}
		// Whoever had the lock has put another file in its place.
		if err := o.unlock(); err != nil {
			return nil, err
		}
	}
}

func flock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (o *operators) unlock() error { return o.file.Close() }

// changed reports whether the file is not the one any more that was locked.
func (o *operators) changed() bool {
	now, err := os.Stat(o.real)
	return err != nil || !os.SameFile(now, o.info) || !now.ModTime().Equal(o.info.ModTime()) || now.Size() != o.info.Size()
}

// sweep removes what a crash has left beside the file. Under the lock nobody else
// writes there.
func (o *operators) sweep() error {
	dir, base := filepath.Split(o.real)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return o.explain(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+base+"-") && strings.HasSuffix(e.Name(), ".tmp") && e.Type().IsRegular() {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return o.explain(err)
			}
		}
	}
	return nil
}

// ofKubernetes reports whether the file is in a volume of a Secret or ConfigMap. Only its
// folders have names with two dots at the beginning.
func (o *operators) ofKubernetes() bool { return strings.Contains(o.real, "/..") }

// explain says in one sentence what to do about a file that cannot be replaced.
func (o *operators) explain(err error) error {
	const advice = "with a line that has a hash of attestcsr hash-password"
	switch {
	case err == nil:
		return nil
	case o.ofKubernetes():
		return fmt.Errorf("%s comes from a Secret or ConfigMap of Kubernetes: change that, %s, or remove auth.users_file, and the service keeps users in data_dir", o.path, advice)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s is on a file system that is read-only here: change the file where it comes from, %s", o.path, advice)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s is mounted by itself, so that no new file can take its place: mount its folder, or change it where it comes from, %s", o.path, advice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("user %d may not replace %s (%w): let that user write the file and its folder, or change the file as its owner, %s", os.Geteuid(), o.path, err, advice)
	}
	return fmt.Errorf("%s stays as it was: %w", o.path, err)
}

// mountedAlone reports whether something is mounted over the file itself, as containers
// do with single files.
func mountedAlone(path string) bool {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, 0, &stat)
	return err == nil && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// edit returns the text of a users file with this line for a user, or without one where
// line is empty. All other bytes stay. The line of a new user is the last.
func edit(text []byte, name, line string) []byte {
	var edited []byte
	found := false
	for each := range bytes.Lines(text) {
		user, _, _ := bytes.Cut(each, []byte(":"))
		switch {
		case string(user) != name:
			edited = append(edited, each...)
		case line != "":
			edited = append(edited, line...)
			edited = append(edited, '\n')
			found = true
		default:
			found = true
		}
	}
	if found || line == "" {
		return edited
	}
	if len(edited) > 0 && edited[len(edited)-1] != '\n' {
		edited = append(edited, '\n')
	}
	return append(append(edited, line...), '\n')
}

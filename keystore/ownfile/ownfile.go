// Package ownfile has the rules for the files that the service makes for itself:
// who may reach them, and when they are durable.
package ownfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Read returns the content of a file that passes Check and is at most limit
// bytes long.
func Read(path string, limit int, log *slog.Logger) (content []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := Check(path, info, log); err != nil {
		return nil, err
	}
	content, err = io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(content) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes: it is not what it should be", path, limit)
	}
	return content, nil
}

// Replace writes a file over the one before, 0600 or as Adopt has it. A crash leaves
// the old content or the new one, and at most a temporary file that nobody reads (see
// Sweep).
func Replace(path string, content []byte) error {
	next, err := Prepare(path, content)
	if err != nil {
		return err
	}
	return next.Place()
}

// Prepared is a file that is complete and durable, and not yet in its place. Place or
// Discard ends it.
type Prepared struct{ temp, path string }

// Prepare is the first half of Replace.
func Prepare(path string, content []byte) (*Prepared, error) {
	temp, err := writeTemp(path, content, adoptBeside(path))
	return &Prepared{temp, path}, err
}

// PrepareLike is Prepare with the owner, group, mode and access list of the file that is
// there, which somebody else made.
func PrepareLike(path string, content []byte) (*Prepared, error) {
	temp, err := writeTemp(path, content, func(f *os.File) error { return dressLike(f, path) })
	return &Prepared{temp, path}, err
}

// Place puts the file over the one before. A crash leaves one of the two.
func (p *Prepared) Place() error {
	if err := os.Rename(p.temp, p.path); err != nil {
		return errors.Join(err, os.Remove(p.temp))
	}
	p.temp = ""
	return SyncDir(filepath.Dir(p.path))
}

// Discard removes the file, unless it is in its place.
func (p *Prepared) Discard() error {
	if err := os.Remove(p.temp); p.temp != "" && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Create writes a file, 0600 or as Adopt has it, unless there is one: when another
// process was faster, its file stays. The content is flushed before the file appears. A
// crash before that leaves a temporary file that nobody reads (see Sweep).
func Create(path string, content []byte) (err error) {
	temp, err := writeTemp(path, content, adoptBeside(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp)) }()
	return Link(temp, path)
}

// Link gives a complete file its name, unless another has it, and makes that
// durable.
func Link(temp, path string) error {
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// writeTemp makes a complete file. dress gives it its owner, group and mode.
func writeTemp(path string, content []byte, dress func(*os.File) error) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err == nil {
		err = errors.Join(dress(f), f.Sync())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// store is the file whose owner, group and mode the others in a data folder have.
const store = "attestcsr.db"

// adoptBeside is Adopt for a file that will be at path.
func adoptBeside(path string) func(*os.File) error {
	return func(f *os.File) error { return Adopt(f, filepath.Join(filepath.Dir(path), store), path) }
}

// Adopt gives a file that root makes for a service the owner, group and mode of the
// first of like that exists. Without it the service could not read what root's
// commands write.
func Adopt(f *os.File, like ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, path := range like {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		owner, is := OwnerOf(info, err)
		if !is {
			return err
		}
		return errors.Join(f.Chown(owner.UID, owner.GIDs[0]), f.Chmod(info.Mode()&0o660))
	}
	return nil
}

// accessList is the attribute that holds what acl(5) calls an access ACL.
const accessList = "system.posix_acl_access"

// dressLike gives a file the owner, group, mode and access list of the one at path.
func dressLike(f *os.File, path string) error {
	info, err := os.Stat(path)
	owner, is := OwnerOf(info, err)
	if !is {
		return err
	}
	if err := errors.Join(f.Chown(owner.UID, owner.GIDs[0]), f.Chmod(info.Mode().Perm())); err != nil {
		return err
	}
	list := make([]byte, 64<<10) // the most that an attribute has
	n, err := unix.Getxattr(path, accessList, list)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil // the mode says all
	}
	if err == nil {
		err = unix.Fsetxattr(int(f.Fd()), accessList, list[:n], 0)
	}
	if err != nil {
		return &fs.PathError{Op: "copy the access list of", Path: path, Err: err}
	}
	return nil
}

// abandoned is the age at which Sweep removes a temporary file. A writer needs less than
// a second until it renames or removes its own.
const abandoned = time.Hour

// Sweep removes the temporary files that crashes have left in a directory. Without
// it a service that is ended over and over while it writes one fills its disk.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		ours, err := filepath.Match(".*-*.tmp", e.Name())
		if err != nil || !ours || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil && time.Since(info.ModTime()) > abandoned {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// SyncDir makes what was linked, renamed or removed in a directory durable.
func SyncDir(name string) (err error) {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}

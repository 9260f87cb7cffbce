package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Unpacked is a backup in files that have no name on a disk. The keyset is in memory.
type Unpacked struct {
	Manifest Manifest
	Store    *os.File
	Keyset   []byte // nil: it is not in the backup
	Trail    fs.FS
	trail    files
}

// Unpack opens a backup, and checks every digest.
func Unpack(file string, with Opener, l Layout) (u *Unpacked, err error) {
	u = &Unpacked{trail: files{}}
	u.Trail = u.trail
	u.Manifest, err = readFile(file, with, l, func(name string, content io.Reader) (err error) {
		switch dir, base := path.Split(name); {
		case name == l.Store:
			u.Store, err = unlinkedWith(content)
		case name == l.Keyset:
			u.Keyset, err = io.ReadAll(content)
		case dir != "":
			u.trail[base], err = unlinkedWith(content)
		default:
			_, err = io.Copy(io.Discard, content)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

func unlinkedWith(content io.Reader) (*os.File, error) {
	f, err := Unlinked(os.TempDir())
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close gives the files up.
func (u *Unpacked) Close() (err error) {
	clear(u.Keyset)
	for _, f := range u.trail {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if u.Store != nil {
		err = errors.Join(err, u.Store.Close())
	}
	return err
}

// Unlinked makes a file without a name in a folder: it ends with the process.
func Unlinked(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "unlinked")), nil
	}
	f, err := os.CreateTemp(dir, tempPattern) // not every file system can do that
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// files is a folder of files that have no names on a disk, for reading.
type files map[string]*os.File

var _ fs.ReadDirFS = files{}

// Open implements fs.FS.
func (f files) Open(name string) (fs.File, error) {
	file, is := f[name]
	if !is {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return &opened{io.NewSectionReader(file, 0, info.Size()), info}, nil
}

// ReadDir implements fs.ReadDirFS, for the folder itself.
func (f files) ReadDir(string) (all []fs.DirEntry, _ error) {
	for name, file := range f {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		all = append(all, fs.FileInfoToDirEntry(named{info, name}))
	}
	return all, nil
}

type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }

type opened struct {
	*io.SectionReader
	info fs.FileInfo
}

func (o *opened) Stat() (fs.FileInfo, error) { return o.info, nil }

// Close does nothing: others read the same file.
func (*opened) Close() error { return nil }

// Path is where a process opens its own file again, whether it has a name or not.
func Path(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

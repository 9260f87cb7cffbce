package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"attestcsr/keystore/ownfile"
)

// lostAndFound is in a file system that is new.
const lostAndFound = "lost+found"

// Folder is a data_dir that is being made from a backup. A file in it says so until
// Finish: whoever finds that file uses nothing of the rest.
type Folder struct {
	Owner  ownfile.Trust // of all that is in it
	path   string
	marker string
	made   bool // the folder was not there before
}

// NewFolder makes a folder, or takes one that is empty. owner is whom it is to belong to,
// as user or user:group; "" leaves it to whom it belongs to.
func NewFolder(dir, marker, owner string) (f *Folder, err error) {
	f = &Folder{path: dir, marker: marker}
	if owner != "" {
		if f.Owner, err = parseOwner(owner); err != nil {
			return nil, err
		}
		if self := os.Geteuid(); self != 0 && self != f.Owner.UID {
			return nil, errors.New("only root can give files to another user")
		}
	}
	if err := os.Mkdir(dir, 0o700); err == nil {
		f.made = true
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, marker)); err == nil {
		return nil, fmt.Errorf("a restore into %s has not ended: if it does not run any more, remove what is in the folder and restore again", dir)
	}
	for _, e := range entries {
		if e.Name() != lostAndFound {
			return nil, fmt.Errorf("%s is not empty: restore into a new folder, and give that to the service when all is well", dir)
		}
	}
	if owner == "" {
		var is bool
		if f.Owner, is = ownfile.OwnerOf(os.Stat(dir)); !is {
			return nil, fmt.Errorf("%s has no owner", dir)
		}
	}
	err = ownfile.Create(filepath.Join(dir, marker), []byte("a restore goes on, or was ended before it was complete\n"))
	if err == nil {
		err = ownfile.SyncDir(filepath.Dir(filepath.Clean(dir)))
	}
	return f, err
}

// Unpack writes the files of a backup, and checks every digest.
func (f *Folder) Unpack(file string, with Opener, l Layout) (Manifest, error) {
	return readFile(file, with, l, func(name string, content io.Reader) error {
		if dir := path.Dir(name); dir != "." {
			if err := os.Mkdir(filepath.Join(f.path, dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		to, err := os.OpenFile(filepath.Join(f.path, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, content)
		return errors.Join(err, to.Close())
	})
}

// Finish gives the folder and all in it to its owner, makes it durable, and says that it
// is complete.
func (f *Folder) Finish() error {
	var folders []string
	err := f.each(func(name string, e fs.DirEntry) error {
		if e.IsDir() {
			folders = append(folders, name)
		}
		at, err := os.Open(name)
		if err != nil {
			return err
		}
		if os.Geteuid() == 0 {
			err = at.Chown(f.Owner.UID, f.Owner.GIDs[0])
		}
		if err == nil {
			err = at.Sync()
		}
		return errors.Join(err, at.Close())
	})
	for _, name := range slices.Backward(folders) {
		if err == nil {
			err = ownfile.SyncDir(name)
		}
	}
	if err == nil {
		err = os.Remove(filepath.Join(f.path, f.marker))
	}
	if err != nil {
		return err
	}
	return ownfile.SyncDir(f.path)
}

// each calls fn with the folder and all that is in it.
func (f *Folder) each(fn func(name string, e fs.DirEntry) error) error {
	return filepath.WalkDir(f.path, func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && e.Name() == lostAndFound:
			return fs.SkipDir
		}
		return fn(name, e)
	})
}

// Remove empties the folder again, the file that says that it is not complete last.
func (f *Folder) Remove() error {
	entries, err := os.ReadDir(f.path)
	for _, e := range entries {
		if e.Name() != f.marker && e.Name() != lostAndFound {
			err = errors.Join(err, os.RemoveAll(filepath.Join(f.path, e.Name())))
		}
	}
	if err == nil {
		err = os.Remove(filepath.Join(f.path, f.marker))
	}
	if err == nil && f.made {
		err = os.Remove(f.path)
	}
	return err
}

// parseOwner reads a user and a group, by names or numbers.
func parseOwner(text string) (owner ownfile.Trust, err error) {
	name, group, hasGroup := strings.Cut(text, ":")
	found := &user.User{Uid: name, Gid: group}
	if _, err := strconv.Atoi(name); err != nil {
		if found, err = user.Lookup(name); err != nil {
			return owner, err
		}
	} else if !hasGroup {
		found.Gid = name
	}
	if _, err := strconv.Atoi(group); hasGroup && err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return owner, err
		}
		group = g.Gid
	}
	if hasGroup {
		found.Gid = group
	}
	uid, uidErr := strconv.ParseUint(found.Uid, 10, 31)
	gid, gidErr := strconv.ParseUint(found.Gid, 10, 31)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return owner, fmt.Errorf("--owner %s: %w", text, err)
	}
	return ownfile.Trust{UID: int(uid), GIDs: []int{int(gid)}}, nil
}

package ownfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What others must not be able to do with a file or a folder.
const (
	Public        fs.FileMode = 0o002              // a file that they may read
	Secret        fs.FileMode = 0o007              // a file
	Folder        fs.FileMode = fs.ModeDir | 0o002 // a folder that they may look into
	PrivateFolder fs.FileMode = fs.ModeDir | 0o007
)

// Trust says whom a service trusts with its files: root and root's group, its own
// user, and the groups that its process is in. All others are others.
type Trust struct {
	UID  int
	GIDs []int
	// Shared trusts folders whoever can write to them, at the operator's word.
	// Files in them must still belong to root or to the service.
	Shared bool
}

// Self is for the service that this process is.
func Self() Trust {
	gids, err := os.Getgroups()
	if err != nil {
		gids = nil // without them less is trusted
	}
	return Trust{UID: os.Geteuid(), GIDs: append(gids, os.Getegid())}
}

// Of is for a command that works on the files of a service. Root is the service that
// the first of paths that exists belongs to.
func Of(paths ...string) Trust {
	t := Self()
	for _, path := range paths {
		info, err := os.Stat(path)
		if owner, is := OwnerOf(info, err); is && t.UID == 0 {
			return owner
		}
	}
	return t
}

// OwnerOf takes what Stat returns.
func OwnerOf(info fs.FileInfo, err error) (owner Trust, is bool) {
	if err != nil {
		return Trust{}, false
	}
	stat, is := info.Sys().(*syscall.Stat_t)
	if !is {
		return Trust{}, false
	}
	return Trust{UID: int(stat.Uid), GIDs: []int{int(stat.Gid)}}, true
}

// SharedError says that others can write to a folder.
type SharedError struct {
	error
	Owner int // of the folder
}

// Check refuses a file or folder at path that others could change or, as denied has
// it, read: by its own owner and mode, or through a folder or a symbolic link that
// leads to it. It goes from the root down, as the kernel does: what it has passed,
// others cannot change any more.
func (t Trust) Check(path string, denied fs.FileMode) error {
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		path = dir + "/" + path // not cleaned: "link/.." is not "."
	}
	mend := "" // how a volume of an orchestrator is mended
	at, rest, links := "/", elements(path), 0
	link, beyond := "", -1 // the last symbolic link, and how many elements of rest come after its target
	for {
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && links > 0 && len(rest) >= beyond:
			gone := filepath.Join(append([]string{at}, rest[:len(rest)-beyond]...)...)
			return fmt.Errorf("%s is a symbolic link to %s, which does not exist: mend or remove the link", link, gone)
		case err != nil:
			return err
		case info.Mode().Type() == fs.ModeSymlink:
			if links++; links > 40 { // as Linux has it
				return &fs.PathError{Op: "stat", Path: path, Err: unix.ELOOP}
			}
			if err := t.checkOwner(at, info); err != nil {
				return err
			}
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			if filepath.Base(at) == "..data" {
				mend = "in Kubernetes, set defaultMode: 0440 for the volume and fsGroup for the pod"
			}
			link, beyond = at, len(rest)
			at, rest = filepath.Dir(at), append(elements(target), rest...)
			if filepath.IsAbs(target) {
				at = "/"
			}
		case len(rest) == 0:
			return t.check(at, info, denied, mend)
		default:
			if err := t.check(at, info, Folder, ""); err != nil {
				return err
			}
		}
		if len(rest) > 0 {
			at, rest = filepath.Join(at, rest[0]), rest[1:] // at has no links: ".." is its parent
		}
	}
}

func elements(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(e string) bool { return e == "" || e == "." })
}

// check is for a file or folder alone. mend is the advice in place of a chmod.
func (t Trust) check(path string, info fs.FileInfo, denied fs.FileMode, mend string) error {
	err := t.problem(path, info, denied, mend)
	if err == nil || denied != Folder || !info.IsDir() {
		return err
	}
	if t.Shared {
		return nil
	}
	owner, _ := OwnerOf(info, nil)
	return &SharedError{err, owner.UID}
}

func (t Trust) problem(path string, info fs.FileInfo, denied fs.FileMode, mend string) error {
	switch {
	case denied.IsDir() && !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case !denied.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	}
	if err := t.checkOwner(path, info); err != nil {
		return err
	}
	who, class, open := "every user", "o", info.Mode()&denied.Perm()
	owner, _ := OwnerOf(info, nil)
	if gid := owner.GIDs[0]; gid != 0 && !slices.Contains(t.GIDs, gid) {
		if open == 0 {
			who = fmt.Sprintf("every member of group %d", gid)
		}
		class, open = "go", open|info.Mode()>>3&denied.Perm()
	}
	if sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0; sticky || open&0o002 != 0 && readOnly(path) {
		open &^= 0o002 // what is in it belongs to root or to the service: nobody else can take it away
	}
	if open == 0 {
		return nil
	}
	deed, bits := "read", "rwx"
	if open&0o002 != 0 {
		deed = "change"
	}
	if denied.Perm() == 0o002 {
		bits = "w"
	}
	if mend == "" {
		mend = fmt.Sprintf("run chmod %s-%s %s", class, bits, path)
	}
	return fmt.Errorf("%s is accessible to others (mode %04o): %s could %s what is in it; %s", path, info.Mode().Perm(), who, deed, mend)
}

func (t Trust) checkOwner(path string, info fs.FileInfo) error {
	owner, is := OwnerOf(info, nil)
	switch {
	case !is:
		return fmt.Errorf("%s has no owner", path)
	case owner.UID == 0 || owner.UID == t.UID:
		return nil
	case info.IsDir():
		return fmt.Errorf("%s belongs to user %d, who could change what is in it; run chown %d %s, or use another folder", path, owner.UID, t.UID, path)
	}
	return fmt.Errorf("%s belongs to user %d, who could change it; run chown -h %d %s", path, owner.UID, t.UID, path)
}

// readOnly reports whether nobody can write at path: configuration of Kubernetes is
// in folders of mode 0777, mounted so.
func readOnly(path string) bool {
	var mount unix.Statfs_t
	return unix.Statfs(path, &mount) == nil && mount.Flags&unix.ST_RDONLY != 0
}

// Check refuses what is not a regular file, and one that others could have read or
// changed. That its group could is a warning: volumes of orchestrators are made so.
// info is of the file itself, links followed; Trust.Check is for what leads to it.
// Root's commands read the files of any user.
func Check(path string, info fs.FileInfo, log *slog.Logger) error {
	return check(path, info, Secret, log)
}

// CheckFolder is Check for a folder.
func CheckFolder(path string, info fs.FileInfo, log *slog.Logger) error {
	return check(path, info, PrivateFolder, log)
}

func check(path string, info fs.FileInfo, denied fs.FileMode, log *slog.Logger) error {
	t := Self()
	if owner, is := OwnerOf(info, nil); is && t.UID == 0 {
		t = owner
	}
	err := t.check(path, info, denied, "")
	if err == nil && info.Mode()&0o070 != 0 {
		log.Warn("what the service keeps is accessible to its group", "path", path, "mode", fmt.Sprintf("%#o", info.Mode().Perm()))
	}
	return err
}

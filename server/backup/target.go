package backup

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"attestcsr/keystore/ownfile"
)

const (
	tempPattern = ".attestcsr-backup-*.tmp"
	abandoned   = time.Hour // longer than a backup may take
	stamp       = "20060102T150405Z"
	magic       = "age-encryption.org/v1\n"
)

// Destination says where a backup goes, and who can open it.
type Destination struct {
	File           string
	Dir            string // in place of File: a new file there
	Hostname       string // of whom the files in Dir are
	Keep           int    // how many of them stay
	Recipients     []string
	PassphraseFile string // in place of Recipients
}

// Saved is what Save has done.
type Saved struct {
	File    string
	Removed []string // older files
}

// Save has a backup written for recipients. The file has its name once it is whole.
// Older ones are removed after that.
func (d Destination) Save(now time.Time, write func(recipients []string, to io.Writer) error) (saved Saved, err error) {
	at := series{d.Dir, d.Hostname}
	if saved.File = d.File; d.Dir != "" {
		saved.File = at.next(now)
	}
	if d.PassphraseFile == "" {
		if _, err := Recipients(d.Recipients); err != nil {
			return Saved{}, err
		}
	}
	t, err := newTarget(saved.File)
	if err != nil {
		return Saved{}, err
	}
	if err := d.writeTo(t, write); err != nil {
		return Saved{}, errors.Join(err, t.discard())
	}
	if err := t.keep(); err != nil || d.Dir == "" {
		return saved, err
	}
	saved.Removed, err = at.prune(d.Keep)
	return saved, err
}

func (d Destination) writeTo(t *target, write func(recipients []string, to io.Writer) error) error {
	if d.PassphraseFile == "" {
		return write(d.Recipients, t)
	}
	recipient, sealed, err := withPassphrase(d.PassphraseFile, t)
	if err != nil {
		return err
	}
	if err := write([]string{recipient}, sealed); err != nil {
		return errors.Join(err, sealed.giveUp())
	}
	return sealed.Close()
}

// target is the file that a backup is written to. It has its name when it is whole. A
// crash before that leaves a temporary file, which a later backup into the same folder
// removes.
type target struct {
	*os.File
	path string
}

// newTarget makes the temporary file beside path. It refuses to replace what is no age
// file.
func newTarget(path string) (*target, error) {
	switch is, err := isAge(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case !is:
		return nil, fmt.Errorf("%s is there and is no backup: it stays as it is; give another name", path)
	}
	dir := filepath.Dir(path)
	left, err := filepath.Glob(filepath.Join(escaped(dir), tempPattern))
	if err != nil {
		return nil, err
	}
	for _, temp := range left {
		if info, err := os.Lstat(temp); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(temp) // it is in nobody's way
		}
	}
	f, err := os.CreateTemp(dir, tempPattern) // mode 0600
	if err != nil {
		return nil, err
	}
	return &target{f, path}, nil
}

// escaped is a folder in a pattern.
func escaped(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// isAge reports whether a file is a regular one that begins as those of age do.
func isAge(path string) (is bool, err error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	begin := make([]byte, len(magic))
	_, err = io.ReadFull(f, begin)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return bytes.Equal(begin, []byte(magic)), errors.Join(err, f.Close())
}

// keep makes the file durable and gives it its name.
func (t *target) keep() error {
	err := t.Sync()
	if err == nil {
		err = t.Close()
	}
	if err == nil {
		err = os.Rename(t.Name(), t.path)
	}
	if err != nil {
		return errors.Join(err, t.discard())
	}
	return ownfile.SyncDir(filepath.Dir(t.path))
}

// discard removes the temporary file.
func (t *target) discard() error {
	_ = t.Close() // what is in it does not count
	return os.Remove(t.Name())
}

// series are the backups of one service in a folder, named by time.
type series struct{ dir, hostname string }

func (s series) prefix() string { return "attestcsr-" + s.hostname + "-" }

// next is the path of the backup of a time.
func (s series) next(now time.Time) string {
	return filepath.Join(s.dir, s.prefix()+now.UTC().Format(stamp)+".age")
}

// prune removes all but the newest backups of the series, and no other file.
func (s series) prune(keep int) (removed []string, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		at, ours := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".age"), s.prefix())
		made, err := time.Parse(stamp, at)
		return !ours || err != nil || !e.Type().IsRegular() || filepath.Base(s.next(made)) != e.Name()
	})
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return -cmp.Compare(a.Name(), b.Name()) })
	for _, e := range entries[min(keep, len(entries)):] {
		path := filepath.Join(s.dir, e.Name())
		if err := os.Remove(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	return removed, ownfile.SyncDir(s.dir)
}

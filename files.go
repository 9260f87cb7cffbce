package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// writeOwn replaces a file of ours, 0600. A crash leaves the old content or the
// new one, and at most a temporary file beside it that the next write of the
// same name replaces.
func writeOwn(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o600) // the temporary file may be a leftover
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename or removal in the directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only read
	return d.Sync()
}

// readOwn reads a file of ours and refuses it when others could have read or
// changed it.
func readOwn(path string) ([]byte, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if stat.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s is accessible to every user (mode %#o): find out who could have read it, then chmod 600 it", path, stat.Mode().Perm())
	}
	return os.ReadFile(path)
}

// pollInterval is how often watched files are looked at.
const pollInterval = 250 * time.Millisecond

// watch calls changed whenever one of the files is another than before and has
// been left alone for an interval, and once at the beginning, until ctx ends. It
// polls: that also notices what inotify misses or needs care for, such as a swap
// of the directory that a Kubernetes volume's symlinks lead through, network file
// systems, and files that are removed and made again.
func watch(ctx context.Context, changed func(), files ...string) {
	look := func() []fs.FileInfo {
		stats := make([]fs.FileInfo, len(files))
		for i, file := range files {
			if stat, err := os.Stat(file); err == nil {
				stats[i] = stat
			}
		}
		return stats
	}
	var known, before []fs.FileInfo
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := look()
		if !slices.EqualFunc(now, known, sameFile) && slices.EqualFunc(now, before, sameFile) {
			known = now
			changed()
		}
		before = now
	}
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

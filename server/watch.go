package server

import (
	"context"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// pollInterval is how often watched files are looked at.
const pollInterval = 250 * time.Millisecond

// watch calls changed once at the beginning, and when one of the files has changed and
// then stayed the same for an interval, until ctx ends. It polls, since inotify misses
// changes on network file systems, files that are made again, and the swap of the
// directory that a Kubernetes volume's symlinks lead through.
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

// keepCertificate follows changes of the certificate's files, and looks once an
// hour whether our own is due for renewal.
func (s *Server) keepCertificate(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { watch(ctx, s.cert.Refresh, s.cert.CertFile, s.cert.KeyFile) })
	defer tasks.Wait()
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hourly.C:
			s.cert.Refresh()
		}
	}
}

package server

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"attestcsr/config"
)

// Loader reads and checks all settings. The warnings are for the log.
type Loader func() (cfg *config.Config, warnings []string, err error)

// isLive reports whether a reload takes a setting. Others wait for a restart.
func isLive(setting string) bool { return setting == "auth.privileges" || setting == "log.level" }

// Reload reads again what may change while the service runs: settings, users, certificate
// and trust anchors. An error in the settings changes nothing. An error in another file
// keeps what that file said before, and is logged. The caller is Run.
func (s *Server) Reload(ctx context.Context) {
	s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	defer s.notify(daemon.SdNotifyReady)
	cfg, err := s.loadAgain()
	if err != nil {
		s.log.Error("not reloaded: everything stays as it was", "err", err)
		return
	}
	taken, waiting := []string{}, []string{} // the log shows them, also where they are empty
	next := maps.Clone(s.settings)
	texts := cfg.Texts()
	for _, name := range differing(s.settings, texts) {
		if !isLive(name) {
			waiting = append(waiting, name)
			continue
		}
		taken, next[name] = append(taken, name), texts[name]
	}
	s.noteSettings(ctx, next)
	s.settings = next
	s.takeSettings(cfg)
	s.reloadUsers()
	s.refreshCertificate()
	s.reloadAnchors()
	s.log.Info("reloaded: settings, users, server certificate, trust anchors", "settings_taken", taken, "settings_waiting_for_a_restart", waiting)
}

// loadAgain reads the settings. Those that came through a pipe are gone, and another
// read of it might never end.
func (s *Server) loadAgain() (*config.Config, error) {
	if file := s.cfg.File(); file != "" {
		info, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("settings file: %w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("settings file: %s is no file that can be read twice: restart the service instead", file)
		}
	}
	cfg, warnings, err := s.load()
	for _, text := range warnings {
		s.log.Warn("settings", "warning", text)
	}
	return cfg, err
}

func (s *Server) takeSettings(cfg *config.Config) {
	s.setPrivileges(cfg.Auth.Privileges) // auth.users_file stays, and with it who is the built-in admin
	if err := s.output.SetLevel(cfg.Log.Level); err != nil {
		s.log.Error("the level of the log stays", "err", err) // package config lets only levels through
	}
}

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
	every(ctx, pollInterval, func() {
		now := look()
		if !slices.EqualFunc(now, known, sameFile) && slices.EqualFunc(now, before, sameFile) {
			known = now
			changed()
		}
		before = now
	})
}

// every calls do each interval until ctx ends, the first time after one interval.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

func sameFile(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

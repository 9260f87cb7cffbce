//go:build tools

package crash_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"attestcsr/server"
	"attestcsr/server/backup"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// backups is what runs of backup commands share.
type backups struct {
	*faultSetup
	recipient string
	opener    backup.Opener
	data      string // the folder of a service that is stopped
	file      string // a backup of it, from before its last change
}

func newBackups(t *testing.T) *backups {
	t.Helper()
	b := &backups{faultSetup: &faultSetup{ca: newCertifier(t), runs: t.TempDir(), disk: faultfs.NewDisk()}}
	b.options = start.Options{Binary: start.Binary(t), Config: start.Config(t, "")}
	b.file = filepath.Join(t.TempDir(), "backup.age")
	b.recipient, b.opener.IdentityFile = newHolder(t)
	s := start.Serve(t, b.options)
	b.data = s.DataDir
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	must(t, "backup", "create", "--data-dir", b.data, "--to", b.file, "--recipient", b.recipient)
	s.Must(201, "POST", start.NSXCSRs+"/later?action=create", start.ECSpec("later"))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	found, err := inspectCopy(t, b.data)
	if err != nil {
		t.Fatal(err)
	}
	b.stored = found.stored
	return b
}

// backup runs a command about backups, as run does.
func (r *faultRun) backup(args ...string) (out string, killed bool) {
	r.t.Helper()
	return r.run(append([]string{"backup"}, args...)...)
}

// eachKill runs a command on disks, ends it at each operation on its disk, and has what is
// left checked: as it is, and after power cuts.
func (b *backups) eachKill(t *testing.T, stride int, args func(r *faultRun) []string, check func(what, dir string)) (kills int) {
	t.Helper()
	r := b.newRun(t, "without a fault")
	r.backup(args(r)...)
	last := len(r.disk.Operations(faultfs.Kill.Meets()...))
	left := func(what string, d *faultfs.Disk) {
		t.Helper()
		dir := b.folder(t)
		if err := d.Save(dir); err != nil {
			t.Error(err)
			return
		}
		check(what, dir)
	}
	left("without a fault", r.disk)
	var fired atomic.Int64
	walk(1, last, stride, func(n int) {
		r := b.newRun(t, fmt.Sprintf("killed at operation %d of %d", n, last))
		with := args(r)
		r.disk.Arm(faultfs.Kill, n, faultfs.Nothing(), r.kill)
		out, killed := r.backup(with...)
		o, met := r.disk.Fired()
		switch {
		case !met && n > last-10:
			return // the trail takes more operations in one run than in another
		case !met || !killed:
			t.Errorf("%s: not killed: %s", r.what, out)
		}
		fired.Add(1)
		what := r.what + " (" + o.String() + ")"
		left(what+", after SIGKILL", r.disk)
		left(what+", after a power cut that left only what was flushed", r.disk.Cut(faultfs.Nothing()))
		left(fmt.Sprint(what, ", after a power cut, seed ", n), r.disk.Cut(faultfs.Some(uint64(n))))
	})
	return int(fired.Load())
}

// TestBackupKilledWhileWritten ends backup create at each operation on the disk that it
// writes to. The file is the one before, or the new one, and whole.
func TestBackupKilledWhileWritten(t *testing.T) {
	t.Parallel()
	b := newBackups(t)
	old, err := os.ReadFile(b.file)
	if err != nil {
		t.Fatal(err)
	}
	before := t.TempDir()
	kit.Overwrite(t, before, "backup.age", string(old))
	if b.disk, err = faultfs.Load(before); err != nil {
		t.Fatal(err)
	}
	var olds, news atomic.Int64
	kills := b.eachKill(t, 1, func(r *faultRun) []string {
		data := filepath.Join(b.folder(t), "data")
		start.CopyData(t, b.data, data) // as many commands run at once
		return []string{"create", "--data-dir", data, "--to", filepath.Join(r.dir, "backup.age"), "--recipient", b.recipient}
	}, func(what, dir string) {
		left, err := filepath.Glob(filepath.Join(dir, "[^.]*")) // what a person sees
		if err != nil || len(left) != 1 {
			t.Errorf("%s: left: %q, %v", what, left, err)
		}
		file := filepath.Join(dir, "backup.age")
		text, err := os.ReadFile(file)
		if err == nil && bytes.Equal(text, old) {
			olds.Add(1)
			return
		}
		news.Add(1)
		if found, err := server.VerifyBackup(t.Context(), slog.New(slog.DiscardHandler), file, b.opener, ""); err != nil || !found.OK {
			t.Errorf("%s: half a backup: %+v, %v", what, found, err)
		}
	})
	if olds.Load() == 0 || news.Load() == 0 {
		t.Errorf("the old file %d times, the new one %d times", olds.Load(), news.Load())
	}
	kit.Count(t, "kills of backups", kills)
}

// TestBackupKilledInDataDir ends backup create at operations on data_dir. What is there is
// as it was, and the next backup is whole.
func TestBackupKilledInDataDir(t *testing.T) {
	t.Parallel()
	b := newBackups(t)
	var err error
	if b.disk, err = faultfs.Load(b.data); err != nil {
		t.Fatal(err)
	}
	kills := b.eachKill(t, kit.Effort(9, 1), func(r *faultRun) []string {
		return []string{"create", "--data-dir", r.dir, "--to", filepath.Join(b.folder(t), "backup.age"), "--recipient", b.recipient}
	}, func(what, dir string) {
		file := filepath.Join(b.folder(t), "backup.age")
		must(t, "backup", "create", "--data-dir", dir, "--to", file, "--recipient", b.recipient)
		if found, err := inspect(t.Context(), dir); err != nil || !found.stored.is(b.stored) {
			t.Errorf("%s: stored is %s, and was %s: %v", what, found.stored, b.stored, err)
		}
	})
	kit.Count(t, "kills of backups", kills)
}

// TestRestoreKilled ends backup restore at operations on the new folder: it is whole, or
// every command and every start refuses it.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	b := newBackups(t)
	var whole, refused, empty atomic.Int64
	kills := b.eachKill(t, kit.Effort(7, 1), func(r *faultRun) []string {
		return []string{"restore", b.file, "--data-dir", r.dir, "--identity", b.opener.IdentityFile}
	}, func(what, dir string) {
		names, err := os.ReadDir(dir)
		if err != nil || len(names) == 0 {
			empty.Add(1)
			return
		}
		if _, err := os.Stat(filepath.Join(dir, server.UnfinishedFile)); err == nil {
			refused.Add(1)
			for _, command := range [][]string{
				{"serve", "--listen", "127.0.0.1:0"}, {"store", "check"}, {"backup", "restore", b.file, "--identity", b.opener.IdentityFile},
			}[:1+refused.Load()%3] {
				out, err := exec.Command(b.options.Binary, append(command, "--data-dir", dir)...).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "has not ended") && !strings.Contains(string(out), "there is no") {
					t.Errorf("%s: %v takes it: %v %s", what, command, err, out)
				}
			}
			return
		}
		whole.Add(1)
		found, err := inspect(t.Context(), dir)
		if want := b.stored.without(requestName + "later"); err != nil || !found.stored.is(want) {
			t.Errorf("%s: restored is %s, want %s: %v", what, found.stored, want, err)
		}
		must(t, "audit", "verify", "--data-dir", dir)
	})
	if whole.Load() == 0 || refused.Load() == 0 {
		t.Errorf("whole %d times, refused %d times, empty %d times", whole.Load(), refused.Load(), empty.Load())
	}
	kit.Count(t, "kills of restores", kills)
}

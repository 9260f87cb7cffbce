package crash_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// newHolder makes who can open backups: a recipient, and the file of the identity.
func newHolder(t *testing.T) (recipient, identity string) {
	t.Helper()
	one, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return one.Recipient().String(), kit.Overwrite(t, t.TempDir(), "identity", one.String()+"\n")
}

// must runs a command of the real binary that has to succeed.
func must(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(start.Binary(t), args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v %s", args, err, out)
	}
}

// rounds is a writer who makes requests, one a round, and keeps the newest few.
type rounds struct {
	prefix string
	done   atomic.Int64 // rounds that were acknowledged whole
}

// keptRequests is more than a writer makes while a backup is made.
const keptRequests = 100

// pace leaves the processors to the backups.
const pace = 60 * time.Millisecond

func (r *rounds) name(round int64) string { return fmt.Sprint(r.prefix, round) }

func (r *rounds) work(t *testing.T, s *start.Instance, ended <-chan struct{}) {
	for n := int64(0); ; n++ {
		select {
		case <-ended:
			return
		case <-time.After(pace):
		}
		calls := [][3]string{{"POST", start.NSXCSRs + "/" + r.name(n) + "?action=create", start.ECSpec(r.name(n))}}
		if n >= keptRequests {
			calls = append(calls, [3]string{"DELETE", start.NSXCSRs + "/" + r.name(n-keptRequests), ""})
		}
		for _, c := range calls {
			if a, err := s.Do(c[0], c[1], c[2]); err != nil || a.Status/100 != 2 {
				t.Errorf("%s %s: %d %s %v", c[0], c[1], a.Status, a.Body, err)
				return
			}
		}
		r.done.Store(n + 1)
	}
}

// check: what was acknowledged before a backup is in it, and what was deleted before is
// not. Rounds up to after had ended when the backup was made. It returns how many
// requests had to be there.
func (r *rounds) check(t *testing.T, what string, before, after int64, found stored) (kept int) {
	t.Helper()
	for n := max(0, before-2*keptRequests); n < before; n++ {
		_, there := found[requestName+r.name(n)]
		if n > after-keptRequests { // no round that may have begun deletes it
			kept++
			if !there {
				t.Errorf("%s: %s was acknowledged and is not in the backup", what, r.name(n))
			}
		}
		if there && n < before-keptRequests {
			t.Errorf("%s: %s was deleted and is in the backup", what, r.name(n))
		}
	}
	return kept
}

// TestBackupUnderWriters backs a service up while eight writers work, again and again.
// Each backup is restored: every key is that of its CSR, the trail is whole and tells of
// all, and the last change before the backup is in it.
func TestBackupUnderWriters(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t)})
	recipient, identity := newHolder(t)
	ended := make(chan struct{})
	var working sync.WaitGroup
	var writers []*rounds
	for n := range 8 {
		w := &rounds{prefix: fmt.Sprintf("w%d-", n)}
		writers = append(writers, w)
		working.Go(func() { w.work(t, s, ended) })
	}
	times, kept := kit.Effort(20, 50), 0
	for n := range times {
		marker, file, restored := fmt.Sprint("marker-", n), filepath.Join(t.TempDir(), "backup.age"), filepath.Join(t.TempDir(), "new")
		s.Must(201, "POST", start.NSXCSRs+"/"+marker+"?action=create", start.ECSpec(marker))
		var before []int64
		for _, w := range writers {
			before = append(before, w.done.Load())
		}
		must(t, "backup", "create", "--data-dir", s.DataDir, "--to", file, "--recipient", recipient)
		var after []int64
		for _, w := range writers {
			after = append(after, w.done.Load())
		}
		must(t, "backup", "restore", file, "--data-dir", restored, "--identity", identity)
		if n%5 == 0 {
			must(t, "backup", "verify", file, "--identity", identity)
			must(t, "audit", "verify", "--data-dir", restored)
			must(t, "store", "check", "--data-dir", restored)
		}
		found, err := inspect(t.Context(), restored)
		if err != nil {
			t.Fatalf("backup %d: %v", n, err)
		}
		if _, there := found.stored[requestName+marker]; !there {
			t.Errorf("%s was acknowledged before the backup and is not in it", marker)
		}
		for i, w := range writers {
			kept += w.check(t, fmt.Sprint("backup ", n), before[i], after[i], found.stored)
		}
		kit.Remove(t, filepath.Dir(file), "backup.age")
	}
	close(ended)
	working.Wait()
	kit.Count(t, "requests that had to be in a backup", kept)
	kit.Count(t, "backups under writers", times)
}

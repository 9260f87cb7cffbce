package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

var root = audit.Request{User: "uid 0 (root)", Method: "command"}

func (tr *trail) accept(reason string) audit.Accepted {
	tr.t.Helper()
	a, err := tr.log.Accept(tr.t.Context(), root, reason)
	if err != nil {
		tr.t.Fatal(err)
	}
	return a
}

// putBack is a trail whose store was put back: it lacks 5 changes and a slot. Somebody
// wrote to the refusals, too. A later start has found both.
func putBack(t *testing.T) *trail {
	t.Helper()
	tr := newTrail(t)
	tr.putSlot("kept", 1)
	tr.changes(2)
	tr.close()
	backup := kit.Read(t, "", tr.storePath())
	tr.open()
	tr.changes(5)
	tr.putSlot("lost", 2)
	tr.log.Refuse(refusal("", "192.0.2.1", "unauthenticated"))
	tr.close()
	write(t, tr.storePath(), backup)
	name := tr.files(audit.Refusals)[0]
	write(t, name, append(kit.Read(t, "", name), "x\n"...))
	tr.open()
	tr.flush()
	return tr
}

// A restore is an alarm until an operator accepts it. Then it is a remark, and whatever
// comes up later is an alarm again.
func TestAccept(t *testing.T) {
	t.Parallel()
	tr := putBack(t)
	if _, err := newTrail(t).log.Accept(t.Context(), root, "no reason"); !errors.Is(err, audit.ErrWhole) {
		t.Errorf("of a trail that is whole: %v", err)
	}
	for _, what := range []string{"the service found the trail damaged", "c/lost: there is no record", "c/a: the record has revision 4, and line 9 wrote revision 9"} {
		tr.wantFound(what)
	}
	if a := tr.accept("restored from the backup of Monday"); len(a.Problems) != 5 || a.Records != 2 || a.Unreadable+a.More != 0 {
		t.Errorf("%+v", a)
	}
	tr.wantWhole()
	lines := tr.lines(audit.Changes)
	if l := lines[len(lines)-1]; l.Operation != "audit.accept" || l.User != root.User || l.Reason != "restored from the backup of Monday" {
		t.Errorf("%+v", l)
	}
	tr.changes(2)
	tr.putSlot("kept", 3)
	tr.restart()
	tr.close()
	tr.wantWhole()
	text := fmt.Sprint(tr.summaries(keys, tr.o.Dir))
	if strings.Count(text, "accepted what was wrong") != 2 || !strings.Contains(text, "restored from the backup of Monday") || !strings.Contains(text, "refusals: 4 lines in 3 files") {
		t.Errorf("verify says\n%s", text)
	}
	before := kit.Read(t, "", tr.files(audit.Changes)[0])
	write(t, tr.files(audit.Changes)[0], bytes.Replace(before, []byte(`"r1"`), []byte(`"r9"`), 1))
	tr.wantFound("changes-000001.jsonl:3: line 3, or a line before it, was changed")
	write(t, tr.files(audit.Changes)[0], before)
	list, err := filepath.Glob(tr.o.Dir + "/baseline-*.json")
	if err != nil || len(list) != 1 {
		t.Fatalf("%q, %v", list, err)
	}
	write(t, list[0], bytes.Replace(kit.Read(t, "", list[0]), []byte("kept"), []byte("less"), 1))
	tr.wantFound("baseline-" + strings.TrimPrefix(filepath.Base(list[0]), "baseline-") + " was changed")
	kit.Remove(t, "", list[0])
	tr.wantFound(" is missing")
}

// A trail whose anchors were taken away begins anew, which is an alarm until it is
// accepted.
func TestAcceptNewChain(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	tr.editStore(tr.storeCopy(), dropAnchors)
	tr.open()
	tr.wantFound("a new chain begins where there was one already: the store holds 1 records, and has no anchor of their trail")
	tr.accept("a test")
	tr.changes(1)
	tr.close()
	tr.wantWhole()
}

func (tr *trail) storeCopy() string {
	tr.t.Helper()
	name := filepath.Join(tr.t.TempDir(), "copy.db")
	write(tr.t, name, kit.Read(tr.t, "", tr.storePath()))
	return name
}

// A process that ends at any step of accepting leaves the break accepted or not, and
// it can be accepted again.
func TestEndWhileAccepting(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		for _, step := range audit.Steps() {
			if step == "rotate" || step == "remove" {
				continue // an accepted break has a file of its own anyway
			}
			t.Run(stream+" "+step, func(t *testing.T) {
				t.Parallel()
				tr := putBack(t)
				tr.close()
				whole := tr.o
				var armed, ended atomic.Bool
				tr.o = tr.o.WithStep(func(at string) error {
					if armed.Load() && at == stream+" "+step {
						ended.Store(true)
					}
					if ended.Load() {
						return errInjected
					}
					return nil
				})
				tr.wrap = func(o audit.Outbox) audit.Outbox { return endedOutbox{o, &ended} }
				tr.open()
				tr.flush()
				armed.Store(true)
				_, err := tr.log.Accept(t.Context(), root, "a test")
				if err == nil || !ended.Load() {
					t.Errorf("it did not end: %v", err)
				}
				tr.close()
				tr.o, tr.wrap = whole, nil
				tr.open()
				if _, err := tr.log.Accept(t.Context(), root, "again"); err != nil && !errors.Is(err, audit.ErrWhole) {
					t.Error(err)
				}
				tr.changes(1)
				tr.close()
				tr.wantWhole()
			})
		}
	}
}

// Verify begins at a later file where older ones are in an archive, and says how many
// records it could not compare.
func TestArchivedRecords(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles)
	for n := range 4 {
		tr.putSlot(fmt.Sprint("old", n), n)
	}
	tr.changes(20)
	tr.close()
	archive := t.TempDir()
	for _, name := range tr.files(audit.Changes)[:2] {
		kit.Rename(t, name, filepath.Join(archive, filepath.Base(name)))
	}
	s := tr.summaries(keys, tr.o.Dir)[0]
	if len(s.Problems) != 1 || s.Uncompared != 4 || s.Records != 1 || !strings.Contains(s.String(), "4 records were not compared") {
		t.Errorf("%+v", s)
	}
	if s := tr.summaries(keys, tr.o.Dir, archive)[0]; len(s.Problems) != 0 || s.Uncompared != 0 || s.Records != 5 {
		t.Errorf("%+v", s)
	}
	tr.open() // is no alarm at a start
	tr.changes(1)
	tr.close()
	if said := tr.said.String(); said != "" {
		t.Errorf("the log says %s", said)
	}
}

// What root's commands write belongs to the service, whose folder it is in.
func TestFilesThatRootMakes(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	tr := putBack(t)
	if err := os.Chown(tr.o.Dir, 4242, 4243); err != nil {
		t.Fatal(err)
	}
	before := slices.Concat(tr.files(audit.Changes), tr.files(audit.Refusals), tr.files(audit.Signatures))
	tr.accept("a test")
	made, err := filepath.Glob(tr.o.Dir + "/*")
	if err != nil || len(made) != len(before)+3 {
		t.Errorf("%q, %v", made, err)
	}
	for _, name := range made {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		owner, _ := info.Sys().(*syscall.Stat_t)
		if theirs := owner.Uid == 4242 && owner.Gid == 4243; theirs == slices.Contains(before, name) || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v of %d:%d", name, info.Mode(), owner.Uid, owner.Gid)
		}
	}
}

// A start that ends at any step after it has found that the store was put back leaves
// one line of that, and no revision twice.
func TestEndWhilePutBack(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"trimmed", "write", "written", "flushed"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(2)
			tr.close()
			backup := kit.Read(t, "", tr.storePath())
			tr.open()
			tr.changes(5)
			tr.close()
			write(t, tr.storePath(), backup)
			whole := tr.o
			tr.o = tr.o.WithStep(func(at string) error {
				if at == "changes "+step {
					return errInjected
				}
				return nil
			})
			err := tr.tryOpen()
			if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			tr.o = whole
			tr.open()
			tr.changes(1)
			tr.close()
			revisions, restores := map[uint64]bool{}, 0
			for _, l := range tr.lines(audit.Changes) {
				if l.Revision != 0 && revisions[l.Revision] {
					t.Errorf("revision %d has two lines", l.Revision)
				}
				revisions[l.Revision] = true
				if l.Operation == "store.restore" {
					restores++
				}
			}
			if restores != 1 {
				t.Errorf("%d lines say that the store was put back", restores)
			}
		})
	}
}

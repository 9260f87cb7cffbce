package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles)
	tr.wantWhole()
	tr.changes(30)
	tr.flush()
	tr.wantChanges()
	tr.wantWhole()
	if n := len(tr.files(audit.Changes)); n < 4 {
		t.Errorf("%d files of 2,000 bytes", n)
	}
	for _, name := range tr.files(audit.Changes) {
		info, err := os.Stat(name)
		if err != nil || info.Size() > 2000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	if info, err := os.Stat(tr.o.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	// The next life goes on where this one ended.
	tr.close()
	tr.wantWhole()
	tr.open()
	tr.changes(3)
	tr.close()
	tr.wantChanges()
	tr.wantWhole()
	if said := tr.said.String(); said != "" {
		t.Errorf("the log says %s", said)
	}
}

// A note that cannot be read does not end the trail.
func TestUnreadableNote(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	_, err := tr.store.Commit(t.Context(), []byte(`{"v":1,"event":"begin"}`), keystore.Op{Slot: keystore.Slot{Collection: "c", ID: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	tr.change()
	tr.close()
	lines := tr.lines(audit.Changes)
	if len(lines) != 3 || lines[1].Outcome != "unreadable" || lines[1].Revision == 0 || lines[2].RequestID != "r1" {
		t.Errorf("%+v", lines)
	}
	tr.wantWhole()
	if !strings.Contains(tr.said.String(), "cannot be read") {
		t.Errorf("the log says %s", tr.said)
	}
}

// Writing that fails loses nothing, is told once, and beyond the bound of the
// outbox changes are refused until it works again.
func TestFailingWrites(t *testing.T) {
	t.Parallel()
	for _, step := range audit.Steps()[:4] {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			var fired atomic.Int64
			tr := newTrail(t, func(o *audit.Options) {
				o.OutboxBound = 5
				*o = o.WithStep(func(at string) error {
					if failing.Load() && at == "changes "+step {
						fired.Add(1)
						return errInjected
					}
					return nil
				})
			})
			failing.Store(true)
			tr.changes(4)
			// What comes after the flush fails once: the lines are durable then.
			again := step == "write" || step == "written"
			eventually(t, "attempts failed", func() bool { return fired.Load() >= 2 || !again && fired.Load() == 1 })
			if again {
				if err := tr.log.Admit(t.Context()); err != nil {
					t.Errorf("refused with 4 of 5 notes: %v", err)
				}
				tr.change()
				if err := tr.log.Admit(t.Context()); !errors.Is(err, audit.ErrBacklog) {
					t.Errorf("admitted with 5 of 5 notes: %v", err)
				}
			}
			failing.Store(false)
			tr.flush()
			if err := tr.log.Admit(t.Context()); err != nil {
				t.Errorf("refused after recovery: %v", err)
			}
			tr.change()
			tr.close()
			tr.wantChanges()
			tr.wantWhole()
			said := tr.said.String()
			if strings.Count(said, "cannot be written") != 1 || strings.Count(said, "is written again") != 1 {
				t.Errorf("the log says\n%s", said)
			}
		})
	}
}

// faultyOutbox makes every other Trim fail, in turn without and with its effect.
type faultyOutbox struct {
	outbox
	trims *atomic.Int64
}

type outbox = audit.Outbox

func (f faultyOutbox) Trim(ctx context.Context, through uint64, name string, anchor []byte) error {
	unknown := fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, errInjected)
	n := f.trims.Add(1) % 4
	if n == 1 {
		return unknown
	}
	err := f.outbox.Trim(ctx, through, name, anchor)
	if err == nil && n == 3 {
		return unknown
	}
	return err
}

// A commit of the anchor that fails, whether it happened or not, neither loses nor
// doubles a line, also over a restart right after it.
func TestFailingAnchors(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles)
	var trims atomic.Int64
	for range keystoretest.Effort(3, 30) {
		tr.close()
		tr.wrap = func(o audit.Outbox) audit.Outbox { return faultyOutbox{o, &trims} }
		tr.open()
		for range 3 {
			tr.changes(4)
			before := trims.Load()
			eventually(t, "the anchor is tried", func() bool { return trims.Load() > before })
		}
		tr.close() // which tries once more
		tr.wantWhole()
		tr.wrap = nil
		tr.open()
	}
	tr.changes(3)
	tr.close()
	tr.wantChanges()
	tr.wantWhole()
	if trims.Load() < 6 {
		t.Errorf("%d trims", trims.Load())
	}
}

// A reader of the standard output who does not read holds up the trail and not the
// changes, until the outbox has as many as may wait.
func TestBlockedOutput(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tr := newTrail(t, func(o *audit.Options) { o.Stdout, o.OutboxBound = w, 300 })
	made := 0
	for ; tr.log.Admit(t.Context()) == nil; made++ {
		if made > 5000 {
			t.Fatal("changes go on for ever")
		}
		tr.change()
	}
	if made < 300 {
		t.Errorf("refused after %d changes", made)
	}
	var out bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&out, r) })
	tr.flush()
	if err := tr.log.Admit(t.Context()); err != nil {
		t.Errorf("refused after recovery: %v", err)
	}
	tr.close()
	w.Close()
	reading.Wait()
	next := 0
	for _, l := range parse(t, out.String()) {
		if l.Stream == audit.Changes && l.Event == "change" {
			if next++; l.Seq != uint64(next+1) {
				t.Fatalf("sequence %d after %d changes", l.Seq, next)
			}
		}
	}
	if next != made {
		t.Errorf("%d lines for %d changes", next, made)
	}
	// What was collected can be verified like files.
	collected := filepath.Join(tr.dir, "collected")
	if err := os.Mkdir(collected, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		var of strings.Builder
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, `"stream":"`+stream+`"`) {
				of.WriteString(line)
			}
		}
		write(t, filepath.Join(collected, stream+"-000001.jsonl"), []byte(of.String()))
	}
	if found := problems(t, tr.dir, keys, collected); len(found) > 0 {
		t.Errorf("%q", found)
	}
}

// Another process, or the operator, takes the file away while it is in use.
func TestFileTakenAway(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, file string){
		"removed": func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"rotated by others": func(t *testing.T, file string) {
			if err := os.Rename(file, file+".1"); err != nil {
				t.Fatal(err)
			}
			write(t, file, nil)
		},
		"cut": func(t *testing.T, file string) {
			if err := os.Truncate(file, 300); err != nil {
				t.Fatal(err)
			}
		},
		"appended to": func(t *testing.T, file string) {
			write(t, file, append(read(t, file), "more\n"...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.flush()
			damage(t, tr.files(audit.Changes)[0])
			tr.changes(2)
			tr.flush()
			files := tr.files(audit.Changes)
			lines := parse(t, string(read(t, files[len(files)-1])))
			if len(lines) != 3 || lines[0].Event != "broken" || lines[0].Seq != 5 || lines[1].RequestID != "r4" || lines[2].RequestID != "r5" {
				t.Errorf("%+v", lines)
			}
			found := tr.verify()
			if len(found) == 0 || !strings.Contains(found[len(found)-1], "changes-000002.jsonl:1: the service found the trail damaged") {
				t.Errorf("found %q", found)
			}
			if n := strings.Count(tr.said.String(), "is damaged"); n != 1 {
				t.Errorf("the log says %s", tr.said)
			}
		})
	}
}

// The line that says that a file was damaged is owed until it is written, whatever
// fails meanwhile, and over a restart.
func TestOpeningIsOwed(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			t.Parallel()
			var room atomic.Bool
			var fired atomic.Int64
			said := &keystoretest.Buffer{}
			tr := newTrail(t, func(o *audit.Options) {
				o.Logger = slog.New(slog.NewTextHandler(said, nil))
				*o = o.WithStep(func(step string) error {
					if step == "changes write" && !room.Load() && strings.Contains(said.String(), "is damaged") {
						fired.Add(1)
						return errInjected
					}
					return nil
				})
			})
			tr.changes(3)
			tr.flush()
			if err := os.Remove(tr.files(audit.Changes)[0]); err != nil {
				t.Fatal(err)
			}
			tr.change()
			eventually(t, "the new file cannot be written to", func() bool { return fired.Load() > 0 })
			tr.change()
			if restart {
				tr.close()
				room.Store(true)
				tr.open()
			}
			room.Store(true)
			tr.flush()
			tr.close()
			files := tr.files(audit.Changes)
			lines := parse(t, string(read(t, files[0])))
			if len(files) != 1 || len(lines) != 3 || lines[0].Event != "broken" || lines[0].Seq != 5 || lines[1].RequestID != "r4" || lines[2].RequestID != "r5" {
				t.Errorf("%+v", lines)
			}
		})
	}
}

// What a start finds that is not what the service left is left as it is.
func TestStartOnDamage(t *testing.T) {
	t.Parallel()
	lastLine := func(content []byte) int { return bytes.LastIndexByte(content[:len(content)-1], '\n') + 1 }
	for name, test := range map[string]struct {
		damage func([]byte) []byte
		broken bool
	}{
		"nothing":             {func(c []byte) []byte { return c }, false},
		"torn line behind":    {func(c []byte) []byte { return append(c, `{"v":1,"stream":"cha`...) }, false},
		"zeros behind":        {func(c []byte) []byte { return append(c, make([]byte, 5000)...) }, false},
		"line behind":         {func(c []byte) []byte { return append(c, "{}\n"...) }, true},
		"last line again":     {func(c []byte) []byte { return append(c, c[lastLine(c):]...) }, true},
		"last line cut":       {func(c []byte) []byte { return c[:len(c)-10] }, true},
		"last line removed":   {func(c []byte) []byte { return c[:lastLine(c)] }, true},
		"last line edited":    {func(c []byte) []byte { c[len(c)-20] ^= 1; return c }, true},
		"emptied":             {func([]byte) []byte { return nil }, true},
		"line without an end": {func(c []byte) []byte { return append(c, bytes.Repeat([]byte("x"), audit.MaxLine+10)...) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.close()
			file := tr.files(audit.Changes)[0]
			damaged := test.damage(read(t, file))
			write(t, file, damaged)
			tr.open()
			tr.changes(2)
			tr.close()
			if !test.broken {
				tr.wantChanges()
				tr.wantWhole()
				return
			}
			if !bytes.Equal(read(t, file), damaged) {
				t.Error("evidence was overwritten")
			}
			lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
			if len(lines) != 3 || lines[0].Event != "broken" || lines[0].Seq != 5 || lines[2].RequestID != "r5" {
				t.Errorf("%+v", lines)
			}
			if found := tr.verify(); len(found) == 0 {
				t.Error("verify finds nothing")
			}
			// Damage is told once, and what comes after it is a chain again.
			tr.open()
			tr.close()
			if n := strings.Count(tr.said.String(), "is damaged"); n != 1 {
				t.Errorf("told %d times", n)
			}
			content := read(t, tr.files(audit.Changes)[1])
			write(t, tr.files(audit.Changes)[1], bytes.Replace(content, []byte(`"r5"`), []byte(`"r6"`), 1))
			if found := tr.verify(); !strings.Contains(strings.Join(found, "\n"), "changes-000002.jsonl:3: line 7, or what stood before it, was changed") {
				t.Errorf("found %q", found)
			}
		})
	}
}

// Another store beside the old files: nothing is overwritten, and verify says whose
// they are. Moved away, the trail is whole.
func TestDiscardedStore(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(3)
	tr.close()
	before := read(t, tr.files(audit.Changes)[0])
	if err := os.Remove(tr.storePath()); err != nil {
		t.Fatal(err)
	}
	tr.open()
	tr.changes(2)
	tr.close()
	if !bytes.Equal(read(t, tr.files(audit.Changes)[0]), before) {
		t.Error("a file of the other store was overwritten")
	}
	lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
	if len(lines) != 3 || lines[0].Event != "begin" || lines[0].Seq != 1 || lines[0].Reason == "" {
		t.Errorf("%+v", lines)
	}
	tr.wantProblem("changes-000001.jsonl", "an earlier chain")
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		if err := os.Rename(tr.files(stream)[0], filepath.Join(tr.dir, stream)); err != nil {
			t.Fatal(err)
		}
	}
	tr.wantWhole()
}

// An older store under newer files gives revisions out again: its changes must not
// be taken for those that have lines already.
func TestRestoredStore(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	backup := read(t, tr.storePath())
	tr.open()
	tr.changes(5)
	tr.close()
	write(t, tr.storePath(), backup)
	tr.wantProblem("changes-000001.jsonl:8", "the store is an older one")
	tr.open()
	tr.changes(3)
	tr.close()
	lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
	if len(lines) != 4 || lines[0].Event != "broken" || lines[0].Seq != 4 || lines[1].RequestID != "r8" || lines[3].RequestID != "r10" {
		t.Errorf("%+v", lines)
	}
	tr.wantProblem("changes-000002.jsonl:1", "the service found the trail damaged")
}

// Also where a change that waits has the revision of one that has a line.
func TestRestoredStoreWithNotes(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	backup := read(t, tr.storePath())
	tr.open()
	tr.change()
	tr.close()
	write(t, tr.storePath(), backup)
	store, err := bolt.Open(tr.storePath(), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	note, err := event(100).Note(time.Now())
	if err == nil {
		_, err = store.Commit(t.Context(), note, keystore.Op{Slot: keystore.Slot{Collection: "c", ID: "a"}})
	}
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	tr.open()
	tr.close()
	if n := len(tr.files(audit.Changes)); n != 2 {
		t.Fatalf("%d files", n)
	}
	lines := parse(t, string(read(t, tr.files(audit.Changes)[1])))
	if len(lines) != 2 || lines[0].Event != "broken" || lines[1].RequestID != "r100" {
		t.Errorf("%+v", lines)
	}
}

// The keys of the old lines stay when the primary key is another.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	both := keyring{"00000002", map[string][]byte{"0badcafe": keys.keys["0badcafe"], "00000002": []byte("another")}}
	tr.o.MAC = both
	tr.open()
	tr.changes(2)
	tr.close()
	tr.wantChanges()
	if found := problems(t, tr.dir, both, tr.o.Dir); len(found) > 0 {
		t.Errorf("%q", found)
	}
	only := keyring{"00000002", map[string][]byte{"00000002": []byte("another")}}
	if found := problems(t, tr.dir, only, tr.o.Dir); len(found) == 0 || !strings.Contains(found[0], `changes-000001.jsonl:1: the line was made with key "0badcafe"`) {
		t.Errorf("%q", found)
	}
}

func TestOutputChanges(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	var out keystoretest.Buffer
	tr.o.Stdout = &out
	tr.open()
	tr.changes(2)
	tr.close()
	if lines := parse(t, out.String()); len(lines) != 4 || lines[0].Event != "begin" && lines[1].Event != "begin" {
		t.Errorf("%+v", lines)
	}
	tr.o.Stdout = nil
	tr.open()
	tr.close()
	if n := len(tr.files(audit.Changes)); n != 2 {
		t.Errorf("%d files", n)
	}
	tr.wantProblem("changes-000001.jsonl", "an earlier chain")
}

func TestRefusedFolders(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(string) error{
		"a file":               func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"accessible to others": func(dir string) error { return os.Mkdir(dir, 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			if err := prepare(filepath.Join(dir, "audit")); err != nil {
				t.Fatal(err)
			}
			_ = os.Chmod(filepath.Join(dir, "audit"), 0o777)
			if l, err := audit.Open(t.Context(), audit.Options{Outbox: store, MAC: keys, Dir: filepath.Join(dir, "audit")}); err == nil {
				t.Errorf("opened %v", l)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(tr.log.Collectors()...)
	for range 3 {
		tr.log.Refuse(audit.Refusal{Request: audit.Request{Address: "192.0.2.1"}, Outcome: "unauthenticated"})
	}
	tr.changes(4)
	tr.flush()
	eventually(t, "the refusal is written", func() bool { return len(tr.lines(audit.Refusals)) == 2 })
	want := `
# HELP attestcsr_audit_events_total Lines written to the audit trail, without those that open a file.
# TYPE attestcsr_audit_events_total counter
attestcsr_audit_events_total{stream="changes"} 4
attestcsr_audit_events_total{stream="refusals"} 1
# HELP attestcsr_audit_export_failures_total Attempts to write the audit trail that failed.
# TYPE attestcsr_audit_export_failures_total counter
attestcsr_audit_export_failures_total{stream="changes"} 0
attestcsr_audit_export_failures_total{stream="refusals"} 0
# HELP attestcsr_audit_outbox_notes Changes that are not in the audit trail yet; they wait in the store.
# TYPE attestcsr_audit_outbox_notes gauge
attestcsr_audit_outbox_notes 0
# HELP attestcsr_audit_refusals_folded_total Refusals that were counted in a line of others.
# TYPE attestcsr_audit_refusals_folded_total counter
attestcsr_audit_refusals_folded_total 2
`
	eventually(t, "the counter", func() bool { return testutil.GatherAndCompare(registry, strings.NewReader(want)) == nil })
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	var off *audit.Log
	if off.Collectors() != nil || off.Admit(t.Context()) != nil || off.Close(t.Context()) != nil {
		t.Error("a nil Log does something")
	}
	off.Refuse(audit.Refusal{})
}

// Verify beside a service that writes, rotates and lets old files go.
func TestVerifyWhileRunning(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles, func(o *audit.Options) { o.MaxRefusalsSize = 6000 })
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				tr.change()
				tr.log.Refuse(audit.Refusal{Request: audit.Request{ID: "x"}, Operation: strings.Repeat("o", i%50), Outcome: strings.Repeat("x", i/50)})
			}
		}
	})
	runs := 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && (runs < 40 || len(tr.files(audit.Changes)) < 8); runs++ {
		tr.wantWhole()
	}
	close(stop)
	writer.Wait()
	tr.close()
	tr.wantWhole()
	tr.wantChanges()
	if len(tr.files(audit.Changes)) < 8 {
		t.Errorf("%d changes in %d files", tr.n, len(tr.files(audit.Changes)))
	}
	keystoretest.Count(t, "verifications beside a writer", runs)
}

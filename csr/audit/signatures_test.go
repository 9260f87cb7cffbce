package audit_test

import (
	"crypto"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/test/forge"
	"attestcsr/test/kit"
)

// The files of signatures lose what was flushed, and those of changes do not: the notes
// are still there, and each signature has its line again.
func TestSignaturesOnceMore(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.signatures(2)
	tr.changes(1)
	tr.close()
	tr.open()
	before := kit.Read(t, "", tr.files(audit.Signatures)[0])
	tr.close()
	var ended atomic.Bool
	whole := tr.o
	tr.o = tr.o.WithStep(func(at string) error {
		if at == "changes flushed" {
			ended.Store(true)
		}
		if ended.Load() {
			return errInjected
		}
		return nil
	})
	tr.wrap = func(o audit.Outbox) audit.Outbox { return endedOutbox{o, &ended} }
	tr.open()
	tr.signatures(1)
	tr.changes(1)
	tr.signatures(1)
	tr.changes(1)
	kit.Eventually(t, "the end", ended.Load)
	tr.close()
	if after := kit.Read(t, "", tr.files(audit.Signatures)[0]); len(after) <= len(before) {
		t.Fatal("the signatures were not written before the changes")
	}
	write(t, tr.files(audit.Signatures)[0], before)
	tr.o, tr.wrap = whole, nil
	tr.open()
	tr.flush()
	tr.wantWhole()
	tr.wantChanges()
	tr.wantSignatures()
}

// Whoever removes lines, files or the anchor of the signatures is found, by the start
// too.
func TestRemovedSignatures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		attack func(*testing.T, *trail)
		what   string
	}{
		"lines": {func(t *testing.T, tr *trail) {
			file := tr.files(audit.Signatures)[0]
			text := kit.Read(t, "", file)
			write(t, file, text[:strings.LastIndexByte(strings.TrimSuffix(string(text), "\n"), '\n')+1])
		}, "lines were cut off"},
		"file": {func(t *testing.T, tr *trail) { kit.Remove(t, "", tr.files(audit.Signatures)[0]) }, "lines were cut off, or a file is missing"},
		"file and anchor": {func(t *testing.T, tr *trail) {
			kit.Remove(t, "", tr.files(audit.Signatures)[0])
			forge.Edit(t, tr.storePath(), func(now *forge.Store) {
				anchors := now.Anchors()
				delete(anchors, audit.Signatures)
				now.SetAnchors(anchors)
			})
		}, "somebody has removed its anchor"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.signatures(3)
			tr.changes(1)
			tr.close()
			tr.wantWhole()
			c.attack(t, tr)
			if found := strings.Join(tr.verify(), "\n"); !strings.Contains(found, c.what) {
				t.Errorf("found %q, want %q", found, c.what)
			}
			tr.open()
			tr.flush()
			if said := tr.said.String(); !strings.Contains(said, "level=ERROR") || !strings.Contains(said, "stream=signatures") {
				t.Errorf("the start says %s", said)
			}
			if found := tr.verify(); len(found) == 0 {
				t.Error("after the start nothing is found")
			}
		})
	}
}

// A store that was put back gives no revision out again that a signature has.
func TestRestoredBelowSignatures(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(1)
	tr.close()
	backup := kit.Read(t, "", tr.storePath())
	tr.open()
	tr.signatures(5)
	tr.close()
	lines := tr.lines(audit.Signatures)
	newest := lines[len(lines)-1].Revision
	write(t, tr.storePath(), backup)
	if found := strings.Join(tr.verify(), "\n"); !strings.Contains(found, "the store is an older one") {
		t.Errorf("found %q", found)
	}
	tr.open()
	tr.signatures(1)
	tr.close()
	lines = tr.lines(audit.Signatures)
	if last := lines[len(lines)-1]; last.Revision <= newest || last.RequestID != "s6" {
		t.Errorf("revision %d again, after %d: %+v", last.Revision, newest, last)
	}
}

// Signatures leave a part of the outbox to changes.
func TestAdmitSignature(t *testing.T) {
	t.Parallel()
	var failing atomic.Bool
	var fired atomic.Int64
	tr := newTrail(t, failAt("signatures write", &fired, failing.Load), func(o *audit.Options) { o.OutboxBound = 6 })
	failing.Store(true)
	for i := range 3 {
		if err := tr.log.AdmitSignature(t.Context()); err != nil {
			t.Fatalf("with %d notes of 6: %v", i, err)
		}
		tr.signatures(1)
	}
	if err := tr.log.AdmitSignature(t.Context()); !errors.Is(err, audit.ErrBacklog) {
		t.Errorf("a signature with 3 notes of 6: %v", err)
	}
	if err := tr.log.Admit(t.Context()); err != nil {
		t.Errorf("a change with 3 notes of 6: %v", err)
	}
	failing.Store(false)
	tr.flush()
	if err := tr.log.AdmitSignature(t.Context()); err != nil {
		t.Errorf("after recovery: %v", err)
	}
}

// The line of a change says what its commit did to records without a key.
func TestBeside(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	retired := keystore.Slot{Collection: "c", ID: "retired"}
	change := func(c keystore.Companion, digest string) {
		t.Helper()
		tr.n++
		e := event(tr.n)
		e.Beside = []audit.Beside{{Slot: retired.String(), Payload: digest}}
		note, err := tr.log.Note(e)
		if err == nil {
			_, err = tr.store.keys.Replace(t.Context(), keystore.Target{Slot: slotOf("a")}, keystore.KeySpec{Algorithm: keystore.ECDSA, Bits: 256},
				func(crypto.Signer) (keystore.Change, error) {
					return keystore.Change{Payload: payload(tr.n), Note: note, Companions: []keystore.Companion{c}}, nil
				})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(keystore.Companion{Target: keystore.Target{Slot: retired}, Payload: []byte("public half")}, digestOf([]byte("public half")))
	tr.wantWhole()
	tr.flush()
	tr.wantWhole()
	change(keystore.Companion{Target: keystore.Target{Slot: retired}, Delete: true}, "")
	tr.wantWhole()
	change(keystore.Companion{Target: keystore.Target{Slot: retired}, Payload: []byte("public half")}, digestOf([]byte("another")))
	tr.flush()
	tr.wantFound("c/retired: the record has another payload")
}

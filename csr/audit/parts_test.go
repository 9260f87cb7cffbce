package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// moment is what a backup takes of a trail: the store, and the parts of files.
type moment struct {
	store audit.Snapshot
	parts []audit.Part
	files fstest.MapFS
}

// take reads a moment while the trail is written to. Files that the service never removes
// are read later, when they are longer.
func (tr *trail) take(later func()) (m moment) {
	tr.t.Helper()
	m.files = fstest.MapFS{}
	read := func(kept bool) error {
		for _, part := range m.parts {
			if kept != strings.HasPrefix(part.Name, audit.Changes) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(tr.o.Dir, part.Name))
			if err != nil || int64(len(text)) < part.Size {
				return fmt.Errorf("%s: %d bytes of %d: %w", part.Name, len(text), part.Size, err)
			}
			m.files[part.Name] = &fstest.MapFile{Data: text[:part.Size], Mode: 0o600}
		}
		return nil
	}
	err := tr.log.Hold(func() (err error) {
		if m.store, err = audit.Take(tr.t.Context(), tr.store.state); err != nil {
			return err
		}
		if m.parts, err = audit.Parts(tr.o.Dir, tr.o.MAC, m.store.Anchors); err != nil {
			return err
		}
		return read(false)
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	later()
	if err := read(true); err != nil {
		tr.t.Fatal(err)
	}
	return m
}

func (tr *trail) verifyMoment(m moment) (problems []string) {
	tr.t.Helper()
	all, err := audit.Verify(tr.t.Context(), audit.VerifyOptions{Files: m.files, MAC: keys, Snapshot: func(context.Context) (audit.Snapshot, error) { return m.store, nil }})
	if err != nil {
		tr.t.Fatal(err)
	}
	for _, s := range all {
		for _, p := range s.Problems {
			problems = append(problems, p.String())
		}
	}
	return problems
}

// TestParts: at any moment the store and the parts that belong to it are a whole trail,
// with notes that wait and without, over changes of files.
func TestParts(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles, func(o *audit.Options) { o.MaxSignaturesSize, o.MaxRefusalsSize = 8000, 8000 })
	more := func() {
		tr.changes(3)
		tr.signatures(3)
		tr.log.Refuse(refusal("", "192.0.2.1", "unauthenticated"))
	}
	waiting := 0
	for round := range 20 {
		more()
		if round%4 == 0 {
			time.Sleep(50 * time.Millisecond) // any moment between two exports will do
		}
		m := tr.take(more)
		if len(m.store.Notes) > 0 {
			waiting++
		}
		if found := tr.verifyMoment(m); len(found) > 0 {
			t.Fatalf("round %d: %q", round, found)
		}
	}
	tr.flush()
	m := tr.take(more)
	if waiting == 0 || len(m.store.Notes) > 0 || len(tr.files(audit.Changes)) < 3 {
		t.Errorf("%d moments with notes that wait; %d of the last; %d files", waiting, len(m.store.Notes), len(tr.files(audit.Changes)))
	}
	last := m.parts[slices.IndexFunc(m.parts, func(p audit.Part) bool { return strings.HasPrefix(p.Name, audit.Refusals) })-1]
	m.files[last.Name].Data = m.files[last.Name].Data[:last.Size-1]
	if found := tr.verifyMoment(m); len(found) == 0 {
		t.Error("a part that is a byte short is whole")
	}
	delete(m.files, last.Name)
	if found := tr.verifyMoment(m); len(found) == 0 {
		t.Error("without a part it is whole")
	}
	kit.Overwrite(t, tr.o.Dir, "changes-000999.jsonl", "of another store\n")
	kit.Overwrite(t, tr.o.Dir, "baseline-0123456789abcdef.json", "[]")
	kit.Overwrite(t, tr.o.Dir, "baseline-xyz.json", "[]")
	m = tr.take(func() {})
	has := func(name string) bool {
		return slices.ContainsFunc(m.parts, func(p audit.Part) bool { return p.Name == name })
	}
	if has("changes-000999.jsonl") || !has("baseline-0123456789abcdef.json") || has("baseline-xyz.json") {
		t.Errorf("%v", m.parts)
	}
}

// TestIsFile: names of files of the trail, and no path.
func TestIsFile(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"changes-000001.jsonl": true, "refusals-123456.jsonl": true, "signatures-1234567.jsonl": true, "baseline-0123456789abcdef.json": true,
		"changes-1.jsonl": false, "changes-0000001.jsonl": false, "changes-000000.jsonl": false, "changes--00001.jsonl": false, "changes-+00001.jsonl": false,
		"changes-000001.json": false, "changes-000001.jsonl.jsonl": false, "other-000001.jsonl": false, "../changes-000001.jsonl": false, "": false,
		"baseline-0123456789ABCDEF.json": false, "baseline-0123456789abcde.json": false, "baseline-0123456789abcdef.json.json": false, "baseline-../../../../../etc.json": false,
	} {
		if audit.IsFile(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

package backup_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/server"
	"attestcsr/test/forge"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestVerifyFinds: a backup of a store or a trail that is not whole is made, since it may
// be the last. A check of it says what is wrong, and so does a restore.
func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	s := used(t, start.Options{})
	s.Must(201, "POST", start.NSXCSRs+"/two?action=create", start.ECSpec("two"))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	one, two := keystore.Slot{Collection: "nsx/csrs", ID: "one"}, keystore.Slot{Collection: "nsx/csrs", ID: "two"}
	inStore := func(edit func(*forge.Store)) func(string) {
		return func(dir string) { forge.Edit(t, filepath.Join(dir, server.StoreFile), edit) }
	}
	inTrail := func(edit func([]byte) []byte) func(string) {
		return func(dir string) {
			audit := filepath.Join(dir, server.AuditDir)
			kit.Overwrite(t, audit, "changes-000001.jsonl", string(edit(kit.Read(t, audit, "changes-000001.jsonl"))))
		}
	}
	for _, c := range []struct {
		what string
		edit func(dir string)
		want string // nothing: it is whole
	}{
		{"as it was", func(string) {}, ""},
		{"two records changed places", inStore(func(s *forge.Store) { s.Swap(one, two) }), "nsx/csrs/one"},
		{"a record is gone", inStore(func(s *forge.Store) { s.Delete(one) }), "nsx/csrs/one: there is no record"},
		{"a line says something else", inTrail(func(text []byte) []byte {
			return bytes.Replace(text, []byte(`"csr.create"`), []byte(`"csr.delete"`), 1)
		}), "was changed"},
		{"lines were cut off", inTrail(func(text []byte) []byte { return text[:bytes.LastIndexByte(text[:len(text)-1], '\n')+1] }), "lines"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		start.CopyData(t, s.DataDir, dir)
		c.edit(dir)
		file, restored := filepath.Join(t.TempDir(), "backup.age"), filepath.Join(t.TempDir(), "new")
		must(t, "backup", "create", "--data-dir", dir, "--to", file, "--recipient", h.recipient)
		want := 0
		if c.want != "" {
			want = 1
		}
		out, status := run(t, nil, "backup", "verify", file, "--identity", h.identity)
		if status != want || !strings.Contains(out, c.want) {
			t.Errorf("%s: verify: %d %s", c.what, status, out)
		}
		out, status = run(t, nil, "backup", "restore", file, "--data-dir", restored, "--identity", h.identity)
		if status != want || !strings.Contains(out, "holds the backup of") || want == 1 && !strings.Contains(out, "damaged") {
			t.Errorf("%s: restore: %d %s", c.what, status, out)
		}
		if _, status := run(t, nil, "audit", "verify", "--data-dir", restored); status != want {
			t.Errorf("%s: audit verify of what was restored: %d", c.what, status)
		}
	}
}

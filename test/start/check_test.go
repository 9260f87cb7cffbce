package start_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/server"
	"attestcsr/test/forge"
	"attestcsr/test/start"
)

// TestStoreCheck: each part of the check finds what is wrong, beside the service and
// without it, and says where.
func TestStoreCheck(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	pending := keystore.Slot{Collection: "esx/attestation", ID: "csr"}
	for _, test := range []struct {
		name string
		edit func(*forge.Store)
		want []string
	}{
		{"a record of somebody else", func(store *forge.Store) {
			r := store.Get(pending)
			r.Payload = append(r.Payload, '\n')
			store.Put(r)
		}, []string{"esx/attestation/csr", "code does not fit"}},
		{"a record that is gone", func(store *forge.Store) { store.Delete(pending) }, []string{"the store: ", "esx/attestation/csr"}},
		{"an entry of an index", func(store *forge.Store) {
			store.SetEntry(keystore.Slot{Collection: "nsx/csrs", ID: "gone"}, keystore.IndexEntry{Name: "name", Value: []byte("x")}, "gone")
		}, []string{"index entry ", "no record has it"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			start.CopyData(t, s.DataDir, dir)
			must(t, dir, "store check")
			forge.Edit(t, filepath.Join(dir, server.StoreFile), test.edit)
			wantFound(t, dir, test.want)
			start.Serve(t, start.Options{DataDir: dir, Config: s.Config()})
			wantFound(t, dir, test.want)
		})
	}
}

// wantFound checks a store that is not whole, in both forms of output.
func wantFound(t *testing.T, dir string, want []string) {
	t.Helper()
	out, status := command(t, dir, "store check")
	for _, text := range want {
		if status != 1 || !strings.Contains(out, text) {
			t.Errorf("%d %s, want 1 and %q", status, out, text)
		}
	}
	out, status = command(t, dir, "store check --output json")
	out, said, _ := strings.Cut(out, "\n")
	var found struct{ OK bool }
	if err := json.Unmarshal([]byte(out), &found); err != nil || found.OK || status != 1 || !strings.Contains(said, "not whole") {
		t.Errorf("%d %s %s, %v", status, out, said, err)
	}
}

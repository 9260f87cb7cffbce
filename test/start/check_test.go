package start_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/server"
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
		edit func(t *testing.T, file string)
		want []string
	}{
		{"a record of somebody else", func(t *testing.T, file string) {
			t.Helper()
			editStore(t, file, func(store *bolt.Store) error {
				r, err := store.Get(t.Context(), pending)
				if err == nil {
					op := keystore.Op{Slot: pending, Ref: r.Ref, Payload: append(r.Payload, '\n'), Code: r.Code}
					_, err = store.Commit(t.Context(), nil, op)
				}
				return err
			})
		}, []string{"esx/attestation/csr", "code does not fit"}},
		{"a record that is gone", func(t *testing.T, file string) {
			t.Helper()
			editStore(t, file, func(store *bolt.Store) error {
				_, err := store.Commit(t.Context(), nil, keystore.Op{Slot: pending, Delete: true})
				return err
			})
		}, []string{"the store: ", "esx/attestation/csr"}},
		{"an entry of an index", func(t *testing.T, file string) {
			t.Helper()
			db, err := bbolt.Open(file, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			err = db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte("slots")).Put([]byte("insx/csrs\x00name\x00x\x00\x01gone"), []byte("gone"))
			})
			if err != nil {
				t.Fatal(err)
			}
		}, []string{"index entry ", "no record has it"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "data")
			start.CopyData(t, s.DataDir, dir)
			must(t, dir, "store check")
			test.edit(t, filepath.Join(dir, server.StoreFile))
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

// editStore changes a store as who has the file and not the keyset.
func editStore(t *testing.T, file string, edit func(*bolt.Store) error) {
	t.Helper()
	store, err := bolt.Open(file, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = edit(store)
	if closeErr := store.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		t.Fatal(err)
	}
}

package bolt_test

import (
	"path/filepath"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
)

func open(t testing.TB, dir string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	keystoretest.TestStore(t, func(t *testing.T, dir string) keystore.Store { return open(t, dir) })
	keystoretest.TestOutbox(t, func(t *testing.T, dir string) keystoretest.OutboxStore { return open(t, dir) })
}

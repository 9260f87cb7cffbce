package bolt_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"

	"github.com/prometheus/client_golang/prometheus"
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

// TestSizeMetrics: the size of the file is a metric, and so is the part of it that
// deletions leave for records to come.
func TestSizeMetrics(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	closing(t, s)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collectors()...)
	measured := func() (size, reusable float64) {
		families, err := registry.Gather()
		if err != nil || len(families) != 2 {
			t.Fatalf("%d metrics, %v", len(families), err)
		}
		// In the order of their names.
		return families[1].GetMetric()[0].GetGauge().GetValue(), families[0].GetMetric()[0].GetGauge().GetValue()
	}
	_, before := measured()
	at := keystore.Slot{Collection: "things", ID: "large"}
	mustCommit(t, s, put(at, strings.Repeat("x", 500_000)))
	mustCommit(t, s, keystore.Op{Slot: at, Delete: true})
	for range 3 { // pages are free once no reader can see them
		mustCommit(t, s, put(keystore.Slot{Collection: "things", ID: "small"}, "x"))
	}
	size, reusable := measured()
	info, err := os.Stat(filepath.Join(dir, "store.db"))
	if err != nil || size > float64(info.Size()) || size < 500_000 {
		t.Errorf("the size is %v, that of the file %v, %v", size, info.Size(), err)
	}
	if reusable < 500_000 || reusable > size {
		t.Errorf("%v bytes can be used again, %v before", reusable, before)
	}
}

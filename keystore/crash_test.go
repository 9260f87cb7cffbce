package keystore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
)

const (
	// crashDirVariable makes the test binary a crash child on that folder.
	crashDirVariable = "ATTESTCSR_CRASH_TEST_DIR"
	crashWriters     = 4
	crashKills       = 50
)

func pending(writer int) keystore.Slot {
	return keystore.Slot{Collection: "pending", ID: strconv.Itoa(writer)}
}

func installed(writer int) keystore.Slot {
	return keystore.Slot{Collection: "installed", ID: strconv.Itoa(writer)}
}

func openCrashed(ctx context.Context, dir string) (*bolt.Store, *sealed.Custodian, *keystore.Keystore, error) {
	store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		return nil, nil, nil, err
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		return nil, nil, nil, errors.Join(err, store.Close())
	}
	k, err := keystore.Open(ctx, keystore.Options{Store: store, Custodian: custodian})
	return store, custodian, k, err
}

// crashChild is the victim: several writers that make pending pairs and promote
// them, each line of its output an acknowledged revision, until it is killed.
func crashChild(dir string) int {
	ctx := context.Background()
	_, _, k, err := openCrashed(ctx, dir)
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				r, err := k.Replace(ctx, keystore.Target{Slot: pending(w)}, spec, publicKey)
				if err == nil {
					fmt.Println("ack", w, r.Revision) // one write call: lines are whole
				}
				if err == nil && i%3 == 2 {
					r, err = k.Move(ctx, keystore.Target{Slot: pending(w)}, keystore.Target{Slot: installed(w)}, keep)
					if err == nil {
						fmt.Println("ack", w, r.Revision)
					}
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
			}
		})
	}
	wg.Wait()
	return 1
}

// TestKill kills a process in the middle of its work, again and again on the same
// data, and looks at what it left: whole pairs, and nothing acknowledged is gone.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	t.Parallel()
	dir := t.TempDir()
	acknowledged := make([]uint64, crashWriters)
	for range crashKills {
		killOnce(t, dir, acknowledged)
		checkCrashed(t, dir, acknowledged)
	}
	keystoretest.Count(t, "kills", crashKills)
	for w, revision := range acknowledged {
		if revision == 0 {
			t.Errorf("writer %d never got anything acknowledged", w)
		}
	}
}

// killOnce runs a child, kills it at a random moment after it is ready and notes
// what it acknowledged.
func killOnce(t *testing.T, dir string, acknowledged []uint64) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDirVariable+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(30*time.Second, func() { _ = child.Process.Kill() }) // unless it gets ready
	defer kill.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var w int
		var revision uint64
		switch line := lines.Text(); {
		case line == "ready":
			kill.Reset(time.Duration(rand.Int64N(int64(80 * time.Millisecond))))
		case strings.HasPrefix(line, "ack "):
			if _, err := fmt.Sscanf(line, "ack %d %d", &w, &revision); err != nil {
				t.Fatalf("line %q: %v", line, err)
			}
			acknowledged[w] = max(acknowledged[w], revision)
		default:
			t.Errorf("the child says: %s", line)
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Fatalf("the child was to be killed while it worked: %v", err)
	}
}

func checkCrashed(t *testing.T, dir string, acknowledged []uint64) {
	t.Helper()
	store, custodian, k, err := openCrashed(t.Context(), dir)
	if err != nil {
		t.Fatalf("opening after the kill: %v", err)
	}
	defer func() {
		if err := k.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}()
	if err := k.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	for w := range crashWriters {
		var latest uint64
		for _, slot := range []keystore.Slot{pending(w), installed(w)} {
			r, err := store.Get(t.Context(), slot)
			if errors.Is(err, keystore.ErrNotFound) {
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", slot, err)
			}
			if err := matches(custodian, r); err != nil {
				t.Errorf("%s: %v", slot, err)
			}
			latest = max(latest, r.Revision)
		}
		if latest < acknowledged[w] {
			t.Errorf("writer %d was told revision %d, the store has %d", w, acknowledged[w], latest)
		}
	}
}

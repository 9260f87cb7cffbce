package audit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

const (
	// crashDirVariable makes the test binary a crash child on that folder.
	crashDirVariable = "ATTESTCSR_CRASH_TEST_DIR"
	// crashStepVariable is "STREAM STEP N": the child ends at that step, the Nth time.
	crashStepVariable = "ATTESTCSR_CRASH_TEST_STEP"
	// crashRoundVariable is the beginning of the child's request ids.
	crashRoundVariable = "ATTESTCSR_CRASH_TEST_ROUND"

	crashWriters = 4
)

func crashOptions(dir string) audit.Options {
	return audit.Options{
		MAC: keys, Dir: filepath.Join(dir, "audit"),
		MaxFileSize: 4000, MaxRefusalsSize: 16_000, OutboxBound: 1_000_000,
	}
}

// crashChild makes changes and is refused, in some goroutines, until it is killed or
// kills itself. Each line of its output is an acknowledged change.
func crashChild(dir string) int {
	ctx := context.Background()
	store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	o := crashOptions(dir)
	o.Outbox = store
	if at := os.Getenv(crashStepVariable); at != "" {
		o = o.WithStep(killAt(at))
	}
	log, err := audit.Open(ctx, o)
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s-%d-%d", os.Getenv(crashRoundVariable), w, i)
				note, err := log.Note(audit.Event{Request: audit.Request{User: "admin", RequestID: id}, Slot: "c/a"})
				if err == nil {
					_, err = store.Commit(ctx, note, keystore.Op{Slot: keystore.Slot{Collection: "c", ID: strconv.Itoa(w)}})
				}
				if err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("changed", id) // one write call: lines are whole
				log.Refuse(audit.Refusal{Request: audit.Request{RequestID: id}, Operation: id, Outcome: "unauthenticated"})
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	return 1
}

// killAt ends the process at a step, the Nth time it comes to it.
func killAt(at string) func(string) error {
	fields := strings.Fields(at)
	left, err := strconv.Atoi(fields[2])
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	return func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if step == fields[0]+" "+fields[1] {
			if left--; left == 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // not a step further
			}
		}
		return nil
	}
}

// TestKillAtSteps ends a process at every step of writing, and TestKill at any
// moment, each again and again on the same data. Afterwards every change that was
// acknowledged has exactly one line, in a chain that is whole.
func TestKillAtSteps(t *testing.T) {
	t.Parallel()
	var steps []string
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		for _, step := range audit.Steps() {
			if stream == audit.Changes && step == "remove" {
				continue // of changes no file is removed
			}
			times := kit.Effort(1, 20)
			if strings.HasPrefix(step, "r") || stream == audit.Refusals {
				times = min(times, 5) // a child makes few files, and few groups of refusals, while it has time
			}
			for n := range times {
				steps = append(steps, fmt.Sprintf("%s %s %d", stream, step, n+1))
			}
		}
	}
	rand.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	killEach(t, steps)
	kit.Count(t, "audit kills at steps", len(steps))
}

func TestKill(t *testing.T) {
	t.Parallel()
	kills := kit.Effort(8, 600)
	killEach(t, make([]string, kills))
	kit.Count(t, "audit kills", kills)
}

// killEach kills a child at each step, ten times on the same data: all of it is
// verified after each kill. An empty step is any moment.
func killEach(t *testing.T, steps []string) {
	t.Helper()
	all := 0
	for some := range slices.Chunk(steps, 10) {
		dir, acknowledged := t.TempDir(), map[string]bool{}
		for round, step := range some {
			killOnce(t, dir, fmt.Sprint("k", round), step, acknowledged)
		}
		wantAcknowledged(t, dir, acknowledged)
		all += len(acknowledged)
	}
	if all == 0 {
		t.Error("nothing was acknowledged: the kills hit nothing")
	}
}

// killOnce runs a child until it is dead and notes what it acknowledged.
func killOnce(t *testing.T, dir, round, step string, acknowledged map[string]bool) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), crashDirVariable+"="+dir, crashRoundVariable+"="+round, crashStepVariable+"="+step)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(30*time.Second, func() { _ = child.Process.Kill() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch what, id, _ := strings.Cut(lines.Text(), " "); {
		case what == "ready" && step == "":
			time.AfterFunc(time.Duration(rand.Int64N(int64(700*time.Millisecond))), func() { _ = child.Process.Kill() })
		case what == "ready":
		case what == "changed":
			acknowledged[id] = true
		default:
			t.Errorf("the child says: %s", lines.Text())
		}
	}
	var exit *exec.ExitError
	if err := child.Wait(); !errors.As(err, &exit) || exit.String() != "signal: killed" {
		t.Fatalf("the child was to be killed while it worked: %v", err)
	}
	if !timeout.Stop() {
		t.Fatalf("the child never came to %s", step)
	}
	// Also before anybody repairs anything the files are what the store says.
	if found := problems(t, dir, keys, filepath.Join(dir, "audit")); len(found) > 0 {
		t.Fatalf("after %q: %q", step, found)
	}
}

// wantAcknowledged lets a start repair what there is and looks at the lines.
func wantAcknowledged(t *testing.T, dir string, acknowledged map[string]bool) {
	t.Helper()
	tr := &trail{t: t, dir: dir, said: &kit.Buffer{}, o: crashOptions(dir)}
	tr.open()
	tr.close()
	tr.wantWhole()
	seen := map[string]bool{}
	for i, l := range tr.lines(audit.Changes) {
		if l.Seq != uint64(i+1) || l.Event == "broken" {
			t.Fatalf("line %d: %+v", i+1, l)
		}
		if l.Event == "begin" {
			continue
		}
		if seen[l.RequestID] {
			t.Errorf("%s has two lines", l.RequestID)
		}
		seen[l.RequestID] = true
	}
	for id := range acknowledged {
		if !seen[id] {
			t.Errorf("%s was acknowledged and has no line", id)
		}
	}
	total := int64(0)
	for _, name := range tr.files(audit.Refusals) {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 16_000 {
		t.Errorf("refusals take %d bytes of 16,000", total)
	}
	t.Logf("%d acknowledged, %d lines in %d files", len(acknowledged), len(seen), len(tr.files(audit.Changes)))
}

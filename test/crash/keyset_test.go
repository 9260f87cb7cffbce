package crash_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// keysetCommand runs a keyset command on a data directory.
func keysetCommand(t *testing.T, dataDir, verb string) (string, error) {
	t.Helper()
	out, err := exec.Command(start.Binary(t), "keyset", verb, "--data-dir", dataDir).CombinedOutput()
	return string(out), err
}

// wantRetired wants the keyset to be rotated and retired to the end: one key opens
// records, and every other one has the lines of its end.
func wantRetired(t *testing.T, what, dataDir string) {
	t.Helper()
	out, err := keysetCommand(t, dataDir, "retire")
	if err != nil || strings.Count(out, "primary") != 1 || strings.Contains(out, "opens older records") || strings.Contains(out, "wait") {
		t.Errorf("%s: %v %s", what, err, out)
	}
	if out, err := auditVerify(dataDir); err != nil {
		t.Errorf("%s: %v %s", what, err, out)
	}
	lines, err := auditLines(dataDir, "changes")
	if err != nil {
		t.Fatal(err)
	}
	ended := map[string]bool{}
	for _, l := range lines {
		if strings.HasPrefix(l.Operation, "keyset.") {
			for id := range strings.FieldsSeq(l.FromKey) {
				ended[l.Operation+id] = true
			}
		}
	}
	for line := range strings.Lines(out) {
		if id, use, _ := strings.Cut(strings.TrimSpace(line), "  "); use == "verifies older lines" && (!ended["keyset.rotate"+id] || !ended["keyset.retire"+id]) {
			t.Errorf("%s: key %s ended without a line: %v", what, id, ended)
		}
	}
}

// TestKillWhileKeysChange ends the service with SIGKILL while eight writers work on it,
// and keys are rotated and retired. After each: every stored key opens and is that of
// its CSR or certificate, what was acknowledged is there, and the trail fits the store.
func TestKillWhileKeysChange(t *testing.T) {
	t.Parallel()
	kills := kit.Effort(8, 300)
	o := start.Options{Binary: start.Binary(t), Config: start.Config(t, ""), DataDir: filepath.Join(t.TempDir(), "data")}
	start.CopyData(t, start.Prepare(t, start.Options{Binary: o.Binary, Config: o.Config}), o.DataDir)
	before, err := inspectCopy(t, o.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	all := writers(t, before.stored)
	changed := map[string]int{}
	for n := range kills {
		s := start.Serve(t, o)
		var operator sync.WaitGroup
		operator.Go(func() {
			for i := n; ; i++ {
				verb := []string{"rotate", "retire"}[i%2]
				select {
				case <-s.Exited:
					return
				default:
				}
				if out, err := exec.Command("attestcsr", "keyset", verb, "--data-dir", o.DataDir).CombinedOutput(); err == nil {
					changed[verb]++
				} else if !strings.Contains(string(out), "the running service") {
					t.Errorf("keyset %s: %s", verb, out) // the service did not end under it
				}
			}
		})
		workUntil(t, s, all, n%4*8, time.Duration(100+n*37%400)*time.Millisecond, s.Kill)
		operator.Wait()
		quiet(t, fmt.Sprint("kill ", n), s)
		found, err := inspectCopy(t, o.DataDir)
		if err != nil {
			t.Fatalf("after kill %d: %v", n, err)
		}
		for _, w := range all {
			w.settle(t, found)
		}
		if t.Failed() {
			t.Fatalf("after kill %d", n)
		}
	}
	wantRetired(t, "in the end", o.DataDir)
	if changed["rotate"] == 0 || changed["retire"] == 0 {
		t.Errorf("%v", changed)
	}
	kit.Count(t, "kills while keys changed", kills)
}

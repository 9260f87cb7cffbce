package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// Writing that fails loses nothing and is logged once. Beyond the bound of the outbox
// changes are refused until it works again.
func TestFailingWrites(t *testing.T) {
	t.Parallel()
	for _, step := range audit.Steps()[:4] {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			var fired atomic.Int64
			tr := newTrail(t, failAt("changes "+step, &fired, failing.Load), func(o *audit.Options) { o.OutboxBound = 5 })
			failing.Store(true)
			tr.changes(4)
			// What comes after the flush fails once: the lines are durable then.
			again := step == "write" || step == "written"
			kit.Eventually(t, "attempts failed", func() bool { return fired.Load() >= 2 || !again && fired.Load() == 1 })
			if again {
				if err := tr.log.Admit(t.Context()); err != nil {
					t.Errorf("refused with 4 of 5 notes: %v", err)
				}
				tr.changes(1)
				if err := tr.log.Admit(t.Context()); !errors.Is(err, audit.ErrBacklog) {
					t.Errorf("admitted with 5 of 5 notes: %v", err)
				}
			}
			failing.Store(false)
			tr.flush()
			if err := tr.log.Admit(t.Context()); err != nil {
				t.Errorf("refused after recovery: %v", err)
			}
			tr.changes(1)
			tr.close()
			tr.wantChanges()
			tr.wantWhole()
			said := tr.said.String()
			if strings.Count(said, "cannot be written") != 1 || strings.Count(said, "is written again") != 1 {
				t.Errorf("the log says\n%s", said)
			}
		})
	}
}

// TestLag: the age of the oldest change that waits is a metric, and 0 once all are written.
func TestLag(t *testing.T) {
	t.Parallel()
	var failing atomic.Bool
	var ahead atomic.Int64 // of the clock of the trail, in hours
	tr := newTrail(t, failAt("changes write", new(atomic.Int64), failing.Load), func(o *audit.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load()) * time.Hour) }
	})
	lag := func() time.Duration {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(tr.log.Collectors()...)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "attestcsr_audit_lag_seconds" {
				return time.Duration(f.GetMetric()[0].GetGauge().GetValue() * float64(time.Second))
			}
		}
		t.Fatal("no metric")
		return 0
	}
	failing.Store(true)
	tr.changes(2)
	ahead.Store(3)
	if got := lag(); got < 3*time.Hour || got > 4*time.Hour {
		t.Errorf("the lag is %s, three hours after the change", got)
	}
	failing.Store(false)
	tr.flush()
	kit.Eventually(t, "nothing waits", func() bool { return lag() == 0 })
}

// faultyOutbox makes every other Trim fail, in turn without and with its effect.
type faultyOutbox struct {
	outbox
	trims *atomic.Int64
}

type outbox = audit.Outbox

func (f faultyOutbox) Trim(ctx context.Context, through uint64, anchors map[string][]byte) error {
	unknown := fmt.Errorf("%w: %w", keystore.ErrOutcomeUnknown, errInjected)
	n := f.trims.Add(1) % 4
	if n == 1 {
		return unknown
	}
	err := f.outbox.Trim(ctx, through, anchors)
	if err == nil && n == 3 {
		return unknown
	}
	return err
}

// A commit of the anchor that fails, whether it happened or not, neither loses nor
// doubles a line, also over a restart right after it.
func TestFailingAnchors(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles)
	var trims atomic.Int64
	for range kit.Effort(3, 30) {
		tr.close()
		tr.wrap = func(o audit.Outbox) audit.Outbox { return faultyOutbox{o, &trims} }
		tr.open()
		for range 3 {
			tr.changes(4)
			before := trims.Load()
			kit.Eventually(t, "the anchor is tried", func() bool { return trims.Load() > before })
		}
		tr.close() // which tries once more
		tr.wantWhole()
		tr.wrap = nil
		tr.open()
	}
	tr.changes(3)
	tr.close()
	tr.wantChanges()
	tr.wantWhole()
	if trims.Load() < 6 {
		t.Errorf("%d trims", trims.Load())
	}
}

// Another process, or the operator, takes the file away while it is in use.
func TestFileTakenAway(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, file string){
		"removed": func(t *testing.T, file string) {
			kit.Remove(t, "", file)
		},
		"rotated by others": func(t *testing.T, file string) {
			if err := os.Rename(file, file+".1"); err != nil {
				t.Fatal(err)
			}
			write(t, file, nil)
		},
		"cut": func(t *testing.T, file string) {
			if err := os.Truncate(file, 300); err != nil {
				t.Fatal(err)
			}
		},
		"appended to": func(t *testing.T, file string) {
			write(t, file, append(kit.Read(t, "", file), "more\n"...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.changes(3)
			tr.flush()
			damage(t, tr.files(audit.Changes)[0])
			tr.changes(2)
			tr.flush()
			tr.wantContinued(5, 4, 5)
			found := tr.verify()
			if len(found) == 0 || !strings.Contains(found[len(found)-1], "changes-000002.jsonl:1: the service found the trail damaged") {
				t.Errorf("found %q", found)
			}
			if n := strings.Count(tr.said.String(), "is damaged"); n != 1 {
				t.Errorf("the log says %s", tr.said)
			}
		})
	}
}

// The line that says that a file was damaged is written in the end, whatever fails
// meanwhile: writing it, or the commit of the anchor that comes first. Also over a
// restart.
func TestOpeningIsWritten(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"write", "trimmed"} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fails, restart %t", step, restart), func(t *testing.T) {
				t.Parallel()
				var works atomic.Bool
				var fired atomic.Int64
				said := &kit.Buffer{}
				tr := newTrail(t,
					func(o *audit.Options) { o.Logger = slog.New(slog.NewTextHandler(said, nil)) },
					failAt("changes "+step, &fired, func() bool { return !works.Load() && strings.Contains(said.String(), "is damaged") }))
				tr.changes(3)
				tr.flush()
				kit.Remove(t, "", tr.files(audit.Changes)[0])
				tr.changes(1)
				kit.Eventually(t, "the failure", func() bool { return fired.Load() > 0 })
				tr.changes(1)
				if restart {
					tr.close()
					works.Store(true)
					tr.open()
				}
				works.Store(true)
				tr.flush()
				tr.close()
				tr.wantContinued(5, 4, 5)
				if n := len(tr.files(audit.Changes)); n != 1 {
					t.Errorf("%d files", n)
				}
			})
		}
	}
}

package audit_test

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles)
	tr.wantWhole()
	tr.changes(30)
	tr.flush()
	tr.wantChanges()
	tr.wantWhole()
	if n := len(tr.files(audit.Changes)); n < 4 {
		t.Errorf("%d files of 2,000 bytes", n)
	}
	for _, name := range tr.files(audit.Changes) {
		info, err := os.Stat(name)
		if err != nil || info.Size() > 2000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	if info, err := os.Stat(tr.o.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
	// The next life goes on where this one ended.
	tr.restart()
	tr.wantWhole()
	tr.changes(3)
	tr.close()
	tr.wantChanges()
	tr.wantWhole()
	if said := tr.said.String(); said != "" {
		t.Errorf("the log says %s", said)
	}
}

// A note that cannot be read does not end the trail.
func TestUnreadableNote(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	if err := tr.store.keys.Note(t.Context(), []byte(`{"v":2,"event":"begin"}`)); err != nil {
		t.Fatal(err)
	}
	tr.changes(1)
	tr.close()
	lines := tr.lines(audit.Changes)
	if len(lines) != 3 || lines[1].Outcome != "unreadable" || lines[1].Revision == 0 || lines[2].RequestID != "r1" {
		t.Errorf("%+v", lines)
	}
	tr.wantWhole()
	if !strings.Contains(tr.said.String(), "not to be believed or read") {
		t.Errorf("the log says %s", tr.said)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(tr.log.Collectors()...)
	for range 3 {
		tr.log.Refuse(refusal("", "192.0.2.1", "unauthenticated"))
	}
	tr.changes(4)
	tr.signatures(2)
	tr.flush()
	want := `
# HELP attestcsr_audit_events_total Lines written to the audit trail, without those that open a file.
# TYPE attestcsr_audit_events_total counter
attestcsr_audit_events_total{stream="changes"} 4
attestcsr_audit_events_total{stream="refusals"} 1
attestcsr_audit_events_total{stream="signatures"} 2
# HELP attestcsr_audit_export_failures_total Attempts to write the audit trail that failed.
# TYPE attestcsr_audit_export_failures_total counter
attestcsr_audit_export_failures_total{stream="changes"} 0
attestcsr_audit_export_failures_total{stream="refusals"} 0
attestcsr_audit_export_failures_total{stream="signatures"} 0
# HELP attestcsr_audit_lag_seconds Age of the oldest change that is not in the audit trail yet; 0 where none waits.
# TYPE attestcsr_audit_lag_seconds gauge
attestcsr_audit_lag_seconds 0
# HELP attestcsr_audit_outbox_notes Changes that are not in the audit trail yet; they wait in the store.
# TYPE attestcsr_audit_outbox_notes gauge
attestcsr_audit_outbox_notes 0
`
	kit.Eventually(t, "the metrics", func() bool { return testutil.GatherAndCompare(registry, strings.NewReader(want)) == nil })
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	var off *audit.Log
	if off.Collectors() != nil || off.Admit(t.Context()) != nil || off.AdmitSignature(t.Context()) != nil || off.Close(t.Context()) != nil {
		t.Error("a nil Log does something")
	}
	off.Refuse(audit.Refusal{})
}

// Verify beside a service that writes, rotates and lets old files go.
func TestVerifyWhileRunning(t *testing.T) {
	t.Parallel()
	tr := newTrail(t, smallFiles, func(o *audit.Options) { o.MaxRefusalsSize, o.MaxSignaturesSize = 6000, 6000 })
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				tr.changes(1)
				tr.signatures(1)
				tr.log.Refuse(audit.Refusal{Request: audit.Request{RequestID: "x"}, Operation: strings.Repeat("o", i%50), Outcome: strings.Repeat("x", i/50)})
			}
		}
	})
	runs := 0
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && (runs < 40 || len(tr.files(audit.Changes)) < 8); runs++ {
		tr.wantWhole()
	}
	close(stop)
	writer.Wait()
	tr.close()
	tr.wantWhole()
	tr.wantChanges()
	tr.wantSignatures()
	if len(tr.files(audit.Changes)) < 8 {
		t.Errorf("%d changes in %d files", tr.n, len(tr.files(audit.Changes)))
	}
	kit.Count(t, "verifications beside a writer", runs)
}

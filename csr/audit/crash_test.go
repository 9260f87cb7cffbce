package audit_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// A process that ends at any step of writing, the Nth time that it comes there, loses
// no change and doubles none: from that step on nothing is written, and the next start
// goes on from what is there. The kills of the real process are in test/crash.
func TestEndAtSteps(t *testing.T) {
	t.Parallel()
	for _, stream := range audit.Streams() {
		for _, step := range audit.Steps() {
			if stream == audit.Changes && step == "remove" || step == "listed" {
				continue // of changes no file is removed; see TestEndWhileAccepting
			}
			t.Run(stream+" "+step, func(t *testing.T) {
				t.Parallel()
				tr := newTrail(t, smallFiles, func(o *audit.Options) { o.MaxRefusalsSize, o.MaxSignaturesSize = 8000, 8000 })
				ends := kit.Effort(3, 20)
				for n := range ends {
					endAt(t, tr, stream+" "+step, int64(n+1))
				}
				kit.Count(t, "ends of the audit trail at steps", ends)
				tr.close()
				tr.wantChanges()
				tr.wantSignatures()
				tr.wantWhole()
				if said := tr.said.String(); strings.Contains(said, "damaged") {
					t.Errorf("the log says %s", said)
				}
				for _, bounded := range []string{audit.Refusals, audit.Signatures} {
					total := int64(0)
					for _, name := range tr.files(bounded) {
						info, err := os.Stat(name)
						if err != nil {
							t.Fatal(err)
						}
						total += info.Size()
					}
					if total > 8000 {
						t.Errorf("%s take %d bytes of 8,000", bounded, total)
					}
				}
			})
		}
	}
}

// endAt ends the trail at a step, the Nth time that it comes there, and starts it again.
func endAt(t *testing.T, tr *trail, step string, n int64) {
	t.Helper()
	tr.close()
	var left atomic.Int64
	left.Store(n)
	var ended atomic.Bool
	whole := tr.o
	tr.o = tr.o.WithStep(func(at string) error {
		if at == step && left.Add(-1) == 0 {
			ended.Store(true)
		}
		if ended.Load() {
			return errInjected
		}
		return nil
	})
	tr.wrap = func(o audit.Outbox) audit.Outbox { return endedOutbox{o, &ended} }
	tr.open()
	for i := 0; !ended.Load(); i++ {
		tr.changes(2)
		tr.signatures(3)
		tr.changes(2)
		for j := range 8 {
			tr.log.Refuse(refusal("", fmt.Sprint(i, j), strings.Repeat("x", 100)))
		}
		tr.flushUnless(&ended)
		if i == 200 {
			t.Fatalf("it never comes to %s", step)
		}
	}
	tr.close()
	tr.wantWhole() // also before anybody repairs anything
	tr.o, tr.wrap = whole, nil
	tr.open()
}

// endedOutbox takes nothing once the trail has ended.
type endedOutbox struct {
	outbox
	ended *atomic.Bool
}

func (e endedOutbox) Trim(ctx context.Context, through uint64, anchors map[string][]byte) error {
	if e.ended.Load() {
		return errInjected
	}
	return e.outbox.Trim(ctx, through, anchors)
}

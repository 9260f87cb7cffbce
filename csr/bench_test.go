package csr_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
)

// BenchmarkGet is a read as the API does it: one snapshot read and a decode.
func BenchmarkGet(b *testing.B) {
	service := newBench(b)
	service.create(b, fullSpec())
	grant := service.grant(b, csr.GetCSR)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := grant.CSR(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// readyKeys is a custodian whose keys were made before they are asked for.
type readyKeys struct {
	keystore.Custodian
	ready []keystore.Key
}

func (r *readyKeys) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	if len(r.ready) == 0 {
		return r.Custodian.Generate(ctx, spec)
	}
	key := r.ready[0]
	r.ready = r.ready[1:]
	return key, nil
}

// BenchmarkAuditedCreate is a create with a ready RSA key, on two stores in turn: one
// without the audit trail, which is the floor, and one with it. What counts is the
// ratio of the medians; time per iteration is that of both.
func BenchmarkAuditedCreate(b *testing.B) {
	var custodians [2]*readyKeys
	var services [2]bench
	for i := range services {
		services[i] = openBench(b, b.TempDir(), func(c keystore.Custodian) keystore.Custodian {
			custodians[i] = &readyKeys{Custodian: c}
			return custodians[i]
		})
	}
	log, err := audit.Open(b.Context(), audit.Options{Outbox: services[1].store, MAC: auditKey{}, Dir: b.TempDir() + "/audit"})
	if err != nil {
		b.Fatal(err)
	}
	services[1] = services[1].with(b, func(c *csr.Config) { c.Audit = log })
	var took [2][]float64
	for b.Loop() {
		b.StopTimer()
		for _, c := range custodians {
			key, err := c.Custodian.Generate(b.Context(), keystore.KeySpec{Algorithm: keystore.RSA, Bits: 2048})
			if err != nil {
				b.Fatal(err)
			}
			c.ready = append(c.ready, key)
		}
		b.StartTimer()
		for i, s := range services {
			begun := time.Now()
			s.create(b, fullSpec())
			took[i] = append(took[i], float64(time.Since(begun).Microseconds()))
		}
	}
	var p50 [2]float64
	for i, all := range took {
		slices.Sort(all)
		p50[i] = all[len(all)/2]
	}
	b.ReportMetric(p50[0], "floor-µs")
	b.ReportMetric(p50[1], "audited-µs")
	b.ReportMetric(p50[1]/p50[0], "ratio")
	if err := log.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

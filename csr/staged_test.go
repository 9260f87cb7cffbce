package csr_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// rollover is a service whose certificates wait, with a clock and a trail.
type rollover struct {
	*audited
	clock *kit.Clock
	root  *kit.CA
	base  uint64 // revision of the store when the trail began
	said  *kit.Buffer
}

const (
	activateAfter = time.Hour
	retain        = 3 * time.Hour
)

func newRollover(t *testing.T) *rollover {
	t.Helper()
	clock := kit.NewClock()
	b := newBench(t)
	evidence, err := b.keys.Inspect(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := &rollover{newAuditedOver(t, b), clock, kit.NewCA(t, "root", clock.Now()), evidence.Revision, &kit.Buffer{}}
	r.restart(t)
	return r
}

// restart is a service over the same store, which knows nothing of the one before.
func (r *rollover) restart(t *testing.T) {
	t.Helper()
	r.bench = r.with(t, func(c *csr.Config) {
		c.Audit, c.Now, c.ActivateAfter = r.log, r.clock.Now, activateAfter
		c.Publish = csr.Publish{Enabled: true, Retain: retain}
		c.Logger = slog.New(slog.NewTextHandler(r.said, nil))
	})
}

// issue makes a CSR and a certificate for it.
func (r *rollover) issue(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	return r.root.Issue(t, name, parseRequest(t, r.create(t, pkcs10.Spec{})).PublicKey)
}

func (r *rollover) mustSet(t *testing.T, c *x509.Certificate) {
	t.Helper()
	if err := r.set(t, c); err != nil {
		t.Fatal(err)
	}
}

// wantActive wants a certificate to be the installed one, and its key to sign as a
// version. nil: the one that was made at the start.
func (r *rollover) wantActive(t *testing.T, c *x509.Certificate, version int) {
	t.Helper()
	if c != nil && r.certificate(t) != kit.PEM(c) {
		t.Errorf("another certificate is installed than %s", c.Subject)
	}
	info, err := r.key(t, csr.KeyName{})
	if err != nil || info.Latest != version {
		t.Errorf("version %d, %v, want %d", info.Latest, err, version)
	}
}

// wantStates wants the published keys to have these states, in this order.
func (r *rollover) wantStates(t *testing.T, want ...csr.KeyState) {
	t.Helper()
	set, err := r.Published(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []csr.KeyState
	for _, k := range set.Keys {
		got = append(got, k.State)
		if k.KeyID == "" || k.Public == nil || (k.State == csr.StatePending) != (k.Certificate == "") {
			t.Errorf("%+v", k)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("published %v, want %v", got, want)
	}
}

// activate wants nothing to be due, or the certificate of a set to become active.
func (r *rollover) activate(t *testing.T, due time.Time) {
	t.Helper()
	next, err := r.Activate(t.Context())
	if err != nil || !next.Equal(due) {
		t.Errorf("the next is due at %v, %v, want %v", next, err, due)
	}
}

// wantWhole ends the trail and compares it with the store.
func (r *rollover) wantWhole(t *testing.T) {
	t.Helper()
	if err := r.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	state := func(ctx context.Context, fn func(string, uint64, [32]byte, error) error) (audit.Snapshot, error) {
		e, err := r.keys.Inspect(ctx, func(slot keystore.Slot, revision uint64, digest [32]byte, err error) error {
			if revision <= r.base {
				return nil
			}
			return fn(slot.String(), revision, digest, err)
		})
		return audit.Snapshot{Revision: e.Revision, Head: e.Head, Anchors: e.Anchors}, err
	}
	found, err := audit.Verify(t.Context(), audit.VerifyOptions{
		Dirs: []string{r.dir}, MAC: auditKey{}, Snapshot: func(ctx context.Context) (audit.Snapshot, error) { return audit.Take(ctx, state) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range found {
		if len(s.Problems) > 0 {
			t.Errorf("%s", s)
		}
	}
}

// A certificate is staged until its time has come: until then the old one is shown and
// signs. The pair that is replaced is remembered for its time.
func TestStaged(t *testing.T) {
	t.Parallel()
	r := newRollover(t)
	r.wantStates(t, csr.StateInstalled)
	made := r.clock.Now()
	first := r.issue(t, "first")
	r.wantStates(t, csr.StatePending, csr.StateInstalled)
	r.clock.Advance(10 * time.Minute)
	due := made.Add(activateAfter + time.Second)
	if report := r.check(t, first); !report.Accepted || report.Key != csr.PendingKey || !report.Due.Equal(due) || report.Staged != nil {
		t.Errorf("%+v", report)
	}
	r.mustSet(t, first)
	if said := r.said.String(); !strings.Contains(said, "slot=esx/attestation/staged ") || !strings.Contains(said, "active="+due.Format(time.RFC3339)) {
		t.Errorf("the log says %s", said)
	}
	r.wantActive(t, nil, 1)
	r.wantStates(t, csr.StateStaged, csr.StateInstalled)
	if report := r.check(t, first); report.Key != csr.StagedKey || !report.Unchanged || report.Staged == nil || !report.Staged.Due.Equal(due) || !report.Staged.Since.Equal(r.clock.Now()) {
		t.Errorf("%+v", report)
	}
	r.activate(t, due)
	r.restart(t)
	r.clock.Advance(due.Sub(r.clock.Now()) - time.Millisecond)
	r.activate(t, due)
	r.wantActive(t, nil, 1)
	r.clock.Advance(time.Millisecond)
	r.activate(t, time.Time{})
	r.wantActive(t, first, 2)
	r.wantStates(t, csr.StateInstalled, csr.StateRetired)
	r.activate(t, time.Time{})

	r.clock.Advance(retain)
	r.wantStates(t, csr.StateInstalled)
	// A CSR that is old enough needs no waiting, and the record that has expired goes.
	second := r.issue(t, "second")
	r.clock.Advance(activateAfter + time.Second)
	r.mustSet(t, second)
	r.wantActive(t, second, 3)
	r.wantStates(t, csr.StateInstalled, csr.StateRetired)
	if n, err := r.keys.Count(t.Context(), "esx/retired"); n != 1 || err != nil {
		t.Errorf("%d replaced keys are remembered, %v", n, err)
	}
	r.wantWhole(t)
}

func (r *rollover) check(t *testing.T, c *x509.Certificate) csr.Report {
	t.Helper()
	report, err := r.grant(csr.CheckCertificate).CheckCertificate(t.Context(), pemOf(c))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// What happens while one is staged.
func TestWhileStaged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do     func(t *testing.T, r *rollover, staged *x509.Certificate) *x509.Certificate // returns what becomes active
		states []csr.KeyState
	}{
		"the same again": {func(t *testing.T, r *rollover, staged *x509.Certificate) *x509.Certificate {
			r.mustSet(t, staged)
			return staged
		}, []csr.KeyState{csr.StateStaged, csr.StateInstalled}},
		"another for its key": {func(t *testing.T, r *rollover, staged *x509.Certificate) *x509.Certificate {
			again := r.root.Issue(t, "again", staged.PublicKey)
			r.mustSet(t, again)
			return again
		}, []csr.KeyState{csr.StateStaged, csr.StateInstalled}},
		"a create": {func(t *testing.T, r *rollover, staged *x509.Certificate) *x509.Certificate {
			r.create(t, pkcs10.Spec{})
			return staged
		}, []csr.KeyState{csr.StatePending, csr.StateStaged, csr.StateInstalled}},
		"one for a newer CSR": {func(t *testing.T, r *rollover, _ *x509.Certificate) *x509.Certificate {
			newer := r.issue(t, "newer")
			r.mustSet(t, newer)
			return newer
		}, []csr.KeyState{csr.StateStaged, csr.StateInstalled}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRollover(t)
			staged := r.issue(t, "staged")
			r.mustSet(t, staged)
			r.clock.Advance(time.Minute)
			active := c.do(t, r, staged)
			r.wantStates(t, c.states...)
			r.wantActive(t, nil, 1)
			r.clock.Advance(2 * activateAfter)
			r.activate(t, time.Time{})
			r.wantActive(t, active, 2)
			if !pkcs10.SameKey(active.PublicKey, staged.PublicKey) {
				if err := r.set(t, staged); !isMismatch(err) {
					t.Errorf("the key of the pair that was replaced still takes a certificate: %v", err)
				}
			}
			r.wantWhole(t)
		})
	}
}

// A renewal of the installed key is taken while another is staged, and keeps its version.
func TestRenewalWhileStaged(t *testing.T) {
	t.Parallel()
	r := newRollover(t)
	first := r.issue(t, "first")
	r.clock.Advance(activateAfter + time.Second)
	r.mustSet(t, first)
	r.wantActive(t, first, 2)
	next := r.issue(t, "next")
	r.mustSet(t, next)
	renewal := r.root.Issue(t, "renewal", first.PublicKey)
	r.mustSet(t, renewal)
	r.wantActive(t, renewal, 2)
	r.wantStates(t, csr.StateStaged, csr.StateInstalled, csr.StateRetired)
	r.clock.Advance(activateAfter + time.Second)
	r.activate(t, time.Time{})
	r.wantActive(t, next, 3)
	r.wantWhole(t)
}

func TestUnstage(t *testing.T) {
	t.Parallel()
	r := newRollover(t)
	if err := r.Unstage(t.Context(), audit.Request{User: "uid:0"}); kindOf(err) != csr.NotFound {
		t.Errorf("nothing is staged: %v", err)
	}
	staged := r.issue(t, "staged")
	r.mustSet(t, staged)
	if err := r.Unstage(t.Context(), audit.Request{User: "uid:0", Method: "control"}); err != nil {
		t.Fatal(err)
	}
	r.wantStates(t, csr.StateInstalled)
	r.clock.Advance(2 * activateAfter)
	r.activate(t, time.Time{})
	r.wantActive(t, nil, 1)
	if err := r.set(t, staged); !isMismatch(err) {
		t.Errorf("the key is not destroyed: %v", err)
	}
	r.wantWhole(t)
	lines := r.stream(t, audit.Changes)
	if last := lines[len(lines)-1]; last.Operation != "certificate.unstage" || last.User != "uid:0" || last.Certificate == "" {
		t.Errorf("%+v", last)
	}
}

// The time counts from when everybody could see the key: from the commit, or after a
// restart from a minute after the CSR was made or the start, whichever was first.
func TestActivationCountsFromTheCommit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		between func(*testing.T, *rollover)
		later   time.Duration // than the CSR's time
	}{
		"at once":            {func(*testing.T, *rollover) {}, 0},
		"restart":            {func(t *testing.T, r *rollover) { r.clock.Advance(time.Second); r.restart(t) }, time.Second},
		"restart long after": {func(t *testing.T, r *rollover) { r.clock.Advance(time.Hour); r.restart(t) }, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRollover(t)
			made := r.clock.Now()
			issued := r.issue(t, "x")
			c.between(t, r)
			if due := r.check(t, issued).Due; !due.Equal(made.Add(c.later + activateAfter + time.Second)) {
				t.Errorf("due %v after the CSR", due.Sub(made))
			}
		})
	}
	// The commit takes its time.
	r := newRollover(t)
	made := r.clock.Now()
	slow := func() error { r.clock.Advance(40 * time.Second); return nil }
	r.store.onCommit.Store(&slow)
	issued := r.issue(t, "x")
	r.store.onCommit.Store(nil)
	if due := r.check(t, issued).Due; !due.Equal(made.Add(40*time.Second + activateAfter + time.Second)) {
		t.Errorf("due %v after the CSR", due.Sub(made))
	}
}

// A set that comes from a change at the same moment is never served later.
func TestPublishedIsForgotten(t *testing.T) {
	t.Parallel()
	r := newRollover(t)
	one, err := r.Published(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if two, err := r.Published(t.Context()); err != nil || one != two {
		t.Errorf("the set is made again: %v", err)
	}
	// Somebody reads, and another commits before the reader keeps the set.
	r.create(t, pkcs10.Spec{})
	r.afterLook(csr.InstalledSlot(), func() error {
		return r.grant(csr.DeleteCSR).DeleteCSR(t.Context())
	})
	r.wantStates(t, csr.StatePending, csr.StateInstalled) // as it was when the read began
	r.wantStates(t, csr.StateInstalled)

	off := r.with(t, func(*csr.Config) {})
	if _, err := off.Published(t.Context()); kindOf(err) != csr.NotFound {
		t.Errorf("publishing is off: %v", err)
	}
}

// Keys of named certificates are published where the settings name them.
func TestPublishedNames(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	leaf := b.namedKey(t, "leaf", pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "l"}}})
	other := b.namedKey(t, "other", pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "o"}}})
	authority := b.namedKey(t, "authority", pkcs10.Spec{CA: true, Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "ca"}}})
	b = b.with(t, func(c *csr.Config) {
		c.Publish = csr.Publish{Enabled: true, Retain: time.Hour, NSX: []string{leaf.NSX, authority.NSX, "none"}}
	})
	set, err := b.Published(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]csr.KeyState{}
	for _, k := range set.Keys {
		ids[k.KeyID] = k.State
	}
	info, err := b.key(t, leaf)
	if err != nil || len(ids) != 2 || ids[info.Versions[0].KeyID] != csr.StateNamed {
		t.Errorf("%v, %v", ids, err)
	}
	if info, err = b.key(t, other); err != nil || ids[info.Versions[0].KeyID] != "" {
		t.Errorf("a key that nobody named is published: %v", err)
	}
	if err := b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), leaf.NSX); err != nil {
		t.Fatal(err)
	}
	if set, err = b.Published(t.Context()); err != nil || len(set.Keys) != 1 {
		t.Errorf("%+v, %v", set, err)
	}
}

// Commits that fail while a pair is replaced leave it as it was, published and signing.
func TestFailedActivation(t *testing.T) {
	t.Parallel()
	r := newRollover(t)
	staged := r.issue(t, "staged")
	r.mustSet(t, staged)
	r.clock.Advance(2 * activateAfter)
	fail := func() error { return errors.Join(keystore.ErrNotCommitted, errors.New("injected")) }
	r.store.onCommit.Store(&fail)
	if _, err := r.Activate(t.Context()); kindOf(err) != csr.Internal {
		t.Errorf("%v", err)
	}
	r.store.onCommit.Store(nil)
	r.wantActive(t, nil, 1)
	r.wantStates(t, csr.StateStaged, csr.StateInstalled)
	r.activate(t, time.Time{})
	r.wantActive(t, staged, 2)
	r.wantWhole(t)
}

// The metric of the staged certificate is there while there is one.
func TestStagedMetric(t *testing.T) {
	t.Parallel()
	r := newRollover(t)
	const name = "attestcsr_certificate_activation_timestamp_seconds"
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Collectors()...)
	if n, err := testutil.GatherAndCount(registry, name); n != 0 || err != nil {
		t.Errorf("%d times without a staged certificate, %v", n, err)
	}
	r.mustSet(t, r.issue(t, "x"))
	if n, err := testutil.GatherAndCount(registry, name); n != 1 || err != nil {
		t.Errorf("%d times with one, %v", n, err)
	}
}

package csr_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// damage gives a slot a payload that this version does not read.
func (b bench) damage(t testing.TB, slot keystore.Slot) {
	t.Helper()
	_, err := b.keys.Update(t.Context(), keystore.Target{Slot: slot}, keystore.Change{Payload: []byte("damaged"), Index: []keystore.IndexEntry{
		{Name: "display_name", Value: []byte("n")}, {Name: "created", Value: csr.Sortable(noon())}, {Name: "not_after", Value: csr.Sortable(noon())},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// A list leaves out what cannot be read, wherever it stands, and says so. It counts for
// the limit of its page, and nothing else is missing.
func TestUnreadableInLists(t *testing.T) {
	t.Parallel()
	for i, unreadable := range [][]int{{0}, {4}, {2, 3}, {0, 1, 2}, {0, 1, 2, 3, 4}} {
		b := newBench(t)
		spoil := []func(bench, testing.TB, keystore.Slot){bench.damage, bench.forge}[i%2]
		var want []string
		for i := range 5 {
			id := fmt.Sprint(i)
			b.createNamed(t, csr.NewRequest{ID: id, Labels: csr.Labels{DisplayName: "n"}, Spec: commonName("x")})
			if slices.Contains(unreadable, i) {
				spoil(b, t, csr.RequestSlot(id))
			} else {
				want = append(want, id)
			}
		}
		for _, sort := range orders() {
			for limit := 1; limit <= 6; limit++ {
				page := csr.Page{Sort: sort, Limit: limit}
				var got []string
				left := 0
				for {
					l, err := b.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(t.Context(), page)
					if read := len(l.Items) + l.Unreadable; err != nil || l.Total != 5-l.Unreadable || read > limit || l.Next != nil && read < limit {
						t.Fatalf("%v by %s, %d: %d items of %d, %d unreadable, %v", unreadable, sort, limit, len(l.Items), l.Total, l.Unreadable, err)
					}
					left += l.Unreadable
					for _, item := range l.Items {
						got = append(got, item.ID)
					}
					if page.After = l.Next; l.Next == nil {
						break
					}
				}
				if left != len(unreadable) || !slices.Equal(got, want) {
					t.Errorf("%v by %s, %d: listed %q, want %q, %d unreadable", unreadable, sort, limit, got, want, left)
				}
			}
		}
	}
}

// spoilers are the ways in which a record becomes one that cannot be read, by what the
// trail says of them.
func spoilers() map[string]func(bench, testing.TB, keystore.Slot) {
	return map[string]func(bench, testing.TB, keystore.Slot){"damaged": bench.damage, "unauthentic": bench.forge}
}

// forge leaves in a slot what it held, with a code that does not fit.
func (b bench) forge(t testing.TB, slot keystore.Slot) {
	t.Helper()
	r, err := b.store.Get(t.Context(), slot)
	if err != nil {
		t.Fatal(err)
	}
	r.Code[len(r.Code)-1] ^= 1
	if _, err := b.store.Commit(t.Context(), nil, keystore.Op{Slot: slot, Ref: r.Ref, Payload: r.Payload, Index: r.Index, Code: r.Code}); err != nil {
		t.Fatal(err)
	}
}

// An ESX record that cannot be read is not shown, and the service is not ready. A create
// replaces such a CSR, a set such a certificate, a delete removes it, and the trail says
// so. Nothing is made from such a CSR.
func TestUnreadableAttestation(t *testing.T) {
	t.Parallel()
	for why, spoil := range spoilers() {
		a := newAudited(t)
		ctx, root := t.Context(), kit.NewCA(t, "root", noon())
		issue := func(text string) []byte { return pemOf(root.Issue(t, "x", parseRequest(t, text).PublicKey)) }
		set := func(pem []byte) error { return a.grant(csr.SetCertificate).SetCertificate(ctx, pem) }
		wantReady := func(want bool) {
			t.Helper()
			if err := a.Ready(ctx); (err == nil) != want {
				t.Errorf("%s: ready: %v, want %t", why, err, want)
			}
		}
		wantInternal := func(err error) {
			t.Helper()
			if err == nil || kindOf(err) != csr.Internal {
				t.Errorf("%s: %v, want an internal error", why, err)
			}
		}
		lost := a.create(t, fullSpec())
		wantReady(true)
		spoil(a.bench, t, csr.PendingSlot())
		wantReady(false)
		wantInternal(errorOf(a.grant(csr.GetCSR).CSR(ctx)))
		wantInternal(set(issue(lost)))
		if err := a.grant(csr.DeleteCSR).DeleteCSR(ctx); err != nil {
			t.Errorf("%s: delete: %v", why, err)
		}
		wantReady(true)
		a.create(t, fullSpec())
		spoil(a.bench, t, csr.PendingSlot())
		request := a.create(t, fullSpec())
		wantReady(true)
		spoil(a.bench, t, csr.InstalledSlot())
		wantReady(false)
		wantInternal(errorOf(a.grant(csr.GetCertificate).Certificate(ctx)))
		if err := a.Prepare(ctx); err != nil { // a start goes on
			t.Errorf("%s: prepare: %v", why, err)
		}
		wantReady(false)
		if err := set(issue(request)); err != nil {
			t.Errorf("%s: set: %v", why, err)
		}
		wantReady(true)
		var replaced []string
		for _, l := range a.lines(t) {
			replaced = append(replaced, l.Operation+" "+l.Replaced)
		}
		want := []string{"csr.create ", "csr.delete " + why, "csr.create ", "csr.create " + why, "certificate.set " + why}
		if !slices.Equal(replaced, want) {
			t.Errorf("lines %q, want %q", replaced, want)
		}
	}
}

// An NSX record that cannot be read is not shown and not used. Its id is taken until it
// is deleted, and the trail says what was deleted.
func TestUnreadableNamed(t *testing.T) {
	t.Parallel()
	for why, spoil := range spoilers() {
		a := newAudited(t)
		ctx := t.Context()
		a.createNamed(t, csr.NewRequest{ID: "x", Spec: commonName("x")})
		a.createNamed(t, csr.NewRequest{ID: "y", Spec: commonName("y")})
		certificate, err := a.selfSign(t, "y", nil)
		if err != nil {
			t.Fatal(err)
		}
		spoil(a.bench, t, csr.RequestSlot("x"))
		spoil(a.bench, t, csr.CertificateSlot(certificate.ID))
		chain := pemOf(kit.NewCA(t, "root", noon()).Cert)
		for name, err := range map[string]error{
			"get":             errorOf(a.named(t, "x")),
			"import":          errorOf(a.importNamed(t, "x", csr.Import{PEM: chain})),
			"self-sign":       errorOf(a.selfSign(t, "x", nil)),
			"get certificate": errorOf(a.namedCertificate(t, certificate.ID)),
		} {
			if err == nil || kindOf(err) != csr.Internal {
				t.Errorf("%s: %s: %v", why, name, err)
			}
		}
		if _, err := a.tryNamed(t, csr.NewRequest{ID: "x", Spec: commonName("x")}); kindOf(err) != csr.Exists {
			t.Errorf("%s: create: %v", why, err)
		}
		requests, err := a.namedGrant(t, csr.ListNamedCSRs).ListNamedCSRs(ctx, csr.Page{Sort: csr.SortByID, Limit: 10})
		certificates, err2 := a.namedGrant(t, csr.ListNamedCertificates).ListNamedCertificates(ctx, csr.Page{Sort: csr.SortByCreated, Limit: 10})
		if err := errors.Join(err, err2); err != nil || len(requests.Items)+requests.Total+len(certificates.Items)+certificates.Total != 0 || requests.Unreadable*certificates.Unreadable != 1 {
			t.Errorf("%s: %+v, %+v, %v", why, requests, certificates, err)
		}
		if err := a.Ready(ctx); err != nil {
			t.Errorf("%s: %v", why, err)
		}
		err = a.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(ctx, "x")
		err2 = a.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(ctx, certificate.ID)
		if err := errors.Join(err, err2); err != nil {
			t.Errorf("%s: delete: %v", why, err)
		}
		if _, err := a.named(t, "x"); kindOf(err) != csr.NotFound {
			t.Errorf("%s: deleted: %v", why, err)
		}
		a.createNamed(t, csr.NewRequest{ID: "x", Spec: commonName("x")})
		for _, l := range a.lines(t) {
			if deletes := strings.HasSuffix(l.Operation, ".delete"); deletes && l.Replaced != why || !deletes && l.Replaced != "" {
				t.Errorf("%s: %+v", why, l)
			}
		}
	}
}

package csr_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// signer may sign with every key.
func signer() csr.Caller {
	return csr.Caller{
		Request:    audit.Request{User: "daemon", Method: "socket", RequestID: "r7", Peer: "uid=7 gid=7 pid=7"},
		Privileges: []csr.Privilege{csr.AttestationSign, csr.PolicyCertificateSign},
	}
}

func (b bench) keyGrant(t testing.TB, o csr.Operation, key csr.KeyName) *csr.Grant {
	t.Helper()
	g, err := b.AuthoriseKey(signer(), o, key)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// sign signs once, with the attestation key.
func (b bench) sign(t testing.TB, in csr.SignInput) csr.Signature {
	t.Helper()
	made, err := b.keyGrant(t, csr.SignKey, csr.KeyName{}).Sign(t.Context(), []csr.SignInput{in})
	if err != nil || len(made) != 1 {
		t.Fatalf("%+v, %v", made, err)
	}
	return made[0]
}

func (b bench) verify(t testing.TB, key csr.KeyName, version int, in csr.SignInput, signature []byte) (bool, error) {
	t.Helper()
	return b.keyGrant(t, csr.VerifyKey, key).Verify(t.Context(), version, in, signature)
}

func (b bench) key(t testing.TB, name csr.KeyName) (csr.KeyInfo, error) {
	t.Helper()
	return b.keyGrant(t, csr.ReadKey, name).Key(t.Context())
}

func input(hash crypto.Hash, scheme csr.Scheme) csr.SignInput {
	h := hash.New()
	h.Write([]byte("data"))
	return csr.SignInput{Digest: h.Sum(nil), Hash: hash, Scheme: scheme}
}

// Every scheme and hash gives signatures that Go verifies with the published key, and
// lines that say what was signed, by whom and with which key.
func TestSign(t *testing.T) {
	t.Parallel()
	a := newAuditedOver(t, openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return c }))
	curve := a.namedKey(t, "curve", pkcs10.Spec{Algorithm: pkcs10.ECDSA, Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "c"}}})
	var want []string
	for _, c := range []struct {
		key     csr.KeyName
		schemes []csr.Scheme
	}{{csr.KeyName{}, []csr.Scheme{csr.PKCS1v15, csr.PSS}}, {curve, []csr.Scheme{csr.ECDSA}}} {
		info, err := a.key(t, c.key)
		if err != nil || info.Latest != 1 || len(info.Versions) != 1 || info.Name != c.key {
			t.Fatalf("%+v, %v", info, err)
		}
		for _, scheme := range c.schemes {
			for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
				in := input(hash, scheme)
				made, err := a.keyGrant(t, csr.SignKey, c.key).Sign(t.Context(), []csr.SignInput{in})
				if err != nil || made[0].Err != nil || made[0].Version != 1 || made[0].KeyID != info.Versions[0].KeyID {
					t.Fatalf("%s %v: %+v, %v", scheme, hash, made, err)
				}
				if !verifies(info.Versions[0].Public, in, made[0].Bytes) {
					t.Errorf("%s %v: the signature does not verify", scheme, hash)
				}
				for version, flip := range map[int]byte{0: 0, 1: 0, -1: 1} {
					changed := slices.Clone(made[0].Bytes)
					changed[len(changed)-1] ^= flip
					ok, err := a.verify(t, c.key, max(0, version), in, changed)
					if err != nil || ok != (flip == 0) {
						t.Errorf("%s %v: Verify of version %d says %v, %v", scheme, hash, version, ok, err)
					}
				}
				want = append(want, fmt.Sprintf("%s %s%d %s", info.Versions[0].KeyID, map[csr.Scheme]string{csr.PKCS1v15: "RS", csr.PSS: "PS", csr.ECDSA: "ES"}[scheme],
					hash.Size()*8, hex.EncodeToString(in.Digest)))
			}
		}
	}
	if err := a.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range a.stream(t, audit.Signatures) {
		if l.Kind == audit.Signed {
			got = append(got, fmt.Sprintf("%s %s %s", l.KeyID, l.Algorithm, l.Digest))
			if l.Operation != "key.sign" || l.User != "daemon" || l.Peer != signer().Peer || l.RequestID != "r7" || l.Slot == "" {
				t.Errorf("%+v", l)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}

func verifies(public crypto.PublicKey, in csr.SignInput, signature []byte) bool {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return in.Scheme == csr.ECDSA && ecdsa.VerifyASN1(key, in.Digest, signature)
	case *rsa.PublicKey:
		if in.Scheme == csr.PSS {
			return rsa.VerifyPSS(key, in.Hash, in.Digest, signature, &rsa.PSSOptions{SaltLength: in.Hash.Size()}) == nil
		}
		return rsa.VerifyPKCS1v15(key, in.Hash, in.Digest, signature) == nil
	}
	return false
}

// namedKey makes a named certificate and returns the name of its key.
func (b bench) namedKey(t testing.TB, id string, spec pkcs10.Spec) csr.KeyName {
	t.Helper()
	b.createNamed(t, csr.NewRequest{ID: id, Spec: spec})
	made, err := b.selfSign(t, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return csr.KeyName{NSX: made.ID}
}

// What cannot be signed is refused by what is wrong with it, and leaves no line.
func TestSignRefuses(t *testing.T) {
	t.Parallel()
	a := newAuditedOver(t, newBench(t))
	authority := a.namedKey(t, "authority", pkcs10.Spec{CA: true, Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "ca"}}})
	short := input(crypto.SHA256, csr.ECDSA)
	short.Digest = short.Digest[:31]
	for name, c := range map[string]struct {
		key  csr.KeyName
		in   csr.SignInput
		kind csr.Kind
		rule pkcs10.Rule
	}{
		"short digest":          {in: short, kind: csr.Invalid, rule: pkcs10.WrongLength},
		"digest of another":     {in: csr.SignInput{Digest: make([]byte, 32), Hash: crypto.SHA512, Scheme: csr.ECDSA}, kind: csr.Invalid, rule: pkcs10.WrongLength},
		"SHA-1":                 {in: csr.SignInput{Digest: make([]byte, 20), Hash: crypto.SHA1, Scheme: csr.ECDSA}, kind: csr.Invalid, rule: pkcs10.NotAllowed},
		"no hash":               {in: csr.SignInput{Digest: make([]byte, 32), Scheme: csr.ECDSA}, kind: csr.Invalid, rule: pkcs10.NotAllowed},
		"scheme of another key": {in: input(crypto.SHA256, csr.PSS), kind: csr.Invalid, rule: pkcs10.NotAllowed},
		"unknown scheme":        {in: input(crypto.SHA256, "raw"), kind: csr.Invalid, rule: pkcs10.NotAllowed},
		"key of a CA":           {key: authority, in: input(crypto.SHA256, csr.ECDSA), kind: csr.Invalid, rule: pkcs10.NotForSigning},
		"no key":                {key: csr.KeyName{NSX: "none"}, in: input(crypto.SHA256, csr.ECDSA), kind: csr.NotFound},
	} {
		made, err := a.keyGrant(t, csr.SignKey, c.key).Sign(t.Context(), []csr.SignInput{c.in, c.in})
		if err != nil || len(made) != 2 {
			t.Fatalf("%s: %v", name, err)
		}
		for _, m := range made {
			failed, ok := errors.AsType[*csr.Error](m.Err)
			if !ok || failed.Kind != c.kind || m.Bytes != nil || c.rule != "" && (len(failed.Violations) != 1 || failed.Violations[0].Rule != c.rule) {
				t.Errorf("%s: %+v", name, m)
			}
		}
	}
	if _, err := a.key(t, authority); kindOf(err) != csr.Invalid {
		t.Errorf("the key of a CA: %v", err)
	}
	grant := a.keyGrant(t, csr.SignKey, csr.KeyName{})
	for _, n := range []int{0, 101} {
		if _, err := grant.Sign(t.Context(), slices.Repeat([]csr.SignInput{input(crypto.SHA256, csr.ECDSA)}, n)); kindOf(err) != csr.Invalid {
			t.Errorf("%d inputs: %v", n, err)
		}
	}
	// Nothing of a commit that failed is given away.
	failing := func() error { return keystore.ErrNotCommitted }
	a.store.onCommit.Store(&failing)
	if made := a.sign(t, input(crypto.SHA256, csr.ECDSA)); kindOf(made.Err) != csr.Internal || made.Bytes != nil || made.KeyID != "" {
		t.Errorf("%+v", made)
	}
	a.store.onCommit.Store(nil)
	if err := a.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lines := a.stream(t, audit.Signatures); len(lines) != 1 {
		t.Errorf("%+v", lines)
	}
}

// Who may do what with which key. A refusal is a line.
func TestAuthoriseKey(t *testing.T) {
	t.Parallel()
	a := newAuditedOver(t, newBench(t))
	attestation, named := csr.KeyName{}, csr.KeyName{NSX: "x"}
	refused := 0
	for _, c := range []struct {
		privileges []csr.Privilege
		keys       []csr.KeyName
		o          csr.Operation
		key        csr.KeyName
		ok         bool
	}{
		{[]csr.Privilege{csr.AttestationSign}, nil, csr.SignKey, attestation, true},
		{[]csr.Privilege{csr.AttestationSign}, nil, csr.ReadKey, attestation, true},
		{[]csr.Privilege{csr.AttestationSign}, nil, csr.VerifyKey, attestation, true},
		{[]csr.Privilege{csr.AttestationSign}, nil, csr.SignKey, named, false},
		{[]csr.Privilege{csr.AttestationSign}, nil, csr.ReadKey, named, false},
		{[]csr.Privilege{csr.PolicyCertificateSign}, nil, csr.SignKey, named, true},
		{[]csr.Privilege{csr.PolicyCertificateSign}, nil, csr.SignKey, attestation, false},
		{[]csr.Privilege{csr.SecurityRead}, nil, csr.ReadKey, attestation, true},
		{[]csr.Privilege{csr.SecurityRead}, nil, csr.VerifyKey, attestation, true},
		{[]csr.Privilege{csr.SecurityManagement}, nil, csr.VerifyKey, attestation, true},
		{[]csr.Privilege{csr.SecurityManagement}, nil, csr.SignKey, attestation, false},
		{[]csr.Privilege{csr.PolicyCertificateRead}, nil, csr.ReadKey, named, true},
		{[]csr.Privilege{csr.PolicyCertificateCRUD}, nil, csr.SignKey, named, false},
		{signer().Privileges, []csr.KeyName{named}, csr.SignKey, named, true},
		{signer().Privileges, []csr.KeyName{named}, csr.SignKey, attestation, false},
		{signer().Privileges, []csr.KeyName{}, csr.ReadKey, attestation, false},
		{csr.Privileges(), nil, csr.CreateCSR, attestation, false},
	} {
		who := csr.Caller{Request: audit.Request{User: "u", RequestID: "r"}, Privileges: c.privileges, Keys: c.keys}
		_, err := a.AuthoriseKey(who, c.o, c.key)
		if (err == nil) != c.ok {
			t.Errorf("%v %v: %s of %s: %v", c.privileges, c.keys, c.o, c.key, err)
		}
		if kindOf(err) == csr.Unauthorized {
			refused++
		}
	}
	if err := a.log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, l := range a.stream(t, audit.Refusals) {
		if l.Kind == audit.Refused && strings.HasPrefix(l.Operation, "key.") && l.Outcome == "unauthorized" {
			count += max(1, l.Count)
		}
	}
	if count != refused {
		t.Errorf("%d refusals have lines, %d were refused", count, refused)
	}
}

func TestKeyNames(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	leaf := b.namedKey(t, "leaf", pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "l"}}})
	b.namedKey(t, "authority", pkcs10.Spec{CA: true, Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName, Value: "ca"}}})
	for name, c := range map[string]struct {
		who  csr.Caller
		want []csr.KeyName
	}{
		"all":         {signer(), []csr.KeyName{{}, leaf}},
		"attestation": {csr.Caller{Privileges: []csr.Privilege{csr.AttestationSign}}, []csr.KeyName{{}}},
		"named":       {csr.Caller{Privileges: []csr.Privilege{csr.PolicyCertificateSign}}, []csr.KeyName{leaf}},
		"one":         {csr.Caller{Privileges: signer().Privileges, Keys: []csr.KeyName{leaf}}, []csr.KeyName{leaf}},
		"none":        {csr.Caller{}, nil},
	} {
		if got, err := b.KeyNames(t.Context(), c.who); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	for _, k := range []csr.KeyName{{}, leaf, {NSX: "a/b ü"}} {
		if got, ok := csr.ParseKeyName(k.String()); !ok || got != k {
			t.Errorf("%v is read as %v", k, got)
		}
	}
	for _, text := range []string{"", "nsx-", "attestation2", "leaf", "nsx-..", "nsx-a\x00", "nsx-" + strings.Repeat("x", 256)} {
		if got, ok := csr.ParseKeyName(text); ok {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

// The rate is that of a caller. Who has some of it left gets a whole batch, and waits the
// longer after that.
func TestSignatureRate(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	b := newBench(t).with(t, func(c *csr.Config) { c.SignatureRate, c.Now = 5, clock.Now })
	sign := func(user string, n int) error {
		t.Helper()
		who := signer()
		who.User = user
		g, err := b.AuthoriseKey(who, csr.SignKey, csr.KeyName{})
		if err != nil {
			t.Fatal(err)
		}
		made, err := g.Sign(t.Context(), slices.Repeat([]csr.SignInput{input(crypto.SHA256, csr.ECDSA)}, n))
		for _, m := range made {
			err = errors.Join(err, m.Err)
		}
		return err
	}
	wantWait := func(user string, n int, wait time.Duration) {
		t.Helper()
		failed, ok := errors.AsType[*csr.Error](sign(user, n))
		if !ok || failed.Kind != csr.TooMany || (failed.RetryAfter-wait).Abs() > time.Millisecond {
			t.Errorf("%s, %d: %+v, want to wait %s", user, n, failed, wait)
		}
	}
	for range 5 {
		if err := sign("a", 1); err != nil {
			t.Fatal(err)
		}
	}
	wantWait("a", 1, 200*time.Millisecond)
	if err := sign("b", 1); err != nil {
		t.Errorf("another caller: %v", err)
	}
	clock.Advance(200 * time.Millisecond)
	if err := sign("a", 20); err != nil {
		t.Errorf("a batch of who has one left: %v", err)
	}
	wantWait("a", 1, 4*time.Second)
	clock.Advance(4 * time.Second)
	if err := sign("a", 1); err != nil {
		t.Error(err)
	}
}

// While the pair is replaced, each signature is of the version and the key that it names.
func TestSignWhileReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t).with(t, func(c *csr.Config) { c.Publish = csr.Publish{Enabled: true, Retain: time.Hour} })
	root := kit.NewCA(t, "root", noon())
	stop := make(chan struct{})
	var mu sync.Mutex
	var made []csr.Signature
	var signers sync.WaitGroup
	in := input(crypto.SHA256, csr.ECDSA)
	for range 4 {
		signers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := b.sign(t, in)
				mu.Lock()
				made = append(made, s)
				mu.Unlock()
			}
		})
	}
	const replaced = 12
	for range replaced {
		request := parseRequest(t, b.create(t, pkcs10.Spec{}))
		if err := b.set(t, root.Issue(t, "leaf", request.PublicKey)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	signers.Wait()
	info, err := b.key(t, csr.KeyName{})
	if err != nil || info.Latest != replaced+1 || len(info.Versions) != replaced+1 {
		t.Fatalf("%+v, %v", info, err)
	}
	versions := map[int]bool{}
	for _, s := range made {
		if s.Err != nil {
			t.Fatal(s.Err)
		}
		of := info.Versions[s.Version-1]
		if of.Version != s.Version || of.KeyID != s.KeyID || !verifies(of.Public, in, s.Bytes) {
			t.Fatalf("version %d, key %s: the signature is of another key", s.Version, s.KeyID)
		}
		if ok, err := b.verify(t, csr.KeyName{}, s.Version, in, s.Bytes); !ok || err != nil {
			t.Fatalf("Verify of version %d: %v, %v", s.Version, ok, err)
		}
		versions[s.Version] = true
	}
	if len(versions) < 3 {
		t.Errorf("only %d versions signed", len(versions))
	}
	if _, err := b.verify(t, csr.KeyName{}, replaced+2, in, made[0].Bytes); kindOf(err) != csr.Invalid {
		t.Errorf("a version that there is not: %v", err)
	}
}

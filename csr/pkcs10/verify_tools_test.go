//go:build tools

package pkcs10_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// opensslAccepts asks `openssl verify`, at a time. It also returns what openssl said.
func opensslAccepts(t *testing.T, dir string, at time.Time, anchors, sent []*x509.Certificate) (bool, string) {
	t.Helper()
	file := func(name string, all ...*x509.Certificate) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pemOf(all...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	args := []string{"verify", "-no-CApath", "-no-CAstore", "-attime", strconv.FormatInt(at.Unix(), 10), "-CAfile", file("anchors", anchors...)}
	if len(sent) > 1 {
		args = append(args, "-untrusted", file("untrusted", sent[1:]...))
	}
	out, err := exec.CommandContext(t.Context(), "openssl", append(args, file("leaf", sent[0]))...).CombinedOutput()
	return err == nil, string(out)
}

// randomCA is a CA of the random world: a name, a key, and certificates that others
// issued for it.
type randomCA struct {
	name  int
	key   *ecdsa.PrivateKey
	certs []*x509.Certificate
	by    []int // which authority issued each, or itself
}

// world is CAs that certify each other at random, with flaws.
type world struct {
	t           *testing.T
	r           *rand.Rand
	authorities []*randomCA
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 0))}
	for i := range 5 {
		w.authorities = append(w.authorities, &randomCA{name: w.r.IntN(4), key: kit.NewKey(t)})
		w.certify(i, i)
		for range 1 + w.r.IntN(2) {
			w.certify(i, w.r.IntN(i+1))
		}
	}
	return w
}

// certify has one authority issue a certificate for another. Only a root issues its own.
func (w *world) certify(subject, issuer int) {
	of, by := w.authorities[subject], w.authorities[issuer]
	edits := []edit{asCA}
	if subject != issuer {
		edits = append(edits, w.flaws()...)
	} else if w.r.IntN(8) == 0 {
		edits = append(edits, w.flaws()...)
	}
	of.certs = append(of.certs, w.issue(by, subject == issuer, "CA "+strconv.Itoa(of.name), of.key.Public(), edits))
	of.by = append(of.by, issuer)
}

// issue signs with the key and the name of an authority, whichever of its certificates
// has the name.
func (w *world) issue(by *randomCA, self bool, name string, key crypto.PublicKey, edits []edit) *x509.Certificate {
	ca := &kit.CA{Key: by.key, Now: noon()}
	if !self {
		ca.Cert = by.certs[w.r.IntN(len(by.certs))]
		edits = append([]edit{func(c *x509.Certificate) { c.AuthorityKeyId = ca.Cert.SubjectKeyId }}, edits...)
	}
	return ca.Issue(w.t, name, key, edits...)
}

func ext(critical bool, value []byte, arcs ...int) edit {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: arcs, Critical: critical, Value: value})
	}
}

// flaws returns edits that some verifier may refuse, mostly none.
func (w *world) flaws() (edits []edit) {
	for _, all := range [][]flaw{caFlaws(w.t), constraints(w.t)} {
		if w.r.IntN(5) == 0 {
			edits = append(edits, all[w.r.IntN(len(all))].edit)
		}
	}
	return edits
}

type flaw struct {
	name string
	edit edit
}

// constraintsOf encodes name constraints with one permitted subtree.
func constraintsOf(part byte, tag byte, base []byte, more ...[]byte) []byte {
	return tlv(0x30, tlv(part, tlv(0x30, append([][]byte{tlv(tag, base)}, more...)...)))
}

var nameConstraintsID = []int{2, 5, 29, 30}

// caFlaws are what a CA certificate may have that verifiers judge in different ways.
func caFlaws(t testing.TB) []flaw {
	t.Helper()
	dn := func(cn string) []byte { return nameOf(t, 0x0c, cn) }
	return []flaw{
		{"no keyCertSign", usage(x509.KeyUsageCRLSign)},
		{"no key usage", usage(0)},
		{"empty key usage", func(c *x509.Certificate) { c.KeyUsage = 0; ext(true, []byte{3, 1, 0}, 2, 5, 29, 15)(c) }},
		{"no basicConstraints", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }},
		{"cA FALSE", func(c *x509.Certificate) { c.IsCA = false }},
		{"path length 0", func(c *x509.Certificate) { c.MaxPathLenZero = true }},
		{"path length 1", func(c *x509.Certificate) { c.MaxPathLen = 1 }},
		{"SHA-1", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }},
		{"expired", valid(-48*time.Hour, -time.Hour)},
		{"not yet valid", valid(time.Hour, 48*time.Hour)},
		{"critical extension", ext(true, []byte{5, 0}, 1, 2, 3, 4)},
		{"extension", ext(false, []byte{5, 0}, 1, 2, 3, 4)},
		{"extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }},
		{"no subject key identifier", func(c *x509.Certificate) { c.SubjectKeyId = []byte{} }},
		{"other subject key identifier", func(c *x509.Certificate) { c.SubjectKeyId = []byte{1, 2, 3} }},
		{"other authority key identifier", func(c *x509.Certificate) { c.AuthorityKeyId = []byte{1, 2, 3} }},
		{"no authority key identifier", func(c *x509.Certificate) { c.AuthorityKeyId = nil }},
		{"authority by another serial number", ext(false, tlv(0x30, tlv(0x81+0x20, tlv(0xa4, dn("CA 1"))), tlv(0x82, []byte{7})), 2, 5, 29, 35)},
		{"authority malformed", ext(false, tlv(0x30, tlv(0x80, []byte{1}), tlv(0x80, []byte{1})), 2, 5, 29, 35)},
		{"addresses of RFC 3779", ext(false, tlv(0x30, tlv(0x30, tlv(4, []byte{0, 1}), tlv(0x30, tlv(3, []byte{0, 10})))), 1, 3, 6, 1, 5, 5, 7, 1, 7)},
		{"address in the subject", func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: objectID(1, 2, 840, 113549, 1, 9, 1), Value: "ops@example.org"}}
		}},
		{"policies", func(c *x509.Certificate) { c.PolicyIdentifiers = []asn1.ObjectIdentifier{{1, 2, 3}} }},
		{"policies required", ext(true, tlv(0x30, tlv(0x80, []byte{0})), 2, 5, 29, 36)},
	}
}

// constraints are name constraints of a CA.
func constraints(t testing.TB) []flaw {
	t.Helper()
	dn := func(cn string) []byte { return nameOf(t, 0x0c, cn) }
	return []flaw{
		{"DNS names permitted", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }},
		{"DNS names below permitted", func(c *x509.Certificate) { c.PermittedDNSDomains = []string{".example.com"} }},
		{"DNS names excluded", func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"example.com"} }},
		{"DNS names all excluded", ext(true, constraintsOf(0xa1, 0x82, nil), nameConstraintsID...)},
		{"mailboxes permitted", func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"example.com"} }},
		{"one mailbox permitted", func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"ops@example.com"} }},
		{"mailboxes excluded", func(c *x509.Certificate) { c.ExcludedEmailAddresses = []string{"example.com"} }},
		{"URIs permitted", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.com"} }},
		{"URIs below permitted", func(c *x509.Certificate) { c.PermittedURIDomains = []string{".example.com"} }},
		{"addresses permitted", func(c *x509.Certificate) {
			c.PermittedIPRanges = []*net.IPNet{{IP: net.IPv4(192, 0, 2, 0).To4(), Mask: net.CIDRMask(24, 32)}}
		}},
		{"addresses excluded", func(c *x509.Certificate) {
			c.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4(192, 0, 2, 0).To4(), Mask: net.CIDRMask(24, 32)}}
		}},
		{"directory names permitted", ext(false, constraintsOf(0xa0, 0xa4, dn("other")), nameConstraintsID...)},
		{"directory names permitted, critical", ext(true, constraintsOf(0xa0, 0xa4, dn("other")), nameConstraintsID...)},
		{"constraints with a minimum", ext(false, constraintsOf(0xa0, 0x82, []byte("example.com"), tlv(0x80, []byte{1})), nameConstraintsID...)},
	}
}

// leafNames are what constraints may be about.
func leafNames(t testing.TB) []flaw {
	t.Helper()
	return []flaw{
		{"DNS name permitted", func(c *x509.Certificate) { c.DNSNames = []string{"esx.example.com"} }},
		{"DNS name itself", func(c *x509.Certificate) { c.DNSNames = []string{"example.com"} }},
		{"DNS name not permitted", func(c *x509.Certificate) { c.DNSNames = []string{"esx.example.org"} }},
		{"wildcard", func(c *x509.Certificate) { c.DNSNames = []string{"*.com"} }},
		{"name with a final dot", func(c *x509.Certificate) { c.DNSNames = []string{"esx.example.com."} }},
		{"name with a period first", func(c *x509.Certificate) { c.DNSNames = []string{".example.com"} }},
		{"name of blanks", func(c *x509.Certificate) { c.DNSNames = []string{" "} }},
		{"mailbox permitted", func(c *x509.Certificate) { c.EmailAddresses = []string{"ops@example.com"} }},
		{"mailbox in other case", func(c *x509.Certificate) { c.EmailAddresses = []string{"OPS@example.com"} }},
		{"mailbox below", func(c *x509.Certificate) { c.EmailAddresses = []string{"ops@a.example.com"} }},
		{"mailbox elsewhere", func(c *x509.Certificate) { c.EmailAddresses = []string{"ops@example.org"} }},
		{"URI permitted", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "example.com"}} }},
		{"URI below", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "a.example.com"}} }},
		{"URI with a port and a user", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "https", Host: "example.com:1", User: url.User("a")}}
		}},
		{"URI without a host", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "urn", Opaque: "a:b"}} }},
		{"address permitted", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1).To4()} }},
		{"address elsewhere", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(198, 51, 100, 1).To4()} }},
		{"address of version 6", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} }},
		{"common name that is a host", withSubject(t, rdn(objectID(2, 5, 4, 3), "esx.example.org"))},
		{"common name with an underscore", withSubject(t, rdn(objectID(2, 5, 4, 3), "esx_1.example.org"))},
		{"two common names", withSubject(t, rdn(objectID(2, 5, 4, 3), "esx.example.com"), rdn(objectID(2, 5, 4, 3), "esx.example.org"))},
		{"common name in two bytes", withSubject(t, rdn(objectID(2, 5, 4, 3), bmpString("esx.example.org")))},
		{"mailbox in the subject", withSubject(t, rdn(objectID(1, 2, 840, 113549, 1, 9, 1), ia5String("ops@example.org")))},
		{"mailbox in the subject, UTF-8", withSubject(t, rdn(objectID(1, 2, 840, 113549, 1, 9, 1), utf8String("ops@example.com")))},
		{"other name", ext(false, tlv(0x30, tlv(0xa0, oid(t, 1, 2, 3), tlv(0xa0, tlv(0x0c, []byte("a@example.org"))))), 2, 5, 29, 17)},
		{"other name malformed", ext(false, tlv(0x30, tlv(0xa0, []byte{1})), 2, 5, 29, 17)},
		{"mailbox in UTF-8", ext(false, tlv(0x30, tlv(0xa0, oid(t, 1, 3, 6, 1, 5, 5, 7, 8, 9), tlv(0xa0, tlv(0x0c, []byte("a@example.org"))))), 2, 5, 29, 17)},
	}
}

// leafFlaws are what a leaf may have that verifiers judge in different ways.
func leafFlaws(t testing.TB) []flaw {
	t.Helper()
	return []flaw{
		{"plain", func(*x509.Certificate) {}},
		{"SHA-1", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }},
		{"extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} }},
		{"empty key usage", func(c *x509.Certificate) { c.KeyUsage = 0; ext(true, []byte{3, 1, 0}, 2, 5, 29, 15)(c) }},
		{"other authority key identifier", func(c *x509.Certificate) { c.AuthorityKeyId = []byte{1, 2, 3} }},
		{"no authority key identifier", func(c *x509.Certificate) { c.AuthorityKeyId = nil }},
		{"authority malformed", ext(false, tlv(0x30, tlv(0x80, []byte{1}), tlv(0x80, []byte{1})), 2, 5, 29, 35)},
		{"proxy certificate", ext(false, tlv(0x30, tlv(0x30, oid(t, 1, 3, 6, 1, 5, 5, 7, 21, 1))), 1, 3, 6, 1, 5, 5, 7, 1, 14)},
		{"addresses of RFC 3779", ext(false, tlv(0x30, tlv(0x30, tlv(4, []byte{0, 1}), tlv(0x30, tlv(3, []byte{0, 10})))), 1, 3, 6, 1, 5, 5, 7, 1, 7)},
		{"Netscape type malformed", ext(false, []byte{5, 0}, 2, 16, 840, 1, 113730, 1, 1)},
		{"distribution points malformed", ext(false, []byte{0x30, 2, 0x30, 0}, 2, 5, 29, 31)},
		{"critical extension", ext(true, []byte{5, 0}, 1, 2, 3, 4)},
		{"critical policies", ext(true, tlv(0x30, tlv(0x30, oid(t, 1, 2, 3))), 2, 5, 29, 32)},
		{"critical policy mapping", ext(true, tlv(0x30, tlv(0x30, oid(t, 1, 2, 3), oid(t, 1, 2, 4))), 2, 5, 29, 33)},
		{"critical distribution points", ext(true, tlv(0x30, tlv(0x30, tlv(0xa0, tlv(0xa0, tlv(0x86, []byte("http://a.example/")))))), 2, 5, 29, 31)},
		{"begins in four minutes", valid(4*time.Minute, time.Hour)},
		{"ends now", valid(-time.Hour, 0)},
	}
}

// judged is what both say of one chain.
type judged struct{ accepted, both, refused int }

func (j *judged) compare(t *testing.T, dir, name string, anchors, sent []*x509.Certificate) {
	t.Helper()
	trusted, err := pkcs10.ParseAnchors(pemOf(anchors...))
	if err != nil {
		return // no root is among these anchors
	}
	accepted, broken := pkcs10.Accept(pemOf(sent...), pkcs10.Criteria{Now: noon(), Use: pkcs10.EndEntity, Anchors: trusted})
	kit.CheckSentences(t, broken)
	at := noon()
	if sent[0].NotBefore.After(at) && sent[0].NotBefore.Before(at.Add(5*time.Minute)) {
		at = sent[0].NotBefore
	}
	openssl, said := opensslAccepts(t, dir, at, anchors, sent)
	switch {
	case len(broken) == 0 && !openssl:
		t.Errorf("%s: accepted, and openssl says: %s\nanchors\n%s\nsent\n%s", name, said, pemOf(anchors...), pemOf(sent...))
	case len(broken) == 0:
		j.both++
		if !accepted.Anchored {
			t.Errorf("%s: accepted without an anchor", name)
		}
	case openssl:
		j.accepted++ // we are stricter, see docs/api.md
	default:
		j.refused++
	}
}

// No chain is accepted that openssl refuses with the same anchors: one flaw of a CA at a
// time with each kind of leaf, and random worlds.
func TestOpenSSLAcceptsWhatIsAccepted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var counts judged
	root := kit.NewCA(t, "root", noon())
	key := testKey().Public()
	key2 := kit.NewKey(t)
	plain := root.NewCA(t, "CA 1")
	for _, leaf := range append(leafFlaws(t), leafNames(t)...) {
		counts.compare(t, dir, leaf.name, certificates(root.Cert), certificates(plain.Issue(t, "leaf", key, leaf.edit), plain.Cert))
	}
	flawed := func(f flaw) *kit.CA {
		return &kit.CA{Cert: root.Issue(t, "CA 1", key2.Public(), asCA, f.edit), Key: key2, Now: noon()}
	}
	for _, f := range append(caFlaws(t), constraints(t)...) {
		ca := flawed(f)
		lower, leaf := ca.NewCA(t, "CA 2"), ca.Issue(t, "leaf", key)
		self := (&kit.CA{Key: key2, Now: noon()}).Issue(t, "CA 1", key2.Public(), asCA, f.edit)
		counts.compare(t, dir, f.name, certificates(root.Cert), certificates(leaf, ca.Cert))
		counts.compare(t, dir, f.name+", helper", certificates(root.Cert, ca.Cert), certificates(leaf))
		counts.compare(t, dir, f.name+", root", certificates(self), certificates(leaf))
		counts.compare(t, dir, f.name+", above", certificates(root.Cert), certificates(lower.Issue(t, "leaf", key), lower.Cert, ca.Cert))
	}
	for _, f := range constraints(t) {
		ca := flawed(f)
		for _, leaf := range leafNames(t) {
			counts.compare(t, dir, f.name+", "+leaf.name, certificates(root.Cert), certificates(ca.Issue(t, "leaf", key, leaf.edit), ca.Cert))
		}
	}
	for seed := range uint64(kit.Effort(150, 3000)) {
		w := newWorld(t, seed)
		anchors, sent := w.draw()
		counts.compare(t, dir, fmt.Sprintf("world %d", seed), anchors, sent)
	}
	t.Logf("%d accepted by both, %d by openssl alone, %d refused by both", counts.both, counts.accepted, counts.refused)
	kit.Count(t, "chains that openssl accepts too", counts.both)
	kit.Count(t, "chains that openssl refuses too", counts.refused)
}

// draw returns a leaf with some of the certificates above it, and some certificates as
// anchors.
func (w *world) draw() (anchors, sent []*x509.Certificate) {
	at := w.r.IntN(len(w.authorities))
	leaves := append(leafFlaws(w.t), leafNames(w.t)...)
	leaf := leaves[0].edit
	if w.r.IntN(3) == 0 {
		leaf = leaves[w.r.IntN(len(leaves))].edit
	}
	sent = certificates(w.issue(w.authorities[at], false, "leaf", testKey().Public(), []edit{leaf}))
	for range w.r.IntN(5) {
		a := w.authorities[at]
		i := w.r.IntN(len(a.certs))
		sent = append(sent, a.certs[i])
		if a.by[i] == at {
			break
		}
		at = a.by[i]
	}
	for _, a := range w.authorities {
		for _, c := range a.certs {
			if w.r.IntN(3) == 0 {
				anchors = append(anchors, c)
			}
		}
	}
	w.r.Shuffle(len(anchors), func(i, k int) { anchors[i], anchors[k] = anchors[k], anchors[i] })
	return anchors, sent
}

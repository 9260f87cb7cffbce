package pkcs10_test

import (
	"crypto/rsa"
	"crypto/x509"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

func anchorsOf(t testing.TB, all ...*x509.Certificate) *pkcs10.Anchors {
	t.Helper()
	anchors, err := pkcs10.ParseAnchors(pemOf(all...))
	if err != nil {
		t.Fatal(err)
	}
	return anchors
}

func TestParseAnchors(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	sub := root.NewCA(t, "sub")
	selfIssued := root.NewCA(t, "root") // by name alone
	good := string(pemOf(sub.Cert, root.Cert))
	for _, c := range []struct{ name, text, want string }{
		{"root and helper", good, ""},
		{"byte order mark, line ends and text", "\ufeffour roots\r\n" + strings.ReplaceAll(good, "\n", "\r\n"), ""},
		{"empty", "", "there is no self-signed certificate, so no chain can end here: add the root of the CA"},
		{"helper alone", string(pemOf(sub.Cert)), "there is no self-signed certificate, so no chain can end here: add the root of the CA"},
		{"self-issued by name alone", string(pemOf(selfIssued.Cert)), "there is no self-signed certificate, so no chain can end here: add the root of the CA"},
		{"private key", good + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", `PEM block 3 is "PRIVATE KEY", want CERTIFICATE`},
		{"cut off", good[:len(good)-40], "there are 2 PEM blocks, and 1 can be read: one is cut off or has bad base64"},
		{"no certificate in it", good + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 3: x509: malformed certificate"},
		{"too long", good + strings.Repeat(" ", 1<<20), "the text is longer than 1048576 bytes"},
		{"too many", strings.Repeat(string(pemOf(root.Cert)), 1001), "there are more than 1000 certificates"},
	} {
		anchors, err := pkcs10.ParseAnchors([]byte(c.text))
		switch {
		case c.want == "" && (err != nil || anchors == nil):
			t.Errorf("%s: error %v", c.name, err)
		case c.want != "" && (err == nil || err.Error() != "trust anchors: "+c.want || anchors != nil):
			t.Errorf("%s: error %v", c.name, err)
		}
	}
}

func TestPathToAnchor(t *testing.T) {
	t.Parallel()
	root, other := kit.NewCA(t, "root", noon()), kit.NewCA(t, "other", noon())
	sub := root.NewCA(t, "sub")
	issuing := sub.NewCA(t, "issuing")
	key := testKey().Public()
	leaf := issuing.Issue(t, "leaf", key)
	rename := func(name string, ca *kit.CA, edits ...edit) *kit.CA { // the same key under another issuer
		return &kit.CA{Cert: ca.Issue(t, name, root.Key.Public(), append([]edit{asCA}, edits...)...), Key: root.Key, Now: noon()}
	}
	cross := rename("root", other)
	twin := kit.NewCA(t, "root", noon()) // another key under the same name
	oldRoot := kit.NewCA(t, "old", noon(), valid(-48*time.Hour, -time.Second))
	weakKey := &kit.CA{Key: weakRSA(t), Now: noon()}
	weak := weakKey.Issue(t, "weak", weakKey.Key.Public(), asCA)
	weakCA := &kit.CA{Cert: weak, Key: weakKey.Key, Now: noon()}
	helper := root.NewCA(t, "helper", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
	flat := kit.NewCA(t, "flat", noon(), func(c *x509.Certificate) { c.MaxPathLenZero = true })
	flatSub := flat.NewCA(t, "flat sub")
	ahead := sub.Issue(t, "ahead", key, valid(5*time.Minute, time.Hour))
	self := (&kit.CA{Key: testKey(), Now: noon()}).Issue(t, "self", key)
	for _, c := range []struct {
		name           string
		chain, anchors []*x509.Certificate
		beyond         []*x509.Certificate
		want           []string
	}{
		{"leaf alone, all others are anchors", certificates(leaf), certificates(issuing.Cert, sub.Cert, root.Cert), certificates(issuing.Cert, sub.Cert, root.Cert), nil},
		{"root left out", certificates(leaf, issuing.Cert, sub.Cert), certificates(root.Cert), certificates(root.Cert), nil},
		{"a helper between", certificates(leaf, issuing.Cert), certificates(root.Cert, other.Cert, sub.Cert), certificates(sub.Cert, root.Cert), nil},
		{"root sent", certificates(leaf, issuing.Cert, sub.Cert, root.Cert), certificates(other.Cert, root.Cert), nil, nil},
		{"self-signed leaf is an anchor", certificates(self), certificates(self), nil, nil},
		{"the sent chain leads elsewhere, through a certificate of the anchor's key", certificates(leaf, issuing.Cert, sub.Cert, cross.Cert, other.Cert), certificates(root.Cert), certificates(root.Cert), nil},
		{"that one is the way", certificates(leaf, issuing.Cert, sub.Cert, cross.Cert), certificates(other.Cert), certificates(other.Cert), nil},
		{"begins in five minutes", certificates(ahead, sub.Cert), certificates(root.Cert), certificates(root.Cert), nil},

		{"issuer missing", certificates(leaf), certificates(root.Cert), nil,
			[]string{`1 "CN=leaf" leads to no trust anchor: its issuer "CN=issuing" was neither sent nor is it a trust anchor; send it too, or have it made one`}},
		{"issuer missing further up", certificates(leaf, issuing.Cert, sub.Cert), certificates(other.Cert), nil,
			[]string{`3 "CN=sub" leads to no trust anchor: its issuer "CN=root" was neither sent nor is it a trust anchor; send it too, or have it made one`}},
		{"root is not an anchor", certificates(leaf, issuing.Cert, sub.Cert, root.Cert), certificates(other.Cert), nil,
			[]string{`4 "CN=root" is self-signed and no trust anchor: use a CA that leads to a trust anchor, or have this one made one`}},
		{"self-signed leaf", certificates(self), certificates(root.Cert), nil,
			[]string{`1 "CN=self" is self-signed and no trust anchor: use a CA that leads to a trust anchor, or have this one made one`}},
		{"an anchor of the same name, by key identifier", certificates(leaf, issuing.Cert, sub.Cert), certificates(twin.Cert), nil,
			[]string{`3 "CN=sub" leads to no trust anchor: its issuer "CN=root" was neither sent nor is it a trust anchor; send it too, or have it made one`}},
		{"the helper's issuer is no anchor", certificates(leaf, issuing.Cert, sub.Cert), certificates(cross.Cert, twin.Cert), nil,
			[]string{`"CN=root" leads to no trust anchor: its issuer "CN=other" was neither sent nor is it a trust anchor; send it too, or have it made one`}},
		{"expired anchor", certificates(oldRoot.Issue(t, "leaf", key)), certificates(oldRoot.Cert), nil,
			[]string{`"CN=old" is among the trust anchors and cannot be used, tell the operator: it expired at 2026-06-01T11:59:59Z: ask the CA for a new one`}},
		{"anchor of 1024 bits", certificates(weakCA.Issue(t, "leaf", key)), certificates(weak), nil,
			[]string{`"CN=weak" is among the trust anchors and cannot be used, tell the operator: it must have a key of at least 2048 bits`}},
		{"helper with SHA-1", certificates(helper.Issue(t, "leaf", key)), certificates(root.Cert, helper.Cert), nil,
			[]string{`"CN=helper" is among the trust anchors and cannot be used, tell the operator: it must not be signed with ECDSA-SHA1: ask the CA to sign with SHA-256`}},
		{"path length of an anchor", certificates(flatSub.Issue(t, "leaf", key), flatSub.Cert), certificates(flat.Cert), nil,
			[]string{`1 "CN=leaf" has no valid path to the trust anchor "CN=flat": too many intermediates for path length constraint`}},
	} {
		accepted, broken := pkcs10.Accept(pemOf(c.chain...), pkcs10.Criteria{Now: noon(), Use: pkcs10.Signing, Anchors: anchorsOf(t, c.anchors...)})
		if got := sentences(broken); !slices.Equal(got, c.want) {
			t.Errorf("%s: said\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		kit.CheckSentences(t, broken)
		for _, v := range broken {
			if v.Check() != pkcs10.CheckAnchor {
				t.Errorf("%s: %s belongs to the check %s", c.name, v.Rule, v.Check())
			}
		}
		if c.want == nil && (!accepted.Anchored || kit.PEM(accepted.Chain...) != kit.PEM(c.chain...) || kit.PEM(accepted.Beyond...) != kit.PEM(c.beyond...)) {
			t.Errorf("%s: anchored %v, chain %d, beyond %d", c.name, accepted.Anchored, len(accepted.Chain), len(accepted.Beyond))
		}
	}
}

// weakRSA is a key that crypto/rsa makes for tests alone.
func weakRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(nil, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Name constraints are for every name of the leaf, also for those in its subject.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	key := testKey().Public()
	dns := func(permitted, excluded string) edit {
		return func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical = true
			if permitted != "" {
				c.PermittedDNSDomains = []string{permitted}
			}
			if excluded != "" {
				c.ExcludedDNSDomains = []string{excluded}
			}
		}
	}
	uri := func(host string) edit {
		return func(c *x509.Certificate) { c.PermittedURIDomains = []string{host} }
	}
	mailbox := func(host string) edit {
		return func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{host} }
	}
	names := func(names ...string) edit { return func(c *x509.Certificate) { c.DNSNames = names } }
	for _, c := range []struct {
		name   string
		ca     edit
		leaf   edit
		common string
		cause  string // of the refusal
	}{
		{"permitted", dns("example.com", ""), names("esx.example.com"), "x", ""},
		{"not permitted", dns("example.com", ""), names("esx.example.org"), "x", `permitted`},
		{"excluded", dns("", "example.com"), names("esx.example.com"), "x", `excluded`},
		{"common name of a leaf without names, permitted", dns("example.com", ""), names(), "esx.example.com", ""},
		{"common name of a leaf without names", dns("example.com", ""), names(), "esx.example.org", `permitted`},
		{"common name that is no host", dns("example.com", ""), names(), "A web server", ""},
		{"common name beside a name", dns("example.com", ""), names("a.example.com"), "esx.example.org", ""},
		{"URI of the host", uri("example.com"), func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "example.com"}} }, "x", ""},
		{"URI of a host below", uri("example.com"), func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "a.example.com"}} }, "x", "is not permitted"},
		{"URI of a host below, permitted", uri(".example.com"), func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "a.example.com"}} }, "x", ""},
		{"mailbox", mailbox("example.com"), func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }, "x", ""},
		{"mailbox of a host below", mailbox("example.com"), func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example.com"} }, "x", "is not permitted"},
		{"one mailbox", mailbox("a@example.com"), func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com", "b@example.com"} }, "x", "is not permitted"},
		{"mailbox in the subject", mailbox("example.com"), withSubject(t, rdn(objectID(2, 5, 4, 3), "x"), rdn(objectID(1, 2, 840, 113549, 1, 9, 1), ia5String("a@example.org"))), "x", "permitted"},
		{"mailbox in the subject, in another string type", mailbox("example.com"), withSubject(t, rdn(objectID(2, 5, 4, 3), "x"), rdn(objectID(1, 2, 840, 113549, 1, 9, 1), utf8String("a@example.com"))), "x", "is no IA5String"},
	} {
		root := kit.NewCA(t, "root", noon())
		sub := root.NewCA(t, "sub", c.ca)
		leaf := sub.Issue(t, c.common, key, c.leaf)
		_, broken := pkcs10.Accept(pemOf(leaf, sub.Cert), pkcs10.Criteria{Now: noon(), Anchors: anchorsOf(t, root.Cert)})
		switch {
		case c.cause == "" && len(broken) > 0:
			t.Errorf("%s: %q", c.name, sentences(broken))
		case c.cause != "" && (len(broken) != 1 || broken[0].Check() != pkcs10.CheckAnchor || !strings.Contains(broken[0].Cause, c.cause)):
			t.Errorf("%s: %q", c.name, sentences(broken))
		}
		kit.CheckSentences(t, broken)
	}
}

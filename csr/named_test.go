package csr_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

func TestAuthoriseNamed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := csr.NewRequest{ID: "x", Spec: commonName("x")}
	page := csr.Page{Sort: csr.SortByID, Limit: 1}
	for _, c := range []struct {
		operation csr.Operation
		read      bool // policy_certificate:read is enough
		call      func(context.Context, *csr.Grant) error
	}{
		{csr.CreateNamedCSR, false, func(ctx context.Context, g *csr.Grant) error { _, err := g.CreateNamedCSR(ctx, request); return err }},
		{csr.GetNamedCSR, true, func(ctx context.Context, g *csr.Grant) error { _, err := g.NamedCSR(ctx, "x"); return err }},
		{csr.ListNamedCSRs, true, func(ctx context.Context, g *csr.Grant) error { _, _, _, err := g.ListNamedCSRs(ctx, page); return err }},
		{csr.DeleteNamedCSR, false, func(ctx context.Context, g *csr.Grant) error { return g.DeleteNamedCSR(ctx, "x") }},
		{csr.ImportCertificate, false, func(ctx context.Context, g *csr.Grant) error {
			_, err := g.ImportCertificate(ctx, "x", csr.Import{})
			return err
		}},
		{csr.SelfSign, false, func(ctx context.Context, g *csr.Grant) error { _, err := g.SelfSign(ctx, "x", nil); return err }},
		{csr.SelfSignNew, false, func(ctx context.Context, g *csr.Grant) error { _, err := g.SelfSignNew(ctx, request, nil); return err }},
		{csr.GetNamedCertificate, true, func(ctx context.Context, g *csr.Grant) error { _, err := g.NamedCertificate(ctx, "x"); return err }},
		{csr.ListNamedCertificates, true, func(ctx context.Context, g *csr.Grant) error {
			_, _, _, err := g.ListNamedCertificates(ctx, page)
			return err
		}},
		{csr.DeleteNamedCertificate, false, func(ctx context.Context, g *csr.Grant) error { return g.DeleteNamedCertificate(ctx, "x") }},
	} {
		for held, want := range map[csr.Privilege]bool{
			csr.SecurityManagement: false, csr.PolicyCertificateRead: c.read, csr.PolicyCertificateCRUD: true, "": false,
		} {
			_, err := b.Authorise(csr.Caller{Request: audit.Request{User: "u"}, Privileges: []csr.Privilege{held}}, c.operation)
			if want != (err == nil) || err != nil && kindOf(err) != csr.Unauthorized {
				t.Errorf("%s with %q: error %v", c.operation, held, err)
			}
		}
		// No other operation's grant will do.
		for _, other := range []csr.Operation{csr.CreateNamedCSR, csr.GetNamedCSR, csr.ListNamedCSRs, csr.DeleteNamedCSR, csr.ImportCertificate,
			csr.SelfSign, csr.SelfSignNew, csr.GetNamedCertificate, csr.ListNamedCertificates, csr.DeleteNamedCertificate} {
			if other == c.operation {
				continue
			}
			if err := c.call(t.Context(), b.namedGrant(t, other)); err == nil || kindOf(err) != csr.Internal {
				t.Errorf("a grant for %s did %s: error %v", other, c.operation, err)
			}
		}
	}
	if len(b.requests(t)) != 0 || len(b.certificates(t)) != 0 {
		t.Error("a call without its grant made something")
	}
}

// The whole life of named objects with real keys, over a restart.
func TestLifeOfANamedCertificate(t *testing.T) {
	t.Parallel()
	asGiven := func(c keystore.Custodian) keystore.Custodian { return c }
	dir := t.TempDir()
	b := openBench(t, dir, asGiven)
	now := noon().Add(1234567 * time.Microsecond)
	b = b.with(t, func(c *csr.Config) { c.Now = func() time.Time { return now.In(time.FixedZone("elsewhere", 3600)) } })

	request := csr.NewRequest{
		ID:     "web/1 ü",
		Labels: csr.Labels{DisplayName: "Web", Description: "line\n\tline", Tags: []csr.Tag{{Scope: "s", Tag: "t"}, {}}},
		Spec: pkcs10.Spec{
			Algorithm: pkcs10.ECDSA, KeySize: new(int64(384)), CA: true,
			Subject: []pkcs10.Attribute{{Type: pkcs10.OrganizationalUnit, Value: "B"}, {Type: pkcs10.CommonName, Value: "web"},
				{Type: pkcs10.OrganizationalUnit, Value: "A"}, {Type: pkcs10.Country, Value: "de"}},
			AltNames: []pkcs10.AltName{{Kind: pkcs10.DNSName, Value: "web.example.com"}, {Kind: pkcs10.IPAddress, Value: "192.0.2.1"}},
		},
	}
	made := b.createNamed(t, request)
	want := csr.Object{
		ID: "web/1 ü", UniqueID: made.UniqueID, Labels: request.Labels, CreatedBy: "nora", ModifiedBy: "nora",
		Created: noon().Add(1234 * time.Millisecond), Modified: noon().Add(1234 * time.Millisecond),
	}
	if len(made.UniqueID) != 36 || !reflect.DeepEqual(made.Object, want) {
		t.Errorf("object %+v, want %+v", made.Object, want)
	}
	spec := request.Spec
	spec.Subject = slices.Clone(spec.Subject)
	spec.Subject[3].Value = "DE"
	if !reflect.DeepEqual(made.Spec, spec) {
		t.Errorf("spec %+v, want %+v", made.Spec, spec)
	}
	parsed := parseRequest(t, made.PEM)
	if key, ok := parsed.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().BitSize != 384 || parsed.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		t.Errorf("key %T, signature %v", parsed.PublicKey, parsed.SignatureAlgorithm)
	}
	second := b.createNamed(t, csr.NewRequest{ID: "rsa", Spec: commonName("rsa")})
	if key, ok := parseRequest(t, second.PEM).PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 2048 || *second.Spec.KeySize != 2048 || second.Spec.Algorithm != pkcs10.RSA {
		t.Errorf("default key %+v", second.Spec)
	}
	if second.DisplayName != "rsa" {
		t.Errorf("default display name %q", second.DisplayName)
	}

	root := kit.NewCA(t, "root", noon())
	issued := root.Issue(t, "web", parsed.PublicKey, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })
	now = now.Add(time.Hour)
	imported, err := b.importNamed(t, made.ID, csr.Import{PEM: pemOf(issued, root.Cert), Revision: new(int64(0))})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.stored(t, csr.CertificateSlot(imported.ID)).Spec; !reflect.DeepEqual(got, made.Spec) {
		t.Errorf("what the request said became %+v", got)
	}
	if imported.DisplayName != "Web" || imported.Description != "" || imported.Tags != nil || imported.ID != imported.UniqueID || len(imported.ID) != 36 ||
		!imported.Created.Equal(want.Created.Add(time.Hour)) || imported.PEM != kit.PEM(issued, root.Cert) ||
		len(imported.Chain) != 2 || !imported.Chain[0].Equal(issued) {
		t.Errorf("imported %+v", imported.Object)
	}
	if _, err := b.named(t, made.ID); kindOf(err) != csr.NotFound {
		t.Errorf("the request was not used up: %v", err)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}

	b = openBench(t, dir, asGiven)
	if got, err := b.namedCertificate(t, imported.ID); err != nil || !reflect.DeepEqual(got, imported) {
		t.Errorf("stored %+v, error %v, want %+v", got, err, imported)
	}
	if got, err := b.named(t, "rsa"); err != nil || !reflect.DeepEqual(got, second) {
		t.Errorf("stored %+v, error %v, want %+v", got, err, second)
	}
	if !kit.SameKey(b.privateAt(t, csr.CertificateSlot(imported.ID)), parsed.PublicKey) {
		t.Error("the key of the certificate is not that of the request")
	}
	if err := b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), imported.ID); err != nil {
		t.Error(err)
	}
	if err := b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), "rsa"); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"certificate":         errorOf(b.namedCertificate(t, imported.ID)),
		"delete certificate":  b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), imported.ID),
		"request":             errorOf(b.named(t, "rsa")),
		"delete request":      b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), "rsa"),
		"import":              errorOf(b.importNamed(t, "rsa", csr.Import{PEM: pemOf(issued)})),
		"self-sign":           errorOf(b.selfSign(t, "rsa", nil)),
		"another case of it":  errorOf(b.named(t, "RSA")),
		"request of that id ": errorOf(b.named(t, imported.ID)),
	} {
		if kindOf(err) != csr.NotFound {
			t.Errorf("%s after deletion: %v", what, err)
		}
	}
	if n := len(b.requests(t)) + len(b.certificates(t)); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

func errorOf[T any](_ T, err error) error { return err }

func TestNamedRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	text := func(n int) string { return strings.Repeat("ü", n) }
	tags := func(n int) csr.Labels { return csr.Labels{Tags: make([]csr.Tag, n)} }
	dns := func(n int) (names []pkcs10.AltName) {
		for i := range n {
			names = append(names, pkcs10.AltName{Kind: pkcs10.DNSName, Value: fmt.Sprintf("h%d.example.com", i)})
		}
		return names
	}
	for i, c := range []struct {
		name string
		edit func(*csr.NewRequest)
		want []string
	}{
		{"plain", func(*csr.NewRequest) {}, nil},
		{"id of 255 bytes", func(r *csr.NewRequest) { r.ID = strings.Repeat("i", 255) }, nil},
		{"id of 256 bytes", func(r *csr.NewRequest) { r.ID = text(128) }, []string{"id: not_an_id"}},
		{"no id", func(r *csr.NewRequest) { r.ID = "" }, []string{"id: not_an_id"}},
		{"dot", func(r *csr.NewRequest) { r.ID = "." }, []string{"id: not_an_id"}},
		{"two dots", func(r *csr.NewRequest) { r.ID = ".." }, []string{"id: not_an_id"}},
		{"three dots", func(r *csr.NewRequest) { r.ID = "..." }, nil},
		{"slash", func(r *csr.NewRequest) { r.ID = "../a//b/" }, nil},
		{"NUL in the id", func(r *csr.NewRequest) { r.ID = "a\x00" }, []string{"id: not_an_id"}},
		{"DEL in the id", func(r *csr.NewRequest) { r.ID = "a\x7f" }, []string{"id: not_an_id"}},
		{"id is not UTF-8", func(r *csr.NewRequest) { r.ID = "a\xff" }, []string{"id: not_an_id"}},
		{"display name, 255", func(r *csr.NewRequest) { r.DisplayName = strings.Repeat("𝒳", 255) }, nil},
		{"display name, 256", func(r *csr.NewRequest) { r.DisplayName = text(256) }, []string{"display name: too_long"}},
		{"display name of two lines", func(r *csr.NewRequest) { r.DisplayName = "a\nb" }, []string{"display name: control_character"}},
		{"description, 1024", func(r *csr.NewRequest) { r.Description = text(1023) + "\n" }, nil},
		{"description, 1025", func(r *csr.NewRequest) { r.Description = text(1025) }, []string{"description: too_long"}},
		{"description with lines and tabs", func(r *csr.NewRequest) { r.Description = "a\r\n\tb" }, nil},
		{"description with escape", func(r *csr.NewRequest) { r.Description = "\x1b[2J" }, []string{"description: control_character"}},
		{"description with direction", func(r *csr.NewRequest) { r.Description = "\u202e" }, []string{"description: control_character"}},
		{"description is not UTF-8", func(r *csr.NewRequest) { r.Description = "\xff" }, []string{"description: invalid_utf8"}},
		{"30 tags", func(r *csr.NewRequest) { r.Labels = tags(30) }, nil},
		{"31 tags", func(r *csr.NewRequest) { r.Labels = tags(31) }, []string{"tags: too_many"}},
		{"longest tag", func(r *csr.NewRequest) { r.Tags = []csr.Tag{{Scope: text(128), Tag: text(256)}} }, nil},
		{"long scope", func(r *csr.NewRequest) { r.Tags = []csr.Tag{{Scope: text(129)}} }, []string{"tags: too_long"}},
		{"long tag", func(r *csr.NewRequest) { r.Tags = []csr.Tag{{}, {Tag: text(257)}} }, []string{"tags: too_long"}},
		{"tag with newline", func(r *csr.NewRequest) { r.Tags = []csr.Tag{{Tag: "\n"}} }, []string{"tags: control_character"}},
		{"curve of no size", func(r *csr.NewRequest) { r.Spec.Algorithm = pkcs10.ECDSA }, nil},
		{"curve 521", func(r *csr.NewRequest) { r.Spec.Algorithm, r.Spec.KeySize = pkcs10.ECDSA, new(int64(521)) }, nil},
		{"curve 512", func(r *csr.NewRequest) { r.Spec.Algorithm, r.Spec.KeySize = pkcs10.ECDSA, new(int64(512)) }, []string{"key size: not_allowed"}},
		{"curve 2048", func(r *csr.NewRequest) { r.Spec.Algorithm, r.Spec.KeySize = pkcs10.ECDSA, new(int64(2048)) }, []string{"key size: not_allowed"}},
		{"RSA 256", func(r *csr.NewRequest) { r.Spec.Algorithm, r.Spec.KeySize = pkcs10.RSA, new(int64(256)) }, []string{"key size: not_allowed"}},
		{"DSA", func(r *csr.NewRequest) { r.Spec.Algorithm = "DSA" }, []string{"key algorithm: not_allowed"}},
		{"100 names", func(r *csr.NewRequest) { r.Spec.AltNames = dns(100) }, nil},
		{"101 names", func(r *csr.NewRequest) { r.Spec.AltNames = dns(101) }, []string{"subject alternative name: too_many"}},
		{"192 names where they are allowed", func(r *csr.NewRequest) { r.Spec.AltNames, r.Spec.MaxAltNames = dns(192), 192 }, nil},
		{"193 names", func(r *csr.NewRequest) { r.Spec.AltNames, r.Spec.MaxAltNames = dns(193), 192 }, []string{"subject alternative name: too_many"}},
		{"a DNS name that is an address", func(r *csr.NewRequest) {
			r.Spec.AltNames = []pkcs10.AltName{{Kind: pkcs10.DNSName, Value: "192.0.2.1"}}
		}, []string{"subject alternative name: not_a_dns_name"}},
		{"an address that is a DNS name", func(r *csr.NewRequest) {
			r.Spec.AltNames = []pkcs10.AltName{{Kind: pkcs10.IPAddress, Value: "a.example.com"}}
		}, []string{"subject alternative name: not_an_ip_address"}},
		{"all at once", func(r *csr.NewRequest) {
			r.ID, r.DisplayName, r.Tags, r.Spec = "", "\n", make([]csr.Tag, 31), pkcs10.Spec{Algorithm: "x", Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName}}}
			r.Revision = new(int64(7)) // a broken rule comes before a stale revision
		}, []string{"id: not_an_id", "display name: control_character", "tags: too_many", "key algorithm: not_allowed", "CN: empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := csr.NewRequest{ID: fmt.Sprintf("rule %d", i), Spec: commonName("x")}
			c.edit(&r)
			made, err := b.tryNamed(t, r)
			vs := violationsOf(t, err)
			if got := rules(vs); !slices.Equal(got, c.want) {
				t.Fatalf("violations %q, want %q", got, c.want)
			}
			checkSentences(t, vs)
			if c.want != nil {
				return
			}
			if got, err := b.named(t, r.ID); err != nil || !reflect.DeepEqual(got, made) {
				t.Errorf("created %+v\nstored %+v\nerror %v", made, got, err)
			}
		})
	}
}

func TestIDsThatCannotBe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, id := range []string{"", ".", "..", "a\x00", strings.Repeat("a", 256), strings.Repeat("a", 5000), "\xff"} {
		for what, err := range map[string]error{
			"get":                errorOf(b.named(t, id)),
			"delete":             b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), id),
			"import":             errorOf(b.importNamed(t, id, csr.Import{})),
			"self-sign":          errorOf(b.selfSign(t, id, nil)),
			"certificate":        errorOf(b.namedCertificate(t, id)),
			"delete certificate": b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), id),
		} {
			if got := rules(violationsOf(t, err)); !slices.Equal(got, []string{"id: not_an_id"}) {
				t.Errorf("%s %q: %v", what, id, err)
			}
		}
	}
}

// counting counts the keys that are made.
type counting struct {
	keystore.Custodian
	made *atomic.Int64
}

func (c counting) Generate(ctx context.Context, s keystore.KeySpec) (keystore.Key, error) {
	c.made.Add(1)
	return c.Custodian.Generate(ctx, s)
}

func newCountingBench(t *testing.T) (bench, *atomic.Int64) {
	t.Helper()
	var made atomic.Int64
	b := openBench(t, t.TempDir(), func(c keystore.Custodian) keystore.Custodian { return counting{curveOnly{c}, &made} })
	made.Store(0)
	return b, &made
}

func TestRefusalsMakeNoKey(t *testing.T) {
	t.Parallel()
	b, made := newCountingBench(t)
	b = b.with(t, func(c *csr.Config) { c.MaxRequests = 2 })
	first := b.createNamed(t, csr.NewRequest{ID: "a", Spec: commonName("a"), Revision: new(int64(0))})
	b.createNamed(t, csr.NewRequest{ID: "b", Spec: commonName("b")})
	made.Store(0)
	for _, c := range []struct {
		name    string
		request csr.NewRequest
		want    csr.Kind
	}{
		{"taken", csr.NewRequest{ID: "a", Spec: commonName("z")}, csr.Exists},
		{"taken, with its revision", csr.NewRequest{ID: "a", Spec: commonName("z"), Revision: new(int64(0))}, csr.Exists},
		{"stale", csr.NewRequest{ID: "c", Spec: commonName("z"), Revision: new(int64(1))}, csr.Stale},
		{"negative revision", csr.NewRequest{ID: "c", Spec: commonName("z"), Revision: new(int64(-1))}, csr.Stale},
		{"full", csr.NewRequest{ID: "c", Spec: commonName("z")}, csr.Invalid},
	} {
		_, err := b.tryNamed(t, c.request)
		if err == nil || kindOf(err) != c.want {
			t.Errorf("%s: error %v, want kind %v", c.name, err, c.want)
		}
		if c.want == csr.Invalid {
			if vs := violationsOf(t, err); len(vs) != 1 || vs[0] != (pkcs10.Violation{Field: csr.Collection, Rule: pkcs10.Full, Limit: "2"}) {
				t.Errorf("violations %+v", vs)
			}
		}
	}
	if n := made.Load(); n != 0 {
		t.Errorf("%d keys were made", n)
	}
	if got, err := b.named(t, "a"); err != nil || !reflect.DeepEqual(got, first) {
		t.Errorf("the taken id was touched: %+v, error %v", got, err)
	}
	if err := b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	b.createNamed(t, csr.NewRequest{ID: "c", Spec: commonName("c")})
}

func TestOneOfManyCreates(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for round := range 10 {
		id := fmt.Sprint(round)
		var succeeded atomic.Int64
		var winner atomic.Pointer[csr.NamedRequest]
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				made, err := b.tryNamed(t, csr.NewRequest{ID: id, Spec: commonName("x")})
				if err == nil {
					succeeded.Add(1)
					winner.Store(&made)
				} else if kindOf(err) != csr.Exists {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := b.named(t, id)
		if err != nil || succeeded.Load() != 1 || !reflect.DeepEqual(got, *winner.Load()) {
			t.Fatalf("%d succeeded, error %v", succeeded.Load(), err)
		}
	}
}

// Of imports, self-signings and deletions of one request at once, one wins: the
// others find nothing.
func TestOneOfManyUsesTheRequest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	for round := range 20 {
		id := fmt.Sprint(round)
		made := b.createNamed(t, csr.NewRequest{ID: id, Spec: commonName("x")})
		issued := root.Issue(t, "x", parseRequest(t, made.PEM).PublicKey)
		before := len(b.certificates(t))
		var certificates, deletions atomic.Int64
		use := []func() error{
			func() error {
				if _, err := b.importNamed(t, id, csr.Import{PEM: pemOf(issued)}); err != nil {
					return err
				}
				certificates.Add(1)
				return nil
			},
			func() error {
				if _, err := b.selfSign(t, id, nil); err != nil {
					return err
				}
				certificates.Add(1)
				return nil
			},
			func() error {
				if err := b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), id); err != nil {
					return err
				}
				deletions.Add(1)
				return nil
			},
		}
		var wg sync.WaitGroup
		for i := range 9 {
			wg.Go(func() {
				if err := use[i%3](); err != nil && kindOf(err) != csr.NotFound {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := len(b.certificates(t)) - before; certificates.Load()+deletions.Load() != 1 || int64(n) != certificates.Load() {
			t.Fatalf("%d certificates and %d deletions were reported, %d certificates made", certificates.Load(), deletions.Load(), n)
		}
	}
}

// An import that is overtaken by a new request of the same id must not put the
// certificate over the new key.
func TestImportIsOvertaken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	root := kit.NewCA(t, "root", noon())
	made := b.createNamed(t, csr.NewRequest{ID: "x", Spec: commonName("x")})
	issued := root.Issue(t, "x", parseRequest(t, made.PEM).PublicKey)
	b.afterLook(csr.RequestSlot("x"), func() error {
		err := b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), "x")
		made = b.createNamed(t, csr.NewRequest{ID: "x", Spec: commonName("x")})
		return err
	})
	if _, err := b.importNamed(t, "x", csr.Import{PEM: pemOf(issued)}); !isMismatch(err) {
		t.Errorf("error %v", err)
	}
	if got, err := b.named(t, "x"); err != nil || !reflect.DeepEqual(got, made) {
		t.Errorf("the new request was touched: %v", err)
	}
	if !kit.SameKey(b.privateAt(t, csr.RequestSlot("x")), parseRequest(t, made.PEM).PublicKey) {
		t.Error("the key is not that of the request")
	}
	if n := len(b.certificates(t)); n != 0 {
		t.Errorf("%d certificates", n)
	}
}

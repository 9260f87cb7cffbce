package csr_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// The whole life of named objects with real keys, over a restart.
func TestLifeOfANamedCertificate(t *testing.T) {
	t.Parallel()
	asGiven := func(c keystore.Custodian) keystore.Custodian { return c }
	dir := t.TempDir()
	b := openBench(t, dir, asGiven)
	now := noon().Add(1234567 * time.Microsecond)
	b = b.with(t, func(c *csr.Config) { c.Now = func() time.Time { return now.In(time.FixedZone("elsewhere", 3600)) } })
	made, second := b.makeRequests(t)

	root := kit.NewCA(t, "root", noon())
	key := parseRequest(t, made.PEM).PublicKey
	issued := root.Issue(t, "web", key, func(c *x509.Certificate) {
		c.KeyUsage, c.IsCA, c.BasicConstraintsValid = x509.KeyUsageCertSign, true, true
	})
	now = now.Add(time.Hour)
	imported, err := b.importNamed(t, made.ID, csr.Import{PEM: pemOf(issued, root.Cert), Revision: new(int64(0))})
	if err != nil {
		t.Fatal(err)
	}
	want := csr.Object{
		ID: imported.ID, UniqueID: imported.ID, Labels: csr.Labels{DisplayName: "Web"}, CreatedBy: "nora", ModifiedBy: "nora",
		Created: made.Created.Add(time.Hour), Modified: made.Created.Add(time.Hour),
	}
	if len(imported.ID) != 36 || !reflect.DeepEqual(imported.Object, want) || imported.PEM != kit.PEM(issued, root.Cert) || len(imported.Facts) != 2 {
		t.Errorf("imported %+v, want %+v", imported.Object, want)
	}
	if got := b.stored(t, csr.CertificateSlot(imported.ID)).Spec; !reflect.DeepEqual(got, made.Spec) {
		t.Errorf("what the request said became %+v", got)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}

	b = openBench(t, dir, asGiven)
	if got, err := b.namedCertificate(t, imported.ID); err != nil || !reflect.DeepEqual(got, imported) {
		t.Errorf("stored %+v, error %v, want %+v", got, err, imported)
	}
	if got, err := b.named(t, second.ID); err != nil || !reflect.DeepEqual(got, second) {
		t.Errorf("stored %+v, error %v, want %+v", got, err, second)
	}
	if !kit.SameKey(b.privateAt(t, csr.CertificateSlot(imported.ID)), key) {
		t.Error("the key of the certificate is not that of the request")
	}
	b.deleteAll(t, imported.ID, second.ID)
}

// makeRequests makes a request that says much, and one that says little.
func (b bench) makeRequests(t *testing.T) (made, second csr.NamedRequest) {
	t.Helper()
	request := csr.NewRequest{
		ID:     "web/1 ü",
		Labels: csr.Labels{DisplayName: "Web", Description: "line\n\tline", Tags: []csr.Tag{{Scope: "s", Tag: "t"}, {}}},
		Spec: pkcs10.Spec{
			Algorithm: pkcs10.ECDSA, KeySize: new(int64(384)), CA: true,
			Subject: []pkcs10.Attribute{{Type: pkcs10.OrganizationalUnit, Value: "B"}, {Type: pkcs10.CommonName, Value: "web"},
				{Type: pkcs10.OrganizationalUnit, Value: "A"}, {Type: pkcs10.Country, Value: "DE"}},
			AltNames: []pkcs10.AltName{{Kind: pkcs10.DNSName, Value: "web.example.com"}, {Kind: pkcs10.IPAddress, Value: "192.0.2.1"}},
		},
	}
	made = b.createNamed(t, request)
	at := noon().Add(1234 * time.Millisecond)
	want := csr.Object{
		ID: "web/1 ü", UniqueID: made.UniqueID, Labels: request.Labels, CreatedBy: "nora", ModifiedBy: "nora", Created: at, Modified: at,
	}
	if len(made.UniqueID) != 36 || !reflect.DeepEqual(made.Object, want) || !reflect.DeepEqual(made.Spec, request.Spec) {
		t.Errorf("made %+v, want %+v and %+v", made, want, request.Spec)
	}
	second = b.createNamed(t, csr.NewRequest{ID: "rsa", Spec: commonName("rsa")})
	if *second.Spec.KeySize != 2048 || second.Spec.Algorithm != pkcs10.RSA || second.DisplayName != "rsa" {
		t.Errorf("defaults: %+v", second)
	}
	return made, second
}

// deleteAll deletes both objects, after which no operation finds either.
func (b bench) deleteAll(t *testing.T, certificate, request string) {
	t.Helper()
	removeCertificate := func() error {
		return b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), certificate)
	}
	removeRequest := func() error { return b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), request) }
	if err := errors.Join(removeCertificate(), removeRequest()); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"certificate":        errorOf(b.namedCertificate(t, certificate)),
		"delete certificate": removeCertificate(),
		"request":            errorOf(b.named(t, request)),
		"delete request":     removeRequest(),
		"import":             errorOf(b.importNamed(t, request, csr.Import{})),
		"self-sign":          errorOf(b.selfSign(t, request, nil)),
		"another case of it": errorOf(b.named(t, strings.ToUpper(request))),
		"request of that id": errorOf(b.named(t, certificate)),
	} {
		if kindOf(err) != csr.NotFound {
			t.Errorf("%s after deletion: %v", what, err)
		}
	}
	if n := len(b.requests(t)) + len(b.certificates(t)); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

// namedRule is an edit of a request that is fine, and the rules that it breaks then.
type namedRule struct {
	name string
	edit func(*csr.NewRequest)
	want []string
}

// namedRules are the rules of objects, and those of specs that generated specs do
// not reach.
func namedRules() []namedRule {
	text := func(n int) string { return strings.Repeat("ü", n) }
	id := func(id string) func(*csr.NewRequest) { return func(r *csr.NewRequest) { r.ID = id } }
	name := func(name string) func(*csr.NewRequest) { return func(r *csr.NewRequest) { r.DisplayName = name } }
	description := func(text string) func(*csr.NewRequest) { return func(r *csr.NewRequest) { r.Description = text } }
	tags := func(tags ...csr.Tag) func(*csr.NewRequest) { return func(r *csr.NewRequest) { r.Tags = tags } }
	noID := []string{"id: not_an_id"}
	return []namedRule{
		{"id of 255 bytes", id(strings.Repeat("i", 255)), nil},
		{"id of 256 bytes", id(text(128)), noID},
		{"no id", id(""), noID}, {"dot", id("."), noID}, {"two dots", id(".."), noID}, {"three dots", id("..."), nil},
		{"slash", id("../a//b/"), nil},
		{"NUL in the id", id("a\x00"), noID}, {"DEL in the id", id("a\x7f"), noID}, {"id is not UTF-8", id("a\xff"), noID},
		{"display name, 255", name(strings.Repeat("𝒳", 255)), nil},
		{"display name, 256", name(text(256)), []string{"display name: too_long"}},
		{"display name of two lines", name("a\nb"), []string{"display name: control_character"}},
		{"description, 1024", description(text(1023) + "\n"), nil},
		{"description, 1025", description(text(1025)), []string{"description: too_long"}},
		{"description with lines and tabs", description("a\r\n\tb"), nil},
		{"description with escape", description("\x1b[2J"), []string{"description: control_character"}},
		{"description with direction", description("\u202e"), []string{"description: control_character"}},
		{"description is not UTF-8", description("\xff"), []string{"description: invalid_utf8"}},
		{"30 tags", tags(make([]csr.Tag, 30)...), nil},
		{"31 tags", tags(make([]csr.Tag, 31)...), []string{"tags: too_many"}},
		{"longest tag", tags(csr.Tag{Scope: text(128), Tag: text(256)}), nil},
		{"long scope", tags(csr.Tag{Scope: text(129)}), []string{"tags: too_long"}},
		{"long tag", tags(csr.Tag{}, csr.Tag{Tag: text(257)}), []string{"tags: too_long"}},
		{"tag with newline", tags(csr.Tag{Tag: "\n"}), []string{"tags: control_character"}},
		{"DSA", func(r *csr.NewRequest) { r.Spec.Algorithm = "DSA" }, []string{"key algorithm: not_allowed"}},
		{"all at once", func(r *csr.NewRequest) {
			r.ID, r.DisplayName, r.Tags, r.Spec = "", "\n", make([]csr.Tag, 31), pkcs10.Spec{Algorithm: "x", Subject: []pkcs10.Attribute{{Type: pkcs10.CommonName}}}
			r.Revision = new(int64(7)) // a broken rule comes before a stale revision
		}, []string{"id: not_an_id", "display name: control_character", "tags: too_many", "key algorithm: not_allowed", "CN: empty"}},
	}
}

func TestNamedRules(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, c := range namedRules() {
		r := csr.NewRequest{ID: fmt.Sprintf("rule %d", i), Spec: commonName("x")}
		c.edit(&r)
		made, err := b.tryNamed(t, r)
		vs := violationsOf(t, err)
		if got := kit.Rules(vs); !slices.Equal(got, c.want) {
			t.Errorf("%s: violations %q, want %q", c.name, got, c.want)
		}
		kit.CheckSentences(t, vs)
		if got, err := b.named(t, r.ID); c.want == nil && (err != nil || !reflect.DeepEqual(got, made)) {
			t.Errorf("%s: created %+v\nstored %+v\nerror %v", c.name, made, got, err)
		}
	}
	for o, operation := range map[string]func(id string) error{
		"get":         func(id string) error { return errorOf(b.named(t, id)) },
		"delete":      func(id string) error { return b.namedGrant(t, csr.DeleteNamedCSR).DeleteNamedCSR(t.Context(), id) },
		"import":      func(id string) error { return errorOf(b.importNamed(t, id, csr.Import{})) },
		"self-sign":   func(id string) error { return errorOf(b.selfSign(t, id, nil)) },
		"certificate": func(id string) error { return errorOf(b.namedCertificate(t, id)) },
		"delete certificate": func(id string) error {
			return b.namedGrant(t, csr.DeleteNamedCertificate).DeleteNamedCertificate(t.Context(), id)
		},
	} {
		for _, id := range []string{"", ".", "..", "a\x00", strings.Repeat("a", 256), "\xff"} {
			if got := kit.Rules(violationsOf(t, operation(id))); !slices.Equal(got, []string{"id: not_an_id"}) {
				t.Errorf("%s %q: %q", o, id, got)
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

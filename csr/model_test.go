package csr_test

import (
	"crypto/x509"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"attestcsr/csr"
	"attestcsr/test/kit"
)

// model is what the named objects must be: two maps.
type model struct {
	t    *testing.T
	b    bench
	root *kit.CA
	now  time.Time

	requests     map[string]csr.NamedRequest
	certificates map[string]csr.NamedCertificate
}

const modelLimit = 3

// Any sequence of operations on named objects does what it does to two maps.
func TestNamedObjectsModel(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: t, b: newBench(t), root: root, now: noon(),
			requests: map[string]csr.NamedRequest{}, certificates: map[string]csr.NamedCertificate{}}
		defer func() {
			if err := m.b.close(); err != nil {
				rt.Error(err)
			}
		}()
		m.b = m.b.with(t, func(c *csr.Config) {
			c.MaxRequests = modelLimit
			c.Now = func() time.Time { return m.now }
		})
		rt.Repeat(map[string]func(*rapid.T){
			"create":             m.create,
			"get":                m.get,
			"delete":             m.remove,
			"import":             m.importCertificate,
			"self-sign":          m.selfSign,
			"self-sign new":      m.selfSignNew,
			"get certificate":    m.getCertificate,
			"delete certificate": m.removeCertificate,
			"list":               m.list,
			"time passes": func(rt *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 3).Draw(rt, "ms")) * time.Millisecond)
			},
			"": m.check,
		})
	})
}

func drawID(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "a/b", "B", "ü", "a b"}).Draw(rt, "id")
}

func drawRevision(rt *rapid.T) *int64 {
	return rapid.SampledFrom([]*int64{nil, nil, new(int64(0)), new(int64(1))}).Draw(rt, "revision")
}

func drawLabels(rt *rapid.T) csr.Labels {
	return rapid.SampledFrom([]csr.Labels{{}, {DisplayName: "same"}, {DisplayName: "other", Tags: []csr.Tag{{Tag: "t"}}}, {Description: "d", Tags: []csr.Tag{}}}).Draw(rt, "labels")
}

// labelled is what becomes of labels.
func labelled(l csr.Labels, otherwise string) csr.Labels {
	if l.DisplayName == "" {
		l.DisplayName = otherwise
	}
	if len(l.Tags) == 0 {
		l.Tags = nil
	}
	return l
}

func wantKind(rt *rapid.T, err error, want csr.Kind) {
	if err == nil || kindOf(err) != want {
		rt.Fatalf("error %v, want kind %v", err, want)
	}
}

func stale(revision *int64) bool { return revision != nil && *revision != 0 }

func (m *model) create(rt *rapid.T) {
	r := csr.NewRequest{ID: drawID(rt), Labels: drawLabels(rt), Revision: drawRevision(rt), Spec: commonName("x")}
	r.Spec.CA = rapid.Bool().Draw(rt, "CA")
	made, err := m.b.tryNamed(m.t, r)
	switch _, taken := m.requests[r.ID]; {
	case taken:
		wantKind(rt, err, csr.Exists)
	case stale(r.Revision):
		wantKind(rt, err, csr.Stale)
	case len(m.requests) == modelLimit:
		wantKind(rt, err, csr.Invalid)
	case err != nil:
		rt.Fatal(err)
	default:
		want := csr.Object{ID: r.ID, UniqueID: made.UniqueID, Labels: labelled(r.Labels, r.ID),
			CreatedBy: "nora", ModifiedBy: "nora", Created: m.now, Modified: m.now}
		if !reflect.DeepEqual(made.Object, want) {
			rt.Fatalf("created %+v, want %+v", made.Object, want)
		}
		m.requests[r.ID] = made
	}
}

func (m *model) get(rt *rapid.T) {
	id := drawID(rt)
	got, err := m.b.named(m.t, id)
	want, ok := m.requests[id]
	if !ok {
		wantKind(rt, err, csr.NotFound)
	} else if err != nil || !reflect.DeepEqual(got, want) {
		rt.Fatalf("%+v, error %v, want %+v", got, err, want)
	}
}

func (m *model) remove(rt *rapid.T) {
	id := drawID(rt)
	err := m.b.namedGrant(m.t, csr.DeleteNamedCSR).DeleteNamedCSR(m.t.Context(), id)
	if _, ok := m.requests[id]; !ok {
		wantKind(rt, err, csr.NotFound)
	} else if err != nil {
		rt.Fatal(err)
	}
	delete(m.requests, id)
}

func (m *model) importCertificate(rt *rapid.T) {
	id := drawID(rt)
	request, ok := m.requests[id]
	key := kit.NewKey(m.t).Public()
	mine := ok && rapid.Bool().Draw(rt, "for this key")
	if mine {
		key = parseRequest(m.t, request.PEM).PublicKey
	}
	usage := x509.KeyUsageDigitalSignature
	if request.Spec.CA {
		usage = x509.KeyUsageCertSign
	}
	in := csr.Import{Labels: drawLabels(rt), Revision: drawRevision(rt)}
	in.PEM = pemOf(m.root.Issue(m.t, "x", key, func(c *x509.Certificate) {
		c.KeyUsage, c.IsCA, c.BasicConstraintsValid = usage, request.Spec.CA, true
	}))
	made, err := m.b.importNamed(m.t, id, in)
	switch {
	case !ok:
		wantKind(rt, err, csr.NotFound)
	case stale(in.Revision):
		wantKind(rt, err, csr.Stale)
	case !mine:
		if !isMismatch(err) {
			rt.Fatalf("error %v", err)
		}
	case err != nil:
		rt.Fatal(err)
	default:
		m.promoted(rt, id, made, labelled(in.Labels, request.DisplayName))
	}
}

func (m *model) selfSign(rt *rapid.T) {
	id := drawID(rt)
	request, ok := m.requests[id]
	made, err := m.b.selfSign(m.t, id, nil)
	switch {
	case !ok:
		wantKind(rt, err, csr.NotFound)
	case err != nil:
		rt.Fatal(err)
	default:
		m.promoted(rt, id, made, request.Labels)
	}
}

// promoted notes that a request became a certificate.
func (m *model) promoted(rt *rapid.T, id string, made csr.NamedCertificate, labels csr.Labels) {
	if !kit.SameKey(leafOf(m.t, made).PublicKey, parseRequest(m.t, m.requests[id].PEM).PublicKey) {
		rt.Fatal("the certificate is not for the request's key")
	}
	delete(m.requests, id)
	m.made(rt, made, labels)
}

func (m *model) selfSignNew(rt *rapid.T) {
	labels := drawLabels(rt)
	made, err := m.b.namedGrant(m.t, csr.SelfSignNew).SelfSignNew(m.t.Context(), csr.NewRequest{ID: drawID(rt), Labels: labels, Spec: commonName("x")}, nil)
	if err != nil {
		rt.Fatal(err)
	}
	m.made(rt, made, labelled(labels, made.ID))
}

func (m *model) made(rt *rapid.T, c csr.NamedCertificate, labels csr.Labels) {
	if _, known := m.certificates[c.ID]; known {
		rt.Fatalf("id %s came twice", c.ID)
	}
	want := csr.Object{ID: c.ID, UniqueID: c.ID, Labels: labels, CreatedBy: "nora", ModifiedBy: "nora", Created: m.now, Modified: m.now}
	if !reflect.DeepEqual(c.Object, want) {
		rt.Fatalf("made %+v, want %+v", c.Object, want)
	}
	if !kit.SameKey(m.b.privateAt(m.t, csr.CertificateSlot(c.ID)), leafOf(m.t, c).PublicKey) {
		rt.Fatal("the key is not the certified one")
	}
	m.certificates[c.ID] = c
}

func (m *model) drawCertificate(rt *rapid.T) string {
	return rapid.SampledFrom(append(slices.Sorted(maps.Keys(m.certificates)), "a")).Draw(rt, "certificate")
}

func (m *model) getCertificate(rt *rapid.T) {
	id := m.drawCertificate(rt)
	got, err := m.b.namedCertificate(m.t, id)
	want, ok := m.certificates[id]
	if !ok {
		wantKind(rt, err, csr.NotFound)
	} else if err != nil || !reflect.DeepEqual(got, want) {
		rt.Fatalf("%+v, error %v, want %+v", got, err, want)
	}
}

func (m *model) removeCertificate(rt *rapid.T) {
	id := m.drawCertificate(rt)
	err := m.b.namedGrant(m.t, csr.DeleteNamedCertificate).DeleteNamedCertificate(m.t.Context(), id)
	if _, ok := m.certificates[id]; !ok {
		wantKind(rt, err, csr.NotFound)
	} else if err != nil {
		rt.Fatal(err)
	}
	delete(m.certificates, id)
}

func (m *model) list(rt *rapid.T) {
	page := csr.Page{
		Sort:       rapid.SampledFrom(orders()).Draw(rt, "sort"),
		Descending: rapid.Bool().Draw(rt, "descending"),
		Limit:      rapid.IntRange(1, 4).Draw(rt, "limit"),
	}
	order := func(a, b csr.Object) int {
		if page.Descending {
			a, b = b, a
		}
		return compareBy(page.Sort, a, b)
	}
	requests := slices.SortedFunc(maps.Values(m.requests), func(a, b csr.NamedRequest) int { return order(a.Object, b.Object) })
	comparePages(rt, requests, page, func(p csr.Page) (csr.Listing[csr.NamedRequest], error) {
		return m.b.namedGrant(m.t, csr.ListNamedCSRs).ListNamedCSRs(m.t.Context(), p)
	})
	certificates := slices.SortedFunc(maps.Values(m.certificates), func(a, b csr.NamedCertificate) int { return order(a.Object, b.Object) })
	comparePages(rt, certificates, page, func(p csr.Page) (csr.Listing[csr.NamedCertificate], error) {
		return m.b.namedGrant(m.t, csr.ListNamedCertificates).ListNamedCertificates(m.t.Context(), p)
	})
}

// comparePages reads a list by pages and compares it with what it must be.
func comparePages[T any](rt *rapid.T, want []T, page csr.Page, list func(csr.Page) (csr.Listing[T], error)) {
	var got []T
	for {
		l, err := list(page)
		if err != nil || l.Total != len(want) || l.Next != nil && len(l.Items) != page.Limit {
			rt.Fatalf("%d items, total %d, error %v, want %d in all", len(l.Items), l.Total, err, len(want))
		}
		got = append(got, l.Items...)
		if l.Next == nil {
			break
		}
		page.After = l.Next
	}
	if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
		rt.Fatalf("listed %+v\nwant %+v", got, want)
	}
}

// check holds after every step.
func (m *model) check(rt *rapid.T) {
	if n := len(m.b.requests(m.t)); n != len(m.requests) {
		rt.Fatalf("%d requests, want %d", n, len(m.requests))
	}
	if n := len(m.b.certificates(m.t)); n != len(m.certificates) {
		rt.Fatalf("%d certificates, want %d", n, len(m.certificates))
	}
}

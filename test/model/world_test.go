package model_test

import (
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// world is the model: all that clients of both dialects may see, as plain maps.
// Operations change it as they are to change the service.
type world struct {
	hasPending bool
	pending    string // PEM of the pending CSR; "" while nobody was told
	subject    string // common name of the pending CSR
	installed  string // PEM of the installed certificate
	csrs       map[string]*named
	certs      map[string]*named
	// withoutID are certificates that were made, but whose ids nobody was told.
	withoutID []*named
}

// named is an object of the NSX dialect. doc is all of it, nil until it has been
// seen, and never changes then.
type named struct {
	certificate bool
	id          string // of a CSR
	user        string // who made it
	display     string // display_name; "" is the id
	subject     string // common name of a CSR
	chain       string // of a certificate that was given: its PEM
	key         crypto.PublicKey
	doc         map[string]any
}

func (w *world) clone() *world {
	c := *w
	copied := func(n *named) *named {
		one := *n // doc is never changed
		return &one
	}
	c.csrs, c.certs, c.withoutID = map[string]*named{}, map[string]*named{}, nil
	for id, n := range w.csrs {
		c.csrs[id] = copied(n)
	}
	for id, n := range w.certs {
		c.certs[id] = copied(n)
	}
	for _, n := range w.withoutID {
		c.withoutID = append(c.withoutID, copied(n))
	}
	return &c
}

// csrMax is limits.csrs of the service under test.
const csrMax = 4

// publicKey is the key of a CSR, or nil while it has not been seen.
func (n *named) publicKey() crypto.PublicKey {
	text, _ := n.doc["pem_encoded"].(string)
	return keyOf(text)
}

// keyOf returns the public key of a CSR, or of the first certificate of a chain; nil
// where there is neither.
func keyOf(text string) crypto.PublicKey {
	if r, err := kit.ParseCSR(text); err == nil {
		return r.PublicKey
	}
	if chain, err := kit.ParseChain(text); err == nil {
		return chain[0].PublicKey
	}
	return nil
}

// accept compares the object with one that was answered, and takes over what only
// the service could know.
func (n *named) accept(doc map[string]any) error {
	if n.doc != nil {
		if !reflect.DeepEqual(withoutTime(n.doc), withoutTime(doc)) {
			return fmt.Errorf("it was\n%v\nand is\n%v", n.doc, doc)
		}
		return nil
	}
	id, kind := n.id, "TlsCsr"
	if n.certificate {
		id, kind = fmt.Sprint(doc["unique_id"]), "TlsCertificate"
	}
	display := n.display
	if display == "" {
		display = id
	}
	for name, want := range map[string]any{
		"resource_type": kind, "id": id, "display_name": display, "_create_user": n.user, "_last_modified_user": n.user, "_revision": 0.0,
	} {
		if doc[name] != want {
			return fmt.Errorf("%s is %v, want %v", name, doc[name], want)
		}
	}
	text, _ := doc["pem_encoded"].(string)
	check := n.checkRequest
	if n.certificate {
		check = n.checkChain
	}
	if err := check(text); err != nil {
		return err
	}
	n.doc = doc
	return nil
}

// withoutTime is a document but for what may change by itself.
func withoutTime(doc map[string]any) map[string]any {
	details, ok := doc["details"].([]any)
	if !ok {
		return doc
	}
	doc = maps.Clone(doc)
	var without []any
	for _, d := range details {
		one := maps.Clone(d.(map[string]any))
		delete(one, "is_valid")
		without = append(without, one)
	}
	doc["details"] = without
	return doc
}

func (n *named) checkRequest(text string) error {
	r, err := kit.ParseCSR(text)
	if err == nil && r.Subject.CommonName != n.subject {
		err = fmt.Errorf("a CSR for %s, want %s", r.Subject, n.subject)
	}
	return err
}

func (n *named) checkChain(text string) error {
	chain, err := kit.ParseChain(text)
	switch {
	case err != nil:
		return err
	case n.key != nil && !kit.SameKey(n.key, chain[0].PublicKey):
		return fmt.Errorf("the certificate is for another key than its CSR")
	case n.chain == "":
		// Only who has the key of the CSR can have signed it.
		return chain[0].CheckSignature(chain[0].SignatureAlgorithm, chain[0].RawTBSCertificate, chain[0].Signature)
	case n.chain != text:
		return fmt.Errorf("another chain than the one that was given")
	}
	return nil
}

// observation is all that the service shows; pending is "" where there is none.
type observation struct {
	pending, installed string
	csrs, certs        listing
}

// listing is a list of the NSX dialect.
type listing struct {
	Results     []map[string]any `json:"results"`
	ResultCount int              `json:"result_count"`
	Cursor      string           `json:"cursor"`
}

// observe reads everything.
func observe(s *start.Instance) (observation, error) {
	var o observation
	var pending struct{ CSR string }
	var installed struct{ Certificate string }
	for path, into := range map[string]any{start.CSRPath: &pending, start.CertificatePath: &installed, start.NSXCSRs: &o.csrs, start.NSXCertificates + "?details=true": &o.certs} {
		a, err := s.Do("GET", path, "", start.As("nora", "nora"))
		if err != nil {
			return o, fmt.Errorf("GET %s: %w", path, err)
		}
		if path == start.CSRPath && a.Status == 404 {
			continue
		}
		if err := json.Unmarshal([]byte(a.Body), into); err != nil || a.Status != 200 {
			return o, fmt.Errorf("GET %s: %w: %d %s", path, err, a.Status, a.Body)
		}
	}
	o.pending, o.installed = pending.CSR, installed.Certificate
	return o, nil
}

// accept compares the world with what the service shows, and takes over what only
// the service could know.
func (w *world) accept(o observation) error {
	switch {
	case w.hasPending != (o.pending != ""):
		return fmt.Errorf("a pending CSR: %t, but there is %q", w.hasPending, o.pending)
	case o.installed != w.installed:
		return fmt.Errorf("another certificate is installed:\n%s\nwant\n%s", o.installed, w.installed)
	case w.hasPending:
		if err := w.acceptPending(o.pending); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		listing
		want int
	}{{o.csrs, len(w.csrs)}, {o.certs, len(w.certs) + len(w.withoutID)}} {
		if len(l.Results) != l.want || l.ResultCount != l.want || l.Cursor != "" {
			return fmt.Errorf("%d listed, result_count %d, want %d", len(l.Results), l.ResultCount, l.want)
		}
	}
	for _, doc := range o.csrs.Results {
		id, _ := doc["id"].(string)
		n := w.csrs[id]
		if n == nil {
			return fmt.Errorf("a CSR that nobody made: %v", doc)
		}
		if err := n.accept(doc); err != nil {
			return fmt.Errorf("CSR %q: %w", id, err)
		}
	}
	for _, doc := range o.certs.Results {
		if err := w.acceptCertificate(doc); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) acceptPending(text string) error {
	if w.pending != "" && text != w.pending {
		return fmt.Errorf("another CSR is pending:\n%s\nwant\n%s", text, w.pending)
	}
	r, err := kit.ParseCSR(text)
	if err == nil && r.Subject.CommonName != w.subject {
		err = fmt.Errorf("a CSR for %s is pending, want %s", r.Subject, w.subject)
	}
	if err == nil {
		w.pending = text
	}
	return err
}

func (w *world) acceptCertificate(doc map[string]any) error {
	id, _ := doc["id"].(string)
	if n := w.certs[id]; n != nil {
		if err := n.accept(doc); err != nil {
			return fmt.Errorf("certificate %q: %w", id, err)
		}
		return nil
	}
	var reasons []string
	for i, n := range w.withoutID {
		err := n.accept(doc)
		if err == nil {
			w.withoutID = slices.Delete(w.withoutID, i, i+1)
			w.certs[id] = n
			return nil
		}
		reasons = append(reasons, err.Error())
	}
	return fmt.Errorf("a certificate that nobody made: %v\n%s", doc, strings.Join(reasons, "\n"))
}

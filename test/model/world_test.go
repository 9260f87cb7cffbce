package model_test

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

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
	// untold are certificates that were made, but whose ids nobody was told.
	untold []*named
}

// named is an object of the NSX dialect. What is known of it beforehand is in
// want; doc is all of it, nil until it has been seen, and never changes then.
type named struct {
	want            map[string]any
	doc             map[string]any
	chain           string           // of a certificate that was given: its PEM
	key             crypto.PublicKey // of a certificate that was made from a CSR: that CSR's
	notUntil, after time.Time        // bounds of its time of creation
}

func (w *world) clone() *world {
	c := *w
	copied := map[*named]*named{}
	share := func(n *named) *named {
		if copied[n] == nil {
			one := *n // its maps are never changed
			copied[n] = &one
		}
		return copied[n]
	}
	c.csrs, c.certs, c.untold = map[string]*named{}, map[string]*named{}, nil
	for id, n := range w.csrs {
		c.csrs[id] = share(n)
	}
	for id, n := range w.certs {
		c.certs[id] = share(n)
	}
	for _, n := range w.untold {
		c.untold = append(c.untold, share(n))
	}
	return &c
}

// csrMax is limits.csrs of the service under test.
const csrMax = 4

// spec is what a TlsCsr of the tests says beside its labels.
type spec struct {
	name string // common name
	bits int    // of the curve
	ca   bool
	dns  []string
}

type labels struct {
	display, description string
	tags                 []string
}

// newNamed is an object as far as its creator can know it.
func newNamed(user string, l labels, begun time.Time) *named {
	n := &named{notUntil: begun, want: map[string]any{
		"marked_for_delete": false, "overridden": false, "_system_owned": false, "_protection": "NOT_PROTECTED", "_revision": 0.0,
		"_create_user": user, "_last_modified_user": user,
	}}
	if l.display != "" {
		n.want["display_name"] = l.display
	}
	if l.description != "" {
		n.want["description"] = l.description
	}
	if len(l.tags) > 0 {
		var tags []any
		for _, t := range l.tags {
			tags = append(tags, map[string]any{"scope": "s", "tag": t})
		}
		n.want["tags"] = tags
	}
	return n
}

// newCSR is a TlsCsr as it has to be answered.
func newCSR(id, user string, s spec, l labels, begun time.Time) *named {
	l.display = cmp.Or(l.display, id)
	n := newNamed(user, l, begun)
	maps.Copy(n.want, map[string]any{
		"resource_type": "TlsCsr", "id": id, "path": "/infra/csrs/" + id, "parent_path": "/infra/csrs", "relative_path": id,
		"key_size": float64(s.bits), "algorithm": "EC", "is_ca": s.ca,
		"subject": map[string]any{"attributes": []any{map[string]any{"key": "CN", "value": s.name}}},
	})
	if len(s.dns) > 0 {
		var names []any
		for _, name := range s.dns {
			names = append(names, name)
		}
		n.want["extensions"] = map[string]any{"subject_alt_names": map[string]any{"dns_names": names}}
	}
	return n
}

// newCertificate is a TlsCertificate as it has to be answered: of a CSR, or of
// none.
func newCertificate(user string, l labels, begun time.Time) *named {
	n := newNamed(user, l, begun)
	maps.Copy(n.want, map[string]any{"resource_type": "TlsCertificate", "parent_path": "/infra", "has_private_key": true})
	return n
}

// labelsOf are the labels of a CSR.
func labelsOf(n *named) labels {
	l := labels{display: n.want["display_name"].(string)}
	l.description, _ = n.want["description"].(string)
	tags, _ := n.want["tags"].([]any)
	for _, t := range tags {
		l.tags = append(l.tags, t.(map[string]any)["tag"].(string))
	}
	return l
}

// csrKey is the public key of a CSR, or nil while it has not been seen.
func (n *named) csrKey() crypto.PublicKey {
	if n.doc == nil {
		return nil
	}
	r, err := requestOf(n.doc["pem_encoded"].(string))
	if err != nil {
		return nil
	}
	return r.PublicKey
}

// meet compares the object with one that was answered, and takes over what only
// the service could know.
func (n *named) meet(doc map[string]any) error {
	if n.doc != nil {
		if !reflect.DeepEqual(withoutTime(n.doc), withoutTime(doc)) {
			return fmt.Errorf("it was\n%v\nand is\n%v", n.doc, doc)
		}
		return nil
	}
	rest := maps.Clone(doc)
	for name, want := range n.want {
		if !reflect.DeepEqual(rest[name], want) {
			return fmt.Errorf("%s is %v, want %v", name, rest[name], want)
		}
		delete(rest, name)
	}
	at, _ := rest["_create_time"].(float64)
	if at != rest["_last_modified_time"] || time.UnixMilli(int64(at)).Before(n.notUntil.Truncate(time.Millisecond)) || time.UnixMilli(int64(at)).After(n.after) {
		return fmt.Errorf("made at %v, modified at %v, asked for between %v and %v", at, rest["_last_modified_time"], n.notUntil, n.after)
	}
	text, _ := rest["pem_encoded"].(string)
	unique, _ := rest["unique_id"].(string)
	for _, name := range []string{"_create_time", "_last_modified_time", "pem_encoded", "unique_id"} {
		delete(rest, name)
	}
	if len(unique) != 36 {
		return fmt.Errorf("unique_id %q", unique)
	}
	err := n.meetRequest(text)
	if n.want["resource_type"] == "TlsCertificate" {
		err = n.meetCertificate(text, unique, rest)
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("and beside it %v", rest)
	}
	if err != nil {
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

func (n *named) meetRequest(text string) error {
	if n.want["resource_type"] != "TlsCsr" {
		return nil
	}
	r, err := requestOf(text)
	if err != nil {
		return err
	}
	want := n.want["subject"].(map[string]any)["attributes"].([]any)[0].(map[string]any)["value"]
	if r.Subject.CommonName != want {
		return fmt.Errorf("a CSR for %s, want %s", r.Subject, want)
	}
	return nil
}

func (n *named) meetCertificate(text, unique string, rest map[string]any) error {
	if _, given := n.want["display_name"]; !given && rest["display_name"] != unique {
		return fmt.Errorf("display_name %v, want the id", rest["display_name"])
	}
	if rest["id"] != unique || rest["path"] != "/infra/certificates/"+unique || rest["relative_path"] != unique {
		return fmt.Errorf("id %v, path %v", rest["id"], rest["path"])
	}
	chain, err := chainOf(text)
	if err != nil {
		return err
	}
	if details, _ := rest["details"].([]any); len(details) != len(chain) {
		return fmt.Errorf("%d details of %d certificates", len(details), len(chain))
	}
	for _, name := range []string{"display_name", "id", "path", "relative_path", "details"} {
		delete(rest, name)
	}
	if n.key != nil && !sameKey(n.key, chain[0].PublicKey) {
		return fmt.Errorf("the certificate is for another key than its CSR")
	}
	if n.chain != "" {
		if text != n.chain {
			return fmt.Errorf("another chain than the one that was given")
		}
		return nil
	}
	// Only who has the key of the CSR can have signed it.
	return chain[0].CheckSignature(chain[0].SignatureAlgorithm, chain[0].RawTBSCertificate, chain[0].Signature)
}

func sameKey(a, b crypto.PublicKey) bool {
	equal, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && equal.Equal(b)
}

func requestOf(text string) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, fmt.Errorf("not one CSR: %q", text)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	err = r.CheckSignature()
	return r, err
}

func chainOf(text string) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("no certificate: %q", text)
	}
	return chain, nil
}

// observation is all that the service shows.
type observation struct {
	pendingStatus int
	pending       string
	installed     string
	csrs, certs   listing
}

// listing is a page of a list.
type listing struct {
	Results       []map[string]any `json:"results"`
	ResultCount   *int             `json:"result_count"`
	SortBy        string           `json:"sort_by"`
	SortAscending bool             `json:"sort_ascending"`
	Cursor        string           `json:"cursor"`
}

// observe reads everything.
func observe(s *start.Instance) (observation, error) {
	var o observation
	for _, read := range []struct {
		path string
		into any
	}{{start.CSRPath, &o.pending}, {start.CertificatePath, &o.installed}, {nsxCSRs, &o.csrs}, {nsxCertificates, &o.certs}} {
		r := send(s, "GET", read.path, "nora", "")
		if r.err != nil {
			return o, fmt.Errorf("GET %s: %w", read.path, r.err)
		}
		if read.path == start.CSRPath {
			if o.pendingStatus = r.status; r.status == 404 {
				continue
			}
		}
		if r.status != 200 {
			return o, fmt.Errorf("GET %s: %d %s", read.path, r.status, r.body)
		}
		if text, isText := read.into.(*string); isText {
			var members map[string]string
			if err := json.Unmarshal(r.body, &members); err != nil || len(members) != 1 {
				return o, fmt.Errorf("GET %s: %s", read.path, r.body)
			}
			for _, *text = range members {
			}
			continue
		}
		d := json.NewDecoder(bytes.NewReader(r.body))
		d.DisallowUnknownFields()
		if err := d.Decode(read.into); err != nil {
			return o, fmt.Errorf("GET %s: %w", read.path, err)
		}
	}
	return o, nil
}

// meet compares the world with what the service shows, and takes over what only
// the service could know.
func (w *world) meet(o observation) error {
	switch {
	case w.hasPending != (o.pendingStatus == 200):
		return fmt.Errorf("a pending CSR: %t, but %d is answered", w.hasPending, o.pendingStatus)
	case o.installed != w.installed:
		return fmt.Errorf("another certificate is installed:\n%s\nwant\n%s", o.installed, w.installed)
	case w.hasPending:
		if err := w.meetPending(o.pending); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		listing
		want int
	}{{o.csrs, len(w.csrs)}, {o.certs, len(w.certs) + len(w.untold)}} {
		if len(l.Results) != l.want || l.ResultCount == nil || *l.ResultCount != l.want || l.Cursor != "" {
			return fmt.Errorf("%d listed, result_count %v, want %d", len(l.Results), l.ResultCount, l.want)
		}
	}
	for _, doc := range o.csrs.Results {
		id, _ := doc["id"].(string)
		n := w.csrs[id]
		if n == nil {
			return fmt.Errorf("a CSR that nobody made: %v", doc)
		}
		if err := n.meet(doc); err != nil {
			return fmt.Errorf("CSR %q: %w", id, err)
		}
	}
	for _, doc := range o.certs.Results {
		if err := w.meetCertificate(doc); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) meetPending(text string) error {
	if w.pending != "" {
		if text != w.pending {
			return fmt.Errorf("another CSR is pending:\n%s\nwant\n%s", text, w.pending)
		}
		return nil
	}
	r, err := requestOf(text)
	if err == nil && r.Subject.CommonName != w.subject {
		err = fmt.Errorf("a CSR for %s is pending, want %s", r.Subject, w.subject)
	}
	if err == nil {
		w.pending = text
	}
	return err
}

func (w *world) meetCertificate(doc map[string]any) error {
	id, _ := doc["id"].(string)
	if n := w.certs[id]; n != nil {
		if err := n.meet(doc); err != nil {
			return fmt.Errorf("certificate %q: %w", id, err)
		}
		return nil
	}
	var reasons []string
	for i, n := range w.untold {
		err := n.meet(doc)
		if err == nil {
			w.untold = slices.Delete(w.untold, i, i+1)
			w.certs[id] = n
			return nil
		}
		reasons = append(reasons, err.Error())
	}
	return fmt.Errorf("a certificate that nobody made: %v\n%s", doc, strings.Join(reasons, "\n"))
}

package handler_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// attributeOIDs: X.520, as RFC 5280 appendix A.1 has them.
func attributeOIDs() map[string]string {
	return map[string]string{"CN": "2.5.4.3", "C": "2.5.4.6", "L": "2.5.4.7", "ST": "2.5.4.8", "O": "2.5.4.10", "OU": "2.5.4.11"}
}

// request is a certification request taken apart, down to the bytes.
type request struct {
	parsed *x509.CertificateRequest
	wantedCSR
	stringTags []int // of the attributes of the subject
	extensions []string
}

// readRequest takes PEM of one certification request apart by encoding/asn1, and
// lets crypto/x509 check its signature.
func readRequest(text string) (request, error) {
	var r request
	var err error
	if r.parsed, err = kit.ParseCSR(text); err != nil {
		return request{}, err
	}
	if plain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.parsed.Raw}); text != string(plain) {
		return request{}, fmt.Errorf("more than one PEM block: %q", text)
	}
	switch key := r.parsed.PublicKey.(type) {
	case *rsa.PublicKey:
		r.bits = key.N.BitLen()
	case *ecdsa.PublicKey:
		r.curve, r.bits = true, key.Params().BitSize
	}
	if r.parsed.Version != 0 { // RFC 2986 section 4.1
		return request{}, fmt.Errorf("version %d", r.parsed.Version)
	}
	// What makes the request longer than it must be is in none of its fields.
	again, err := asn1.Marshal(asn1.RawValue{FullBytes: r.parsed.Raw})
	if err != nil || !bytes.Equal(again, r.parsed.Raw) {
		return request{}, fmt.Errorf("not DER: %w", err)
	}
	return r, errors.Join(r.readSubject(), r.readExtensions())
}

func (r *request) readSubject() error {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type rdnSET []attribute
	var name []rdnSET
	if rest, err := asn1.Unmarshal(r.parsed.RawSubject, &name); err != nil || len(rest) > 0 {
		return fmt.Errorf("subject: %w, %x left", err, rest)
	}
	for _, rdn := range name {
		if len(rdn) != 1 {
			return fmt.Errorf("an RDN of %d attributes", len(rdn))
		}
		for key, oid := range attributeOIDs() {
			if oid == rdn[0].Type.String() {
				r.subject = append(r.subject, wantedAttribute{key, string(rdn[0].Value.Bytes)})
			}
		}
		r.stringTags = append(r.stringTags, rdn[0].Value.Tag)
	}
	if len(r.subject) != len(name) {
		return fmt.Errorf("attributes of types that nobody asked for: %v", name)
	}
	return nil
}

func (r *request) readExtensions() error {
	for _, e := range r.parsed.Extensions {
		r.extensions = append(r.extensions, fmt.Sprint(e.Id, " ", e.Critical))
		switch {
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}):
			var names []asn1.RawValue
			if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) > 0 {
				return fmt.Errorf("names: %w, %x left", err, rest)
			}
			for _, n := range names {
				if n.Class != asn1.ClassContextSpecific || n.IsCompound {
					return fmt.Errorf("a name of class %d, compound %t", n.Class, n.IsCompound)
				}
				r.names = append(r.names, wantedName{n.Tag, string(n.Bytes)})
			}
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 19}):
			r.ca = bytes.Equal(e.Value, []byte{0x30, 3, 1, 1, 0xff})
		case e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}):
			if !bytes.Equal(e.Value, []byte{3, 2, 2, 4}) { // keyCertSign alone
				return fmt.Errorf("key usage %x", e.Value)
			}
		}
	}
	return nil
}

// wantedExtensions are identifiers with their criticality, in order.
func (w wantedCSR) wantedExtensions() []string {
	var all []string
	if w.ca {
		all = append(all, "2.5.29.19 true", "2.5.29.15 true")
	}
	if len(w.names) > 0 {
		all = append(all, "2.5.29.17 false")
	}
	return all
}

// signature is the algorithm that goes with the key, as crypto/x509 calls it.
func (w wantedCSR) signature() x509.SignatureAlgorithm {
	switch {
	case !w.curve:
		return x509.SHA256WithRSA
	case w.bits == 256:
		return x509.ECDSAWithSHA256
	case w.bits == 384:
		return x509.ECDSAWithSHA384
	}
	return x509.ECDSAWithSHA512
}

// judgeAnswer compares the answer to an accepted spec, and the request in it, with what
// was asked for.
func (s generated) judgeAnswer(a answer) (text string, r request, err error) {
	if s.nsx {
		var made nsxCSR
		if err := json.Unmarshal(a.body, &made); err != nil {
			return "", r, err
		}
		if err := s.want.judgeMembers(made); err != nil {
			return "", r, err
		}
	}
	if text, err = s.pem(a); err == nil {
		r, err = s.want.judge(text)
	}
	return text, r, err
}

// judge compares a certification request with what was asked for, field by field.
func (w wantedCSR) judge(text string) (request, error) {
	r, err := readRequest(text)
	if err != nil {
		return r, err
	}
	for i, a := range r.subject {
		want := asn1.TagUTF8String
		if a.key == "C" {
			want = asn1.TagPrintableString
		}
		if r.stringTags[i] != want {
			return r, fmt.Errorf("%s %q is of the string type %d", a.key, a.value, r.stringTags[i])
		}
	}
	if !reflect.DeepEqual(r.wantedCSR, w) {
		return r, fmt.Errorf("the CSR says\n%+v\nand was asked for\n%+v", r.wantedCSR, w)
	}
	if got, want := r.extensions, w.wantedExtensions(); !slices.Equal(got, want) {
		return r, fmt.Errorf("extensions %q, want %q", got, want)
	}
	if got := r.parsed.SignatureAlgorithm; got != w.signature() {
		return r, fmt.Errorf("signed with %v", got)
	}
	//lint:ignore SA1019 the deprecated field has what is not an extension
	if len(r.parsed.Attributes) > 1 { //nolint:staticcheck // see above
		//lint:ignore SA1019 as above
		return r, fmt.Errorf("attributes beside the extensions: %+v", r.parsed.Attributes) //nolint:staticcheck // see above
	}
	return r, nil
}

// judgeMembers compares what an answer of NSX says beside the request.
func (w wantedCSR) judgeMembers(made nsxCSR) error {
	algorithm := map[bool]string{true: "EC", false: "RSA"}[w.curve]
	names := 0
	if e := made.Extensions; e != nil && e.AltNames != nil {
		names = len(e.AltNames.DNSNames) + len(e.AltNames.IPAddresses)
	}
	if *made.Algorithm != algorithm || *made.KeySize != int64(w.bits) || *made.IsCA != w.ca || len(made.Subject.Attributes) != len(w.subject) || names < len(w.names) {
		return fmt.Errorf("the answer's members: %s", kit.JSON(made))
	}
	return nil
}

// judgeRefusal checks that the answer to a spec says what is wrong with it.
func (s generated) judgeRefusal(t testing.TB, a answer) error {
	switch {
	case len(s.body) > 64<<10:
		if a.status != http.StatusRequestEntityTooLarge {
			return fmt.Errorf("%d for a body of %d bytes", a.status, len(s.body))
		}
		return nil
	case a.status != http.StatusBadRequest:
		return fmt.Errorf("%d %s", a.status, a.body)
	case s.notJSON != "":
		if !bytes.Contains(a.body, []byte(s.notJSON)) {
			return fmt.Errorf("JSON that %s is refused as %s", s.notJSON, a.body)
		}
		return nil
	}
	named, partial := s.named(t, a)
	for _, field := range named {
		if !slices.Contains(s.refused, field) {
			return fmt.Errorf("%s is said to be wrong, not only %q: %s", field, s.refused, a.body)
		}
	}
	for _, field := range s.refused {
		if !partial && !slices.Contains(named, field) {
			return fmt.Errorf("%s is not said to be wrong: %s", field, a.body)
		}
	}
	if len(named) == 0 {
		return fmt.Errorf("no field is named: %s", a.body)
	}
	return nil
}

// named returns the fields that an error document names. It is partial where the shape
// of the body was wrong: then nobody looked at its values.
func (s generated) named(t testing.TB, a answer) (fields []string, partial bool) {
	if s.nsx {
		return namedByNSX(a.body)
	}
	for _, m := range a.vapiError(t).Messages {
		if len(m.Args) > 0 {
			fields = append(fields, m.Args[0])
		}
	}
	return fields, false
}

func namedByNSX(body []byte) (fields []string, partial bool) {
	var doc struct {
		Details string `json:"details"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return nil, false
	}
	inner, _ := strings.CutPrefix(doc.Details, "Field level validation errors: {")
	// The value that breaks a rule is quoted, and may look like a sentence.
	unquoted := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`).ReplaceAllString(strings.TrimSuffix(inner, "}"), `"…"`)
	for sentence := range strings.SplitSeq(unquoted, "; ") {
		name := regexp.MustCompile(`^[a-z0-9_.\[\]]+( [A-Z]+\b)?`).FindString(sentence)
		fields = append(fields, name)
		partial = partial || strings.HasPrefix(name, "extensions.subject_alt_names.")
	}
	return fields, partial
}

// certificateOf reads the one certificate in PEM.
func certificateOf(text string) (*x509.Certificate, error) {
	chain, err := kit.ParseChain(text)
	if err != nil || len(chain) != 1 {
		return nil, fmt.Errorf("not one certificate: %w: %q", err, text)
	}
	return chain[0], nil
}

// judgeSelfSigned compares a certificate that a request signed itself with what
// was asked for.
func (w wantedCSR) judgeSelfSigned(text string) (*x509.Certificate, error) {
	c, err := certificateOf(text)
	if err != nil {
		return nil, err
	}
	// The fields that both have are read as those of a request.
	r := request{parsed: &x509.CertificateRequest{RawSubject: c.RawSubject, Extensions: []pkix.Extension{}}}
	for _, e := range c.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			r.parsed.Extensions = append(r.parsed.Extensions, e)
		}
	}
	if err := errors.Join(r.readSubject(), r.readExtensions()); err != nil {
		return nil, err
	}
	usage := x509.KeyUsageDigitalSignature
	switch {
	case w.ca:
		usage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	case !w.curve:
		usage |= x509.KeyUsageKeyEncipherment
	}
	switch {
	case !slices.Equal(r.subject, w.subject), !slices.Equal(r.names, w.names):
		return nil, fmt.Errorf("the certificate says\n%+v\nand was asked for\n%+v", r.wantedCSR, w)
	case !bytes.Equal(c.RawIssuer, c.RawSubject), c.Version != 3, c.IsCA != w.ca, !c.BasicConstraintsValid, c.KeyUsage != usage, c.SignatureAlgorithm != w.signature():
		return nil, fmt.Errorf("issuer %s, version %d, CA %t, usage %b, signature %v", c.Issuer, c.Version, c.IsCA, c.KeyUsage, c.SignatureAlgorithm)
	}
	err = c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	return c, err
}

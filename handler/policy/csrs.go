package policy

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// maxAltNames is the sum of the maxima in the tags of altNames.
const maxAltNames = 128 + 64

// wireEC is this dialect's word for pkcs10.ECDSA.
const wireEC = "EC"

// csrBody is TlsCsr as a client sends it. Pointers tell absent and null from a
// value.
type csrBody struct {
	common
	Subject    *subject       `json:"subject" validate:"required"`
	KeySize    *int64         `json:"key_size" strict:"quoted"` // the vendor's own example has "2048"
	Algorithm  *string        `json:"algorithm" validate:"omitnil,oneof=RSA EC"`
	IsCA       *bool          `json:"is_ca"`
	Extensions *extensions    `json:"extensions"`
	PEMEncoded jsontext.Value `json:"pem_encoded"` // see serverSet
}

// csrWithDays is TlsCsrWithDaysValid.
type csrWithDays struct {
	csrBody
	DaysValid *int64 `json:"days_valid"`
}

type subject struct {
	Attributes []attribute `json:"attributes" validate:"required,min=1,dive"`
}

// attribute has its members in the order of the vendor's example. The keys are the
// core's names of the attributes.
type attribute struct {
	Value *string `json:"value" validate:"required"`
	Key   *string `json:"key" validate:"required,oneof=CN O OU C ST L"`
}

type extensions struct {
	AltNames *altNames `json:"subject_alt_names,omitempty"`
}

type altNames struct {
	DNSNames    []string `json:"dns_names,omitempty" validate:"omitempty,min=1,max=128"`
	IPAddresses []string `json:"ip_addresses,omitempty" validate:"omitempty,min=1,max=64"`
}

// newRequest converts the body to what the core takes.
func (b csrBody) newRequest(id string) csr.NewRequest {
	spec := pkcs10.Spec{KeySize: b.KeySize, CA: strict.Value(b.IsCA), MaxAltNames: maxAltNames, Named: true}
	if strict.Value(b.Algorithm) == wireEC {
		spec.Algorithm = pkcs10.ECDSA
	}
	for _, a := range b.Subject.Attributes {
		spec.Subject = append(spec.Subject, pkcs10.Attribute{Type: pkcs10.Field(*a.Key), Value: *a.Value})
	}
	if b.Extensions != nil && b.Extensions.AltNames != nil {
		for _, name := range b.Extensions.AltNames.DNSNames {
			spec.AltNames = append(spec.AltNames, pkcs10.AltName{Kind: pkcs10.DNSName, Value: name})
		}
		for _, address := range b.Extensions.AltNames.IPAddresses {
			spec.AltNames = append(spec.AltNames, pkcs10.AltName{Kind: pkcs10.IPAddress, Value: address})
		}
	}
	return csr.NewRequest{ID: id, Labels: b.labels(), Spec: spec, Revision: b.Revision}
}

// tlsCSR is TlsCsr in answers.
type tlsCSR struct {
	head
	PEMEncoded string      `json:"pem_encoded"`
	KeySize    int64       `json:"key_size"`
	Subject    subject     `json:"subject"`
	Algorithm  string      `json:"algorithm"`
	IsCA       bool        `json:"is_ca"`
	Extensions *extensions `json:"extensions,omitempty"`
	tail
}

func newTLSCSR(r csr.NamedRequest) tlsCSR {
	c := tlsCSR{
		head:       newHead("TlsCsr", csrsParent, r.Object),
		PEMEncoded: r.PEM,
		KeySize:    strict.Value(r.Spec.KeySize),
		Algorithm:  string(r.Spec.Algorithm),
		IsCA:       r.Spec.CA,
		tail:       newTail(r.Object),
	}
	if r.Spec.Algorithm == pkcs10.ECDSA {
		c.Algorithm = wireEC
	}
	for _, a := range r.Spec.Subject {
		key := string(a.Type)
		c.Subject.Attributes = append(c.Subject.Attributes, attribute{Value: &a.Value, Key: &key})
	}
	if len(r.Spec.AltNames) > 0 {
		names := &altNames{}
		for _, n := range r.Spec.AltNames {
			if n.Kind == pkcs10.IPAddress {
				names.IPAddresses = append(names.IPAddresses, n.Value)
			} else {
				names.DNSNames = append(names.DNSNames, n.Value)
			}
		}
		c.Extensions = &extensions{names}
	}
	return c
}

func newCSRView(*query) view[csr.NamedRequest, tlsCSR] {
	return view[csr.NamedRequest, tlsCSR]{document: newTLSCSR}
}

func createCSR(ctx context.Context, grant *csr.Grant, id string, body csrBody) (csr.NamedRequest, error) {
	return grant.CreateNamedCSR(ctx, body.newRequest(id))
}

package handler

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
)

// Publish says how the public keys are published that csr.Publish chooses.
type Publish struct {
	MaxAge time.Duration // for which verifiers may keep what they got
	Issuer string        // the URL of the tokens' issuer, without a slash at its end; "": there is no openid-configuration
	RSA    string        // the algorithm of RSA keys in RFC 7518, where there is but one; else ""
}

const (
	keySetPath    = "/.well-known/jwks.json"
	discoveryPath = "/.well-known/openid-configuration"
)

// maxCertificates bounds the certificates in a key set, in bytes of base64: as many as a
// request may have. The retired keys come last and may be many.
const maxCertificates = 64 << 10

// published answers what verifiers of signatures ask for. Anybody may know it, and the
// answers are made once for each set of keys.
type published struct {
	Publish
	service *csr.Service
	made    atomic.Pointer[publishedDocuments]
}

// publishedDocuments are the answers for one set of keys.
type publishedDocuments struct {
	of                *csr.Published
	keySet, discovery publishedDocument
}

type publishedDocument struct {
	contentType, etag string
	body              []byte
}

func newPublishedDocument(contentType string, v any) (publishedDocument, error) {
	body, err := json.Marshal(v)
	sum := sha256.Sum256(body)
	return publishedDocument{contentType, `"` + base64.RawURLEncoding.EncodeToString(sum[:]) + `"`, body}, err
}

// addPublished registers the paths that need no credentials and tell the public keys.
func (h *Handler) addPublished() {
	if h.cfg.Publish == nil {
		return
	}
	p := &published{Publish: *h.cfg.Publish, service: h.cfg.Service}
	h.add(h.api, http.MethodGet, keySetPath, p.answer(func(d *publishedDocuments) publishedDocument { return d.keySet }))
	if p.Issuer != "" {
		h.add(h.api, http.MethodGet, discoveryPath, p.answer(func(d *publishedDocuments) publishedDocument { return d.discovery }))
	}
}

func (p *published) answer(choose func(*publishedDocuments) publishedDocument) echo.HandlerFunc {
	cacheControl := fmt.Sprintf("public, max-age=%d", int64(p.MaxAge.Seconds()))
	return func(c echo.Context) error {
		documents, err := p.documents(c.Request().Context())
		if err != nil {
			return err
		}
		d, h := choose(documents), c.Response().Header()
		h.Set(echo.HeaderContentType, d.contentType)
		h.Set(echo.HeaderCacheControl, cacheControl)
		h.Set("ETag", d.etag)
		// A part of a key set is of use to nobody, and its errors would not be documents.
		c.Request().Header.Del("Range")
		http.ServeContent(c.Response(), c.Request(), "", time.Time{}, bytes.NewReader(d.body))
		return nil
	}
}

// documents returns those of the keys that are published now.
func (p *published) documents(ctx context.Context) (*publishedDocuments, error) {
	set, err := p.service.Published(ctx)
	if err != nil {
		return nil, err
	}
	if made := p.made.Load(); made != nil && made.of == set {
		return made, nil
	}
	made, err := p.documentsOf(set)
	if err == nil {
		p.made.Store(made)
	}
	return made, err
}

func (p Publish) documentsOf(set *csr.Published) (*publishedDocuments, error) {
	keys, err := jwksOf(set, p.RSA)
	if err != nil {
		return nil, err
	}
	made := &publishedDocuments{of: set}
	// RFC 7517 section 8.5.2.
	if made.keySet, err = newPublishedDocument("application/jwk-set+json", keySet{keys}); err != nil {
		return nil, err
	}
	made.discovery, err = newPublishedDocument(echo.MIMEApplicationJSON, discoveryOf(p.Issuer, keys))
	return made, err
}

// keySet is RFC 7517 section 5.
type keySet struct {
	Keys []jwk `json:"keys"`
}

// jwk is RFC 7517 section 4.
type jwk struct {
	pkcs10.JWK
	Use          string   `json:"use"`
	Algorithm    string   `json:"alg,omitzero"`
	KeyID        string   `json:"kid"`
	Certificates []string `json:"x5c,omitempty"`
	Thumbprint   string   `json:"x5t#S256,omitzero"`
}

// jwksOf has the installed key first, for verifiers that look no further, and the retired
// ones last, the newest of them first.
func jwksOf(set *csr.Published, rsaAlgorithm string) ([]jwk, error) {
	order := []csr.KeyState{csr.StateInstalled, csr.StateStaged, csr.StatePending, csr.StateNamed, csr.StateRetired}
	sorted := slices.Clone(set.Keys)
	slices.Reverse(sorted)
	slices.SortStableFunc(sorted, func(a, b csr.PublishedKey) int {
		return slices.Index(order, a.State) - slices.Index(order, b.State)
	})
	keys, room := make([]jwk, len(sorted)), maxCertificates
	for i, key := range sorted {
		members, err := pkcs10.NewJWK(key.Public)
		if err != nil {
			return nil, err
		}
		k := jwk{JWK: members, Use: "sig", Algorithm: algorithmOf(key.Public, rsaAlgorithm), KeyID: key.KeyID}
		var needed int
		k.Certificates, k.Thumbprint, needed = certificatesOf(key.Certificate)
		if room -= needed; room < 0 {
			k.Certificates = nil
		}
		keys[i] = k
	}
	return keys, nil
}

// certificatesOf returns the members x5c and x5t#S256 of a chain in PEM, and how long the
// first is.
func certificatesOf(chain string) (x5c []string, thumbprint string, length int) {
	for block, rest := pem.Decode([]byte(chain)); block != nil; block, rest = pem.Decode(rest) {
		if x5c == nil {
			sum := sha256.Sum256(block.Bytes)
			thumbprint = base64.RawURLEncoding.EncodeToString(sum[:])
		}
		x5c = append(x5c, base64.StdEncoding.EncodeToString(block.Bytes)) // section 4.7: not base64url
		length += len(x5c[len(x5c)-1])
	}
	return x5c, thumbprint, length
}

// algorithmOf is the only algorithm of a key: that of its curve (RFC 7518 section 3.4), or
// what the operator says of RSA.
func algorithmOf(public any, rsaAlgorithm string) string {
	curve, is := public.(*ecdsa.PublicKey)
	if !is {
		return rsaAlgorithm
	}
	return map[string]string{"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}[curve.Params().Name]
}

// discovery has the members that OpenID Connect Discovery 1.0 section 3 requires of one
// who issues tokens and has no other endpoint.
type discovery struct {
	Issuer        string   `json:"issuer"`
	KeySet        string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

func discoveryOf(issuer string, keys []jwk) discovery {
	d := discovery{
		Issuer: issuer, KeySet: issuer + keySetPath,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"}, Algorithms: []string{},
	}
	for _, k := range keys {
		algorithms := []string{k.Algorithm}
		if k.Algorithm == "" {
			algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
		}
		for _, a := range algorithms {
			if !slices.Contains(d.Algorithms, a) {
				d.Algorithms = append(d.Algorithms, a)
			}
		}
	}
	return d
}

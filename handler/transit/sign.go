package transit

import (
	"cmp"
	"crypto"
	_ "crypto/sha256" // SHA-256
	_ "crypto/sha512" // SHA-384 and SHA-512
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// signBody is the body of a sign and of a verify. A nil pointer is an absent member or
// null.
type signBody struct {
	item
	Batch               []item         `json:"batch_input"`
	Prehashed           *bool          `json:"prehashed"`
	HashAlgorithm       *string        `json:"hash_algorithm"`
	Algorithm           *string        `json:"algorithm"` // the older name of it
	SignatureAlgorithm  *string        `json:"signature_algorithm"`
	MarshalingAlgorithm *string        `json:"marshaling_algorithm"`
	SaltLength          jsontext.Value `json:"salt_length"` // a number or a string
	KeyVersion          *int64         `json:"key_version"`
}

// item is one input. The member context is for keys that are derived, which none is.
type item struct {
	Input     *string `json:"input"`
	Signature *string `json:"signature"`
	HMAC      *string `json:"hmac"`
	Reference *string `json:"reference"`
}

// maxBatch is how many inputs a batch has. The core has the same bound.
const maxBatch = 100

// job is what a sign or a verify asks for.
type job struct {
	hash    crypto.Hash
	scheme  csr.Scheme // where the key is an RSA key
	jws     bool
	bits    int // of the key
	version int // 0: the latest
	batch   bool
	inputs  []input
}

// input is one input of a job, with what became of it.
type input struct {
	digest    []byte
	given     signature // to verify
	reference string
	err       error // why there is no result
}

// parseJob reads a body. hash is the name in the path, or "".
func parseJob(in *strict.Decoder[signBody], text []byte, hash string, verifies bool) (*job, error) {
	body, err := decode(in, text)
	if err != nil {
		return nil, err
	}
	j := &job{version: int(strict.Value(body.KeyVersion)), batch: body.Batch != nil}
	bad := &badRequest{}
	j.choose(body, hash, bad)
	items := []item{body.item}
	if j.batch {
		items = body.Batch
	}
	switch {
	case len(items) == 0:
		bad.add("missing batch input to process")
	case len(items) > maxBatch:
		bad.add(fmt.Sprintf("batch_input must have at most %d entries", maxBatch))
	case verifies:
		checkSignatures(items, j.batch, bad)
	}
	if len(bad.sentences) > 0 {
		return nil, bad
	}
	for _, one := range items {
		made := input{reference: strict.Value(one.Reference)}
		made.digest, made.err = j.digest(one, strict.Value(body.Prehashed))
		if verifies && made.err == nil {
			made.given, made.err = parseSignature(strict.Value(one.Signature), j.jws)
		}
		j.inputs = append(j.inputs, made)
	}
	if !j.batch && j.inputs[0].err != nil {
		return nil, j.inputs[0].err
	}
	return j, nil
}

// choose reads how to sign. The defaults are Vault's.
func (j *job) choose(body signBody, hash string, bad *badRequest) {
	hashes := map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}
	var known bool
	if j.hash, known = hashes[cmp.Or(hash, strict.Value(body.HashAlgorithm), strict.Value(body.Algorithm), "sha2-256")]; !known {
		bad.add("hash_algorithm must be sha2-256, sha2-384 or sha2-512")
	}
	schemes := map[string]csr.Scheme{"": csr.PSS, "pss": csr.PSS, "pkcs1v15": csr.PKCS1v15}
	if j.scheme, known = schemes[strict.Value(body.SignatureAlgorithm)]; !known {
		bad.add("signature_algorithm must be pss or pkcs1v15")
	}
	marshaling := map[string]bool{"": false, "asn1": false, "jws": true}
	if j.jws, known = marshaling[strict.Value(body.MarshalingAlgorithm)]; !known {
		bad.add("marshaling_algorithm must be asn1 or jws")
	}
	switch salt := text(body.SaltLength); {
	case salt == "", salt == "auto", salt == "hash", known && j.hash != 0 && salt == strconv.Itoa(j.hash.Size()):
	default:
		bad.add("salt_length must be auto, hash, or the length of the digest: salts have no other length here")
	}
}

// text returns what a number or a string says; nothing for null or no value.
func text(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		said, _ := jsontext.AppendUnquote(nil, v) // the decoder has read it
		return string(said)
	case 'n':
		return ""
	}
	return string(v)
}

// checkSignatures checks that every item of a verify has a signature and nothing else to
// verify.
func checkSignatures(items []item, batch bool, bad *badRequest) {
	for _, one := range items {
		switch {
		case one.HMAC != nil:
			bad.add("HMACs are not supported: there are no keys for them")
		case one.Signature == nil && batch:
			bad.add("some elements of batch_input are missing 'signature'")
		case one.Signature == nil:
			bad.add("missing 'signature'")
		default:
			continue
		}
		return
	}
}

// digest returns what is signed of an item.
func (j *job) digest(one item, prehashed bool) ([]byte, error) {
	if one.Input == nil {
		return nil, invalid("missing input")
	}
	// Line breaks do not matter, as in Vault: some tools write them.
	data, err := base64.StdEncoding.Strict().DecodeString(*one.Input)
	switch {
	case err != nil:
		return nil, invalid("input must be base64 (RFC 4648 section 4)")
	case prehashed:
		return data, nil // the core checks the length
	case len(data) > maxInput:
		return nil, invalid(fmt.Sprintf("input must be at most %d bytes: send a digest of longer data, with prehashed", maxInput))
	}
	h := j.hash.New()
	h.Write(data)
	return h.Sum(nil), nil
}

// job authorises the caller, reads what it asks for, and looks the key up.
func (t *transit) job(c echo.Context, o csr.Operation) (*job, *csr.Grant, error) {
	grant, err := t.grant(c, o)
	if err != nil {
		return nil, nil, noKey(err)
	}
	hash, err := parameter(c, "hash")
	if err != nil {
		return nil, nil, err
	}
	var j *job
	if err := t.bodies.read(c, func(text []byte) (err error) {
		j, err = parseJob(t.jobs, text, hash, o == csr.VerifyKey)
		return err
	}); err != nil {
		return nil, nil, err
	}
	algorithm, bits, err := grant.KeyAlgorithm(c.Request().Context())
	if err != nil {
		return nil, nil, noKey(err)
	}
	if algorithm == string(pkcs10.ECDSA) {
		j.scheme = csr.ECDSA // whatever signature_algorithm says: Sigstore's client always sends pkcs1v15
	}
	j.bits = bits
	return j, grant, nil
}

// noKey makes the error of a key that does not exist one of the request, as Vault's is
// where the key is not what is asked for.
func noKey(err error) error {
	if csr.Is(err, csr.NotFound) {
		return invalid("signing key not found")
	}
	return err
}

func (j *job) signInput(in input) csr.SignInput {
	return csr.SignInput{Digest: in.digest, Hash: j.hash, Scheme: j.scheme, Version: j.version}
}

// signResult is one signature in an answer, or why there is none.
type signResult struct {
	Signature  string `json:"signature,omitempty"`
	KeyVersion int    `json:"key_version,omitzero"`
	Reference  string `json:"reference,omitempty"`
	Error      string `json:"error,omitempty"`
}

func (t *transit) sign(c echo.Context) error {
	j, grant, err := t.job(c, csr.SignKey)
	if err != nil {
		return err
	}
	var wanted []csr.SignInput
	for _, in := range j.inputs {
		if in.err == nil {
			wanted = append(wanted, j.signInput(in))
		}
	}
	var made []csr.Signature
	if len(wanted) > 0 {
		if made, err = grant.Sign(c.Request().Context(), wanted); err != nil {
			return err
		}
	}
	results := make([]signResult, len(j.inputs))
	for i := range j.inputs {
		in := &j.inputs[i]
		results[i].Reference = in.reference
		if in.err != nil {
			continue
		}
		if in.err = noKey(made[0].Err); in.err == nil {
			results[i].KeyVersion = made[0].Version
			results[i].Signature, in.err = formatSignature(made[0], j)
		}
		made = made[1:]
	}
	return finish(c, j, results, func(r *signResult, problem string) { *r = signResult{Reference: r.Reference, Error: problem} })
}

// verifyResult is whether one signature is valid, or why that is not known.
type verifyResult struct {
	Valid     bool   `json:"valid"`
	Reference string `json:"reference,omitempty"`
	Error     string `json:"error,omitempty"`
}

func (t *transit) verify(c echo.Context) error {
	j, grant, err := t.job(c, csr.VerifyKey)
	if err != nil {
		return err
	}
	results := make([]verifyResult, len(j.inputs))
	for i := range j.inputs {
		in := &j.inputs[i]
		results[i].Reference = in.reference
		if in.err == nil {
			raw, wellFormed := in.given.raw(j)
			if wellFormed {
				results[i].Valid, in.err = grant.Verify(c.Request().Context(), in.given.version, j.signInput(*in), raw)
			}
		}
	}
	return finish(c, j, results, func(r *verifyResult, problem string) { *r = verifyResult{Reference: r.Reference, Error: problem} })
}

// finish answers with the results of a job. As in Vault, a batch in which some or all
// inputs are bad is answered with 200 and says at each what is wrong with it. A batch of
// which nothing came since the service could not is an error as a whole.
func finish[R any](c echo.Context, j *job, results []R, fail func(r *R, problem string)) error {
	var service error
	failed := 0
	for i, in := range j.inputs {
		if in.err == nil {
			continue
		}
		failed++
		status, sentences := describe(c.Response().Header().Get(echo.HeaderXRequestID), in.err)
		if status >= 500 {
			service = in.err
		}
		fail(&results[i], strings.Join(sentences, "; "))
	}
	switch {
	case !j.batch && failed > 0:
		return j.inputs[0].err
	case service != nil && failed == len(results):
		return service
	case j.batch:
		return answer(c, map[string][]R{"batch_results": results}, nil)
	}
	return answer(c, results[0], nil)
}

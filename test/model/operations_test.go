package model_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"attestcsr/test/start"
)

const (
	nsxCSRs         = "/policy/api/v1/infra/csrs"
	nsxCertificates = "/policy/api/v1/infra/certificates"
)

// reply is the whole answer, or the error that there was none.
type reply struct {
	status int
	body   []byte
	err    error
}

func (r reply) String() string {
	if r.err != nil {
		return r.err.Error()
	}
	return fmt.Sprintf("%d %s", r.status, r.body)
}

// send sends one request as a user whose password is the user's name.
func send(s *start.Instance, method, path, user, body string, contentType ...string) reply {
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("Content-Type", append(contentType, "application/json")[0])
	req.SetBasicAuth(user, user)
	resp, err := s.Client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, data, err}
}

// operation is a request and its meaning.
type operation struct {
	kind string // how it was drawn
	name string
	send func(*start.Instance) reply
	// apply changes the world as the request is to change the service, and says
	// what has to be answered.
	apply func(*world) answer
	begun time.Time // when it was sent first, and when its answer was there
	ended time.Time
}

// answer is what has to be answered. learn looks at the body of a success and
// takes over into the world what only the service could know.
type answer struct {
	status int
	says   string // what stands in the body of an error
	learn  func(body []byte) error
}

func (want answer) check(r reply) error {
	switch {
	case r.err != nil:
		return r.err
	case r.status != want.status, !bytes.Contains(r.body, []byte(want.says)):
		return fmt.Errorf("%d %s, want %d with %q", r.status, r.body, want.status, want.says)
	case want.learn != nil:
		return want.learn(r.body)
	case want.status < 300 && len(r.body) > 0:
		return fmt.Errorf("%d with a body: %s", r.status, r.body)
	}
	return nil
}

// The answers to what cannot be done.
func noSuchCSR() answer { return answer{status: 404, says: "NOT_FOUND"} }

func notFound() answer { return answer{status: 404, says: `"error_code":600`} }

func stale() answer { return answer{status: 412, says: `"error_code":604`} }

func exists() answer { return answer{status: 400, says: `"error_code":500127`} }

func refusal(reason string) answer {
	return answer{status: 400, says: reason}
}

func drawUser(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"nora", "olaf"}).Draw(rt, "user")
}

func drawID(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "B", "a/b", "ü", "a b", "%2F"}).Draw(rt, "id")
}

func drawLabels(rt *rapid.T) labels {
	return rapid.SampledFrom([]labels{{}, {display: "same"}, {display: "same", tags: []string{"t", ""}}, {display: "ä", description: "two\nlines"}}).Draw(rt, "labels")
}

func drawSpec(rt *rapid.T) spec {
	return spec{
		name: rapid.SampledFrom([]string{"web-01.example.com", "Jürgen", "a,b+c"}).Draw(rt, "common name"),
		bits: rapid.SampledFrom([]int{256, 384}).Draw(rt, "bits"),
		ca:   rapid.Bool().Draw(rt, "CA"),
		dns:  rapid.SampledFrom([][]string{nil, {"b.example.com", "a.example.com"}}).Draw(rt, "names"),
	}
}

// drawTaken is mostly the id of a CSR that exists.
func drawTaken(rt *rapid.T, m *model) string {
	if taken := slices.Sorted(maps.Keys(m.csrs)); len(taken) > 0 && rapid.IntRange(0, 3).Draw(rt, "an id that is taken") > 0 {
		return rapid.SampledFrom(taken).Draw(rt, "id")
	}
	return drawID(rt)
}

// drawRevision is "" for none.
func drawRevision(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "0", "0", "1"}).Draw(rt, "revision")
}

func (l labels) members() string {
	b := ""
	if l.display != "" {
		b += `,"display_name":` + quote(l.display)
	}
	if l.description != "" {
		b += `,"description":` + quote(l.description)
	}
	if len(l.tags) > 0 {
		var tags []string
		for _, t := range l.tags {
			tags = append(tags, `{"scope":"s","tag":`+quote(t)+`}`)
		}
		b += `,"tags":[` + strings.Join(tags, ",") + `]`
	}
	return b
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (s spec) members() string {
	b := fmt.Sprintf(`"subject":{"attributes":[{"key":"CN","value":%s}]},"algorithm":"EC","key_size":"%d","is_ca":%t`, quote(s.name), s.bits, s.ca)
	if len(s.dns) > 0 {
		b += `,"extensions":{"subject_alt_names":{"dns_names":["` + strings.Join(s.dns, `","`) + `"]}}`
	}
	return b
}

func revisionMember(revision string) string {
	if revision == "" {
		return ""
	}
	return `,"_revision":` + revision
}

// learnInto reads a document into an object that was made.
func learnInto(n *named, w *world) func([]byte) error {
	return func(body []byte) error {
		n.after = time.Now()
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil {
			return fmt.Errorf("%w: %s", err, body)
		}
		if n.want["resource_type"] == "TlsCertificate" {
			return w.meetCertificate(doc)
		}
		return n.meet(doc)
	}
}

func csrURL(id string, rest ...string) string {
	return nsxCSRs + "/" + url.PathEscape(id) + strings.Join(rest, "")
}

func drawCreateCSR(rt *rapid.T, _ *model) *operation {
	name := fmt.Sprintf("host-%d.example.com", rapid.IntRange(1, 3).Draw(rt, "host"))
	body := strings.Replace(start.ValidSpec, "{", `{"common_name":"`+name+`",`, 1)
	return &operation{
		name: "create the CSR",
		send: func(s *start.Instance) reply { return send(s, "POST", start.CSRPath, "nora", body) },
		apply: func(w *world) answer {
			w.hasPending, w.pending, w.subject = true, "", name
			return answer{status: 201, learn: func(body []byte) error {
				var made struct{ CSR string }
				if err := json.Unmarshal(body, &made); err != nil {
					return err
				}
				return w.meetPending(made.CSR)
			}}
		},
	}
}

func drawDeleteCSR(*rapid.T, *model) *operation {
	return &operation{
		name: "delete the CSR",
		send: func(s *start.Instance) reply { return send(s, "DELETE", start.CSRPath, "nora", "{}") },
		apply: func(w *world) answer {
			if !w.hasPending {
				return noSuchCSR()
			}
			w.hasPending, w.pending = false, ""
			return answer{status: 204}
		},
	}
}

// authority issues certificates.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert}, err
}

// chain is a certificate for the key and the CA's, as PEM.
func (a *authority) chain(key crypto.PublicKey, usage x509.KeyUsage, notAfter time.Time) (string, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: usage,
		NotBefore: time.Now().Add(-30 * time.Minute), NotAfter: notAfter,
	}, a.cert, key, a.key)
	if err != nil {
		return "", err
	}
	text := ""
	for _, one := range [][]byte{der, a.cert.Raw} {
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one}))
	}
	return text, nil
}

// drawChain draws a certificate for one of the keys, and what is wrong with it
// whatever key it answers.
func drawChain(rt *rapid.T, m *model, keys map[string]crypto.PublicKey, usage x509.KeyUsage) (chain string, key crypto.PublicKey, wrong string) {
	keys["nobody's"] = m.ca.key.Public()
	which := rapid.SampledFrom(slices.Sorted(maps.Keys(keys))).Draw(rt, "key")
	if keys["its own"] != nil && rapid.Bool().Draw(rt, "its own") {
		which = "its own"
	}
	if key = keys[which]; key == nil {
		key = m.ca.key.Public()
	}
	notAfter := time.Now().Add(time.Hour)
	kind := rapid.SampledFrom([]string{"good", "good", "good", "good", "good", "good", "expired", "with a private key", "usage"}).Draw(rt, "chain")
	switch kind {
	case "expired":
		notAfter, wrong = time.Now().Add(-time.Minute), "expired at"
	case "usage":
		usage, wrong = x509.KeyUsageEncipherOnly, "among its key usages"
	}
	chain, err := m.ca.chain(key, usage, notAfter)
	if err != nil {
		rt.Fatal(err)
	}
	if kind == "with a private key" {
		chain, wrong = chain+"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "blocks of type CERTIFICATE only"
	}
	return chain, key, wrong
}

func drawSetCertificate(rt *rapid.T, m *model) *operation {
	keys := map[string]crypto.PublicKey{"an older CSR's": m.discarded}
	if r, err := requestOf(m.pending); err == nil {
		keys["the CSR's"] = r.PublicKey
	}
	if c, err := chainOf(m.installed); err == nil {
		keys["the installed"] = c[0].PublicKey
	}
	chain, key, wrong := drawChain(rt, m, keys, x509.KeyUsageDigitalSignature)
	body := `{"certificate":` + quote(chain) + `}`
	return &operation{
		name: "set the certificate",
		send: func(s *start.Instance) reply { return send(s, "PUT", start.CertificatePath, "nora", body) },
		apply: func(w *world) answer {
			installed, err := chainOf(w.installed)
			if err != nil {
				panic(err)
			}
			pending, _ := requestOf(w.pending)
			switch {
			case wrong != "":
				return refusal(wrong)
			case pending != nil && sameKey(pending.PublicKey, key):
				w.installed, w.hasPending, w.pending = chain, false, ""
			case sameKey(installed[0].PublicKey, key):
				w.installed = chain
			default:
				return refusal("attestcsr.csr.key_mismatch")
			}
			return answer{status: 204}
		},
	}
}

func drawCreateNamed(rt *rapid.T, _ *model) *operation {
	id, user, s, l, revision := drawID(rt), drawUser(rt), drawSpec(rt), drawLabels(rt), drawRevision(rt)
	body := "{" + s.members() + l.members() + revisionMember(revision) + "}"
	o := &operation{
		name: "create " + id,
		send: func(i *start.Instance) reply { return send(i, "POST", csrURL(id, "?action=create"), user, body) },
	}
	o.apply = func(w *world) answer {
		switch {
		case w.csrs[id] != nil:
			return exists()
		case revision == "1":
			return stale()
		case len(w.csrs) == csrMax:
			return refusal(fmt.Sprintf("csrs is full: it takes %d objects", csrMax))
		}
		n := newCSR(id, user, s, l, o.begun)
		n.after = o.ended
		w.csrs[id] = n
		return answer{status: 201, learn: learnInto(n, w)}
	}
	return o
}

func drawGetNamed(rt *rapid.T, m *model) *operation {
	id, file := drawTaken(rt, m), rapid.SampledFrom([]string{"", "/pem-file"}).Draw(rt, "what")
	return &operation{
		name: "get " + id,
		send: func(i *start.Instance) reply { return send(i, "GET", csrURL(id, file), "olaf", "") },
		apply: func(w *world) answer {
			n := w.csrs[id]
			if n == nil {
				return notFound()
			}
			return answer{status: 200, learn: func(body []byte) error {
				if file == "" {
					return learnInto(n, w)(body)
				}
				if n.doc != nil && string(body) != n.doc["pem_encoded"] {
					return fmt.Errorf("the file is %q", body)
				}
				return nil
			}}
		},
	}
}

func drawDeleteNamed(rt *rapid.T, m *model) *operation {
	id := drawTaken(rt, m)
	return &operation{
		name: "delete " + id,
		send: func(i *start.Instance) reply { return send(i, "DELETE", csrURL(id), "nora", "") },
		apply: func(w *world) answer {
			if w.csrs[id] == nil {
				return notFound()
			}
			delete(w.csrs, id)
			return answer{status: 200}
		},
	}
}

// promote makes a certificate of a CSR.
func (w *world) promote(id, user string, l labels, chain string, begun, ended time.Time) answer {
	request := w.csrs[id]
	n := newCertificate(user, l, begun)
	n.after, n.chain, n.key = ended, chain, request.csrKey()
	delete(w.csrs, id)
	w.untold = append(w.untold, n)
	return answer{status: 201, learn: learnInto(n, w)}
}

func drawImport(rt *rapid.T, m *model) *operation {
	id, user, l, revision, upload := drawTaken(rt, m), drawUser(rt), drawLabels(rt), drawRevision(rt), rapid.Bool().Draw(rt, "upload")
	keys, usage, ca := map[string]crypto.PublicKey{"an older CSR's": m.discarded}, x509.KeyUsageDigitalSignature, false
	if n := m.csrs[id]; n != nil {
		keys["its own"] = n.csrKey()
		if ca, _ = n.want["is_ca"].(bool); ca {
			usage = x509.KeyUsageCertSign
		}
	}
	chain, key, wrong := drawChain(rt, m, keys, usage)
	method, body, contentType := "?action=import", `{"pem_encoded":`+quote(chain)+l.members()+revisionMember(revision)+`}`, "application/json"
	if upload {
		method, l, revision = "?action=upload", labels{}, ""
		var form bytes.Buffer
		w := multipart.NewWriter(&form)
		part, err := w.CreateFormFile("file", "chain.pem")
		if err == nil {
			_, err = io.WriteString(part, chain)
		}
		if err != nil || w.Close() != nil {
			rt.Fatal(err)
		}
		body, contentType = form.String(), w.FormDataContentType()
	}
	o := &operation{
		name: "import " + id,
		send: func(i *start.Instance) reply { return send(i, "POST", csrURL(id, method), user, body, contentType) },
	}
	o.apply = func(w *world) answer {
		request := w.csrs[id]
		if request == nil {
			return notFound()
		}
		isCA, _ := request.want["is_ca"].(bool)
		// Key usages matter for CAs alone; a CSR of that id may have become another.
		mattersNot := wrong == "among its key usages" && !isCA
		forLeaf := wrong == "" && isCA && !ca
		own := request.csrKey()
		switch {
		case revision == "1":
			return stale()
		case forLeaf:
			return refusal("among its key usages")
		case wrong != "" && !mattersNot:
			return refusal(wrong)
		case own == nil || !sameKey(own, key):
			return refusal("does not answer the current CSR")
		}
		labels := l
		if labels.display == "" {
			labels.display = labelsOf(request).display
		}
		return w.promote(id, user, labels, chain, o.begun, o.ended)
	}
	return o
}

func drawSelfSign(rt *rapid.T, m *model) *operation {
	id, user, days := drawTaken(rt, m), drawUser(rt), rapid.SampledFrom([]string{"", "&days_valid=1", "&days_valid=2", "&days_valid=0"}).Draw(rt, "days")
	o := &operation{
		name: "self-sign " + id,
		send: func(i *start.Instance) reply {
			return send(i, "POST", csrURL(id, "?action=self_sign", days), user, "{}")
		},
	}
	o.apply = func(w *world) answer {
		switch {
		case days == "&days_valid=0":
			return refusal("days_valid")
		case w.csrs[id] == nil:
			return notFound()
		}
		return w.promote(id, user, labelsOf(w.csrs[id]), "", o.begun, o.ended)
	}
	return o
}

func drawSelfSignNew(rt *rapid.T, _ *model) *operation {
	user, s, l, revision := drawUser(rt), drawSpec(rt), drawLabels(rt), drawRevision(rt)
	body := "{" + s.members() + l.members() + revisionMember(revision) + `,"days_valid":2}`
	o := &operation{
		name: "self-sign anew",
		send: func(i *start.Instance) reply { return send(i, "POST", nsxCSRs+"?action=self_sign", user, body) },
	}
	o.apply = func(w *world) answer {
		if revision == "1" {
			return stale()
		}
		n := newCertificate(user, l, o.begun)
		n.after = o.ended
		w.untold = append(w.untold, n)
		return answer{status: 201, learn: learnInto(n, w)}
	}
	return o
}

func drawCertificateID(rt *rapid.T, m *model) string {
	return rapid.SampledFrom(append(slices.Sorted(maps.Keys(m.certs)), "a")).Draw(rt, "certificate")
}

func drawGetCertificate(rt *rapid.T, m *model) *operation {
	id := drawCertificateID(rt, m)
	return &operation{
		name: "get certificate " + id,
		send: func(i *start.Instance) reply { return send(i, "GET", nsxCertificates+"/"+id, "olaf", "") },
		apply: func(w *world) answer {
			n := w.certs[id]
			if n == nil {
				return notFound()
			}
			return answer{status: 200, learn: learnInto(n, w)}
		},
	}
}

func drawDeleteCertificate(rt *rapid.T, m *model) *operation {
	id := drawCertificateID(rt, m)
	return &operation{
		name: "delete certificate " + id,
		send: func(i *start.Instance) reply { return send(i, "DELETE", nsxCertificates+"/"+id, "olaf", "") },
		apply: func(w *world) answer {
			if w.certs[id] == nil {
				return notFound()
			}
			delete(w.certs, id)
			return answer{status: 200}
		},
	}
}

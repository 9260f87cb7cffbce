package model_test

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// operation is a request and its meaning.
type operation struct {
	name                     string
	method, path, user, body string
	// apply changes the world as the request is to change the service, and says
	// what has to be answered.
	apply func(*world) answer
}

// send sends the request. The password of each user is the name.
func (o *operation) send(s *start.Instance) reply {
	a, err := s.Do(o.method, o.path, o.body, start.As(o.user, o.user))
	return reply{a.Status, a.Body, err}
}

// reply is what came back: an answer, or the error that there was none.
type reply struct {
	status int
	body   string
	err    error
}

func (r reply) String() string {
	if r.err != nil {
		return r.err.Error()
	}
	return fmt.Sprintf("%d %s", r.status, r.body)
}

// answer is what has to be answered. learn looks at the body of a success and
// takes over into the world what only the service could know.
type answer struct {
	status int
	says   string // what stands in the body of an error
	learn  func(body string) error
}

func (want answer) check(r reply) error {
	switch {
	case r.err != nil:
		return r.err
	case r.status != want.status, !strings.Contains(r.body, want.says):
		return fmt.Errorf("%d %s, want %d with %q", r.status, r.body, want.status, want.says)
	case want.learn != nil:
		return want.learn(r.body)
	case want.status < 300 && r.body != "":
		return fmt.Errorf("%d with a body: %s", r.status, r.body)
	}
	return nil
}

func notFound() answer { return answer{status: 404, says: `"error_code":600`} }

// operations are all that change or show an object, by how they are drawn.
func operations() map[string]func(*rapid.T, *model) *operation {
	return map[string]func(*rapid.T, *model) *operation{
		"create the CSR":      drawCreateCSR,
		"delete the CSR":      drawDeleteCSR,
		"set the certificate": drawSetCertificate,
		"create":              drawCreateNamed,
		"create another":      drawCreateNamed,
		"get":                 drawGetNamed,
		"delete":              drawDeleteNamed,
		"import":              drawImport,
		"import another":      drawImport,
		"self-sign":           drawSelfSign,
		"self-sign anew":      drawSelfSignNew,
		"get certificate":     drawGetCertificate,
		"delete certificate":  drawDeleteCertificate,
	}
}

func drawUser(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"nora", "olaf"}).Draw(rt, "user")
}

func drawID(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "B", "a/b", "ü", "a b", "%2F"}).Draw(rt, "id")
}

// drawTaken is mostly the id of a CSR that exists.
func drawTaken(rt *rapid.T, m *model) string {
	if taken := slices.Sorted(maps.Keys(m.csrs)); len(taken) > 0 && rapid.IntRange(0, 3).Draw(rt, "an id that is taken") > 0 {
		return rapid.SampledFrom(taken).Draw(rt, "id")
	}
	return drawID(rt)
}

func drawCertificateID(rt *rapid.T, m *model) string {
	return rapid.SampledFrom(append(slices.Sorted(maps.Keys(m.certs)), "a")).Draw(rt, "certificate")
}

// drawDisplayName is "" for none.
func drawDisplayName(rt *rapid.T) string {
	return rapid.SampledFrom([]string{"", "same", "ä"}).Draw(rt, "display_name")
}

func displayName(name string) string {
	if name == "" {
		return ""
	}
	return `"display_name":` + kit.JSON(name) + ","
}

// drawChain draws a certificate for one of the keys, of which some are nil: unknown.
func drawChain(rt *rapid.T, m *model, keys map[string]crypto.PublicKey) (chain string, key crypto.PublicKey) {
	keys["nobody's"] = m.ca.Key.Public()
	if key = keys[rapid.SampledFrom(slices.Sorted(maps.Keys(keys))).Draw(rt, "key")]; key == nil {
		key = m.ca.Key.Public()
	}
	return kit.PEM(m.ca.Issue(m.t, "leaf", key), m.ca.Cert), key
}

// learnInto reads a document into an object that was made.
func learnInto(n *named, w *world) func(string) error {
	return func(body string) error {
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			return fmt.Errorf("%w: %s", err, body)
		}
		if n.certificate {
			return w.acceptCertificate(doc)
		}
		return n.accept(doc)
	}
}

func csrURL(id string, rest ...string) string {
	return start.NSXCSRs + "/" + url.PathEscape(id) + strings.Join(rest, "")
}

func drawCreateCSR(rt *rapid.T, _ *model) *operation {
	name := fmt.Sprintf("host-%d.example.com", rapid.IntRange(1, 3).Draw(rt, "host"))
	return &operation{
		name: "create the CSR", method: "POST", path: start.CSRPath, user: "nora",
		body: strings.Replace(start.ValidSpec, "{", `{"common_name":"`+name+`",`, 1),
		apply: func(w *world) answer {
			w.hasPending, w.pending, w.subject = true, "", name
			return answer{status: 201, learn: func(body string) error {
				var made struct{ CSR string }
				return errors.Join(json.Unmarshal([]byte(body), &made), w.acceptPending(made.CSR))
			}}
		},
	}
}

func drawDeleteCSR(*rapid.T, *model) *operation {
	return &operation{
		name: "delete the CSR", method: "DELETE", path: start.CSRPath, user: "nora", body: "{}",
		apply: func(w *world) answer {
			if !w.hasPending {
				return answer{status: 404, says: "NOT_FOUND"}
			}
			w.hasPending, w.pending = false, ""
			return answer{status: 204}
		},
	}
}

func drawSetCertificate(rt *rapid.T, m *model) *operation {
	chain, key := drawChain(rt, m, map[string]crypto.PublicKey{
		"an older CSR's": m.discarded, "the CSR's": keyOf(m.pending), "the installed": keyOf(m.installed),
	})
	return &operation{
		name: "set the certificate", method: "PUT", path: start.CertificatePath, user: "nora", body: kit.JSON(map[string]string{"certificate": chain}),
		apply: func(w *world) answer {
			switch {
			case kit.SameKey(key, keyOf(w.pending)):
				w.installed, w.hasPending, w.pending = chain, false, ""
			case kit.SameKey(key, keyOf(w.installed)):
				w.installed = chain
			default:
				return answer{status: 400, says: "attestcsr.csr.key_mismatch"}
			}
			return answer{status: 204}
		},
	}
}

func drawCreateNamed(rt *rapid.T, _ *model) *operation {
	id, user, display := drawID(rt), drawUser(rt), drawDisplayName(rt)
	name := rapid.SampledFrom([]string{"web-01.example.com", "Jürgen", "a,b+c"}).Draw(rt, "common name")
	return &operation{
		name: "create " + id, method: "POST", path: csrURL(id, "?action=create"), user: user,
		body: strings.Replace(start.ECSpec(name), "{", "{"+displayName(display), 1),
		apply: func(w *world) answer {
			switch {
			case w.csrs[id] != nil:
				return answer{status: 400, says: `"error_code":500127`}
			case len(w.csrs) == csrMax:
				return answer{status: 400, says: fmt.Sprintf("csrs is full: it takes %d objects", csrMax)}
			}
			n := &named{id: id, user: user, display: display, subject: name}
			w.csrs[id] = n
			return answer{status: 201, learn: learnInto(n, w)}
		},
	}
}

func drawGetNamed(rt *rapid.T, m *model) *operation {
	id, file := drawTaken(rt, m), rapid.SampledFrom([]string{"", "/pem-file"}).Draw(rt, "what")
	return &operation{
		name: "get " + id, method: "GET", path: csrURL(id, file), user: "olaf",
		apply: func(w *world) answer {
			n := w.csrs[id]
			if n == nil {
				return notFound()
			}
			return answer{status: 200, learn: func(body string) error {
				if file == "" {
					return learnInto(n, w)(body)
				}
				if n.doc != nil && body != n.doc["pem_encoded"] {
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
		name: "delete " + id, method: "DELETE", path: csrURL(id), user: "nora",
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
func (w *world) promote(id, user, display, chain string) answer {
	request := w.csrs[id]
	n := &named{certificate: true, user: user, display: display, chain: chain, key: request.publicKey()}
	if display == "" {
		n.display = request.display
	}
	if n.display == "" {
		n.display = id
	}
	delete(w.csrs, id)
	w.withoutID = append(w.withoutID, n)
	return answer{status: 201, learn: learnInto(n, w)}
}

func drawImport(rt *rapid.T, m *model) *operation {
	id, user, display := drawTaken(rt, m), drawUser(rt), drawDisplayName(rt)
	keys := map[string]crypto.PublicKey{"an older CSR's": m.discarded}
	if n := m.csrs[id]; n != nil {
		keys["its own"], keys["its own, again"] = n.publicKey(), n.publicKey()
	}
	chain, key := drawChain(rt, m, keys)
	return &operation{
		name: "import " + id, method: "POST", path: csrURL(id, "?action=import"), user: user,
		body: "{" + displayName(display) + `"pem_encoded":` + kit.JSON(chain) + "}",
		apply: func(w *world) answer {
			switch request := w.csrs[id]; {
			case request == nil:
				return notFound()
			case !kit.SameKey(key, request.publicKey()):
				return answer{status: 400, says: "does not answer the current CSR"}
			}
			return w.promote(id, user, display, chain)
		},
	}
}

func drawSelfSign(rt *rapid.T, m *model) *operation {
	id, user := drawTaken(rt, m), drawUser(rt)
	return &operation{
		name: "self-sign " + id, method: "POST", path: csrURL(id, "?action=self_sign"), user: user, body: "{}",
		apply: func(w *world) answer {
			if w.csrs[id] == nil {
				return notFound()
			}
			return w.promote(id, user, "", "")
		},
	}
}

func drawSelfSignNew(rt *rapid.T, _ *model) *operation {
	user, display := drawUser(rt), drawDisplayName(rt)
	return &operation{
		name: "self-sign anew", method: "POST", path: start.NSXCSRs + "?action=self_sign", user: user,
		body: strings.Replace(start.ECSpec("web"), "{", "{"+displayName(display), 1),
		apply: func(w *world) answer {
			n := &named{certificate: true, user: user, display: display}
			w.withoutID = append(w.withoutID, n)
			return answer{status: 201, learn: learnInto(n, w)}
		},
	}
}

func drawGetCertificate(rt *rapid.T, m *model) *operation {
	id := drawCertificateID(rt, m)
	return &operation{
		name: "get certificate " + id, method: "GET", path: start.NSXCertificates + "/" + id + "?details=true", user: "olaf",
		apply: func(w *world) answer {
			if n := w.certs[id]; n != nil {
				return answer{status: 200, learn: learnInto(n, w)}
			}
			return notFound()
		},
	}
}

func drawDeleteCertificate(rt *rapid.T, m *model) *operation {
	id := drawCertificateID(rt, m)
	return &operation{
		name: "delete certificate " + id, method: "DELETE", path: start.NSXCertificates + "/" + id, user: "olaf",
		apply: func(w *world) answer {
			if w.certs[id] == nil {
				return notFound()
			}
			delete(w.certs, id)
			return answer{status: 200}
		},
	}
}

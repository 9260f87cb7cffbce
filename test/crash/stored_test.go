package crash_test

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

const (
	pendingName   = "esx/attestation/csr"
	installedName = "esx/attestation/certificate"
	requestName   = "nsx/csrs/"         // and the id
	issuedName    = "nsx/certificates/" // and the common name
)

// stored is what a data directory holds: the PEM in each slot. Certificates of the
// NSX dialect go by their common name, since the server makes up their ids. unknown
// is a PEM that nobody was told yet.
type stored map[string]string

const unknown = "unknown"

// is reports whether s is what w says.
func (s stored) is(w stored) bool {
	return len(s) == len(w) && !slices.ContainsFunc(slices.Collect(maps.Keys(w)), func(name string) bool {
		got, ok := s[name]
		return !ok || got != w[name] && w[name] != unknown
	})
}

func (s stored) with(name, text string) stored {
	c := maps.Clone(s)
	c[name] = text
	return c
}

func (s stored) without(name string) stored {
	c := maps.Clone(s)
	delete(c, name)
	return c
}

func (s stored) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		text := strings.ReplaceAll(s[name], "\n", "")
		fmt.Fprintf(&b, "%s %d bytes …%s; ", name, len(text), text[max(0, len(text)-44):])
	}
	return b.String()
}

// publicKeyOf returns key and common name of a CSR, whose signature it verifies, or
// of a certificate.
func publicKeyOf(text string) (crypto.PublicKey, string, error) {
	if chain, err := kit.ParseChain(text); err == nil {
		return chain[0].PublicKey, chain[0].Subject.CommonName, nil
	}
	request, err := kit.ParseCSR(text)
	if err != nil {
		return nil, "", err
	}
	return request.PublicKey, request.Subject.CommonName, nil
}

// view asks the server for everything that stored has.
func view(s *start.Instance) (stored, error) {
	found := stored{}
	for path, name := range map[string]string{start.CSRPath: pendingName, start.CertificatePath: installedName} {
		a, err := s.Do("GET", path, "")
		switch {
		case err != nil || a.Status != http.StatusOK && a.Status != http.StatusNotFound:
			return nil, fmt.Errorf("GET %s: %d %s %w", path, a.Status, a.Body, err)
		case a.Status == http.StatusOK:
			var object map[string]string
			if err := json.Unmarshal([]byte(a.Body), &object); err != nil {
				return nil, err
			}
			found[name] = object["csr"] + object["certificate"]
		}
	}
	for path, prefix := range map[string]string{start.NSXCSRs: requestName, start.NSXCertificates: issuedName} {
		a, err := s.Do("GET", path, "")
		if err != nil || a.Status != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %d %s %w", path, a.Status, a.Body, err)
		}
		var page struct {
			Results []struct {
				ID  string `json:"id"`
				PEM string `json:"pem_encoded"`
			} `json:"results"`
		}
		if err := json.Unmarshal([]byte(a.Body), &page); err != nil {
			return nil, err
		}
		for _, r := range page.Results {
			if prefix == issuedName {
				if _, r.ID, err = publicKeyOf(r.PEM); err != nil {
					return nil, err
				}
			}
			found[prefix+r.ID] = r.PEM
		}
	}
	return found, nil
}

// change is a request that changes what is stored.
type change struct {
	method, path, body string
	status             int // of success
	// after is what is stored once it happened; where the answer holds a new CSR,
	// that is unknown under the name learn.
	after stored
	learn string
}

// send makes the change. It returns what is stored then, with what was learned. An
// error means that no answer came.
func (c change) send(s *start.Instance) (after stored, a start.Answer, err error) {
	a, err = s.Do(c.method, c.path, c.body)
	if err != nil || a.Status != c.status || c.learn == "" {
		return c.after, a, err
	}
	var made map[string]any
	if err := json.Unmarshal([]byte(a.Body), &made); err != nil {
		return nil, a, err
	}
	for _, name := range []string{"csr", "pem_encoded"} {
		if text, ok := made[name].(string); ok {
			return c.after.with(c.learn, text), a, nil
		}
	}
	return nil, a, errors.New("no CSR in the answer: " + a.Body)
}

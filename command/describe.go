package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/client"
	"attestcsr/handler/console"
	"attestcsr/handler/strict"
	"attestcsr/handler/vapi"
)

// maxPEMFile has room for a chain of ten certificates with many names.
const maxPEMFile = 1 << 20

// requestView is what "show" says of a CSR.
type requestView struct {
	Subject      string     `json:"subject"`
	Names        []string   `json:"names"`
	Key          string     `json:"key"`
	Signature    string     `json:"signature_algorithm"`
	Verifies     bool       `json:"signature_verifies"`
	SHA256       string     `json:"sha256"`
	PublicKey    string     `json:"public_key_sha256"`
	PendingSince *time.Time `json:"pending_since,omitzero"`
}

// parseRequest reads a CSR in PEM, under the label of RFC 7468 or the older one, or in DER.
func parseRequest(text []byte) (*x509.CertificateRequest, error) {
	der := text
	if block, _ := pem.Decode(text); block != nil {
		if block.Type != pkcs10.BlockRequest && block.Type != "NEW "+pkcs10.BlockRequest {
			return nil, fmt.Errorf("it holds a block %q in place of a CSR", strict.Printable(block.Type, 40))
		}
		der = block.Bytes
	} else if bytes.Contains(text, []byte("-----BEGIN ")) {
		return nil, errors.New("its PEM is damaged: copy it again, with its BEGIN and END lines")
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("it is no CSR: %w", err)
	}
	return r, nil
}

func newRequestView(r *x509.CertificateRequest) requestView {
	names, _ := namesOf(pem.EncodeToMemory(&pem.Block{Type: pkcs10.BlockRequest, Bytes: r.Raw}))
	return requestView{
		Subject: pkcs10.DistinguishedName(r.RawSubject), Names: names,
		Key:       keyText(r.PublicKeyAlgorithm.String(), pkcs10.KeyBits(r.PublicKey)),
		Signature: r.SignatureAlgorithm.String(), Verifies: r.CheckSignature() == nil,
		SHA256: sum(r.Raw), PublicKey: sum(r.RawSubjectPublicKeyInfo),
	}
}

// namesOf returns the alternative names of a CSR.
func namesOf(text []byte) ([]string, error) {
	d, err := pkcs10.Describe(string(text))
	return append([]string{}, d.Names...), err
}

func sum(der []byte) string {
	digest := sha256.Sum256(der)
	return hex.EncodeToString(digest[:])
}

func keyText(algorithm string, bits int) string {
	if bits == 0 {
		return algorithm
	}
	return fmt.Sprintf("%s %d", algorithm, bits)
}

// clean makes text of a certificate fit for a terminal, one value a line.
func clean(values ...string) string {
	var lines []string
	for _, v := range values {
		lines = append(lines, strict.Printable(v, 1000))
	}
	return strings.Join(lines, "\n")
}

func (v requestView) text(now time.Time) string {
	signature := v.Signature
	if !v.Verifies {
		signature += doesNotVerify
	}
	since := ""
	if v.PendingSince != nil {
		since = "since " + moment(*v.PendingSince) + " (" + age(now.Sub(*v.PendingSince)) + ")"
	}
	return rows(
		row{"CSR", ""}, row{"subject", clean(v.Subject)}, row{"names", clean(v.Names...)}, row{"key", v.Key}, row{"signature", signature},
		row{"pending", since}, row{"SHA-256", v.SHA256}, row{"public key", "sha256:" + v.PublicKey},
	)
}

// age writes how long something took or is ago.
func age(d time.Duration) string {
	n, unit := int(d.Hours()/24), "day"
	switch {
	case d < time.Minute:
		n, unit = int(d.Seconds()), "second"
	case d < time.Hour:
		n, unit = int(d.Minutes()), "minute"
	case d < 48*time.Hour:
		n, unit = int(d.Hours()), "hour"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// certificateView is what "show" says of a certificate.
type certificateView struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	DaysLeft  int       `json:"days_left"`
	Key       string    `json:"key"`
	Signature string    `json:"signature_algorithm"`
	CA        bool      `json:"ca"`
	SHA256    string    `json:"sha256"`
	PublicKey string    `json:"public_key_sha256"`
}

// chainView is what "show" says of a chain, and of what it was compared with.
type chainView struct {
	Certificates []certificateView `json:"certificates"`
	// Answers says whose key the leaf is for: pending, staged, installed, none, or unknown.
	Answers     string           `json:"answers"`
	Differences []string         `json:"differences"` // from what the pending CSR asks for
	Anchored    bool             `json:"anchored"`
	Staged      *console.Staged  `json:"staged,omitzero"`
	Active      string           `json:"active,omitzero"` // when it would become active
	Unchanged   bool             `json:"unchanged,omitzero"`
	Checks      []console.Result `json:"checks,omitempty"`
	Notes       []string         `json:"notes"`
}

func newChainView(chain pkcs10.Chain, now time.Time) chainView {
	v := chainView{Answers: "unknown", Differences: []string{}, Notes: []string{}}
	for _, c := range chain {
		f := pkcs10.FactsOf(c)
		v.Certificates = append(v.Certificates, certificateView{
			Subject: f.Subject, Issuer: f.Issuer, Names: append([]string{}, f.Names...), Serial: f.Serial, NotBefore: f.NotBefore, NotAfter: f.NotAfter,
			DaysLeft: daysLeft(f.NotAfter, now), Key: keyText(f.KeyAlgorithm, f.KeyBits), Signature: f.SignatureAlgorithm, CA: f.CA,
			SHA256: f.SHA256, PublicKey: sum(f.PublicKey),
		})
	}
	return v
}

// daysLeft is rounded towards minus infinity: in the hour after the end it is -1.
func daysLeft(end, now time.Time) int {
	const day = 24 * time.Hour
	left := end.Sub(now)
	days := int(left / day)
	if left < 0 && left%day != 0 {
		days--
	}
	return days
}

func (v certificateView) validity(now time.Time) string {
	span := moment(v.NotBefore) + " to " + moment(v.NotAfter)
	switch {
	case now.Before(v.NotBefore):
		return span + notYetValid
	case v.DaysLeft < 0:
		return span + expired
	}
	return span + fmt.Sprintf(" (%d days left)", v.DaysLeft)
}

func (v chainView) text(now time.Time) string {
	var text strings.Builder
	for i, c := range v.Certificates {
		if i > 0 {
			text.WriteString("\n")
		}
		issuer := clean(c.Issuer)
		if c.Issuer == c.Subject {
			issuer += " (self-signed, by its name)"
		}
		kind := ""
		if c.CA {
			kind = "may issue certificates (CA)"
		}
		text.WriteString(rows(
			row{"certificate", fmt.Sprintf("%d of %d", i+1, len(v.Certificates))}, row{"subject", clean(c.Subject)}, row{"names", clean(c.Names...)},
			row{"issuer", issuer}, row{"serial", clean(c.Serial)}, row{"valid", c.validity(now)}, row{"key", c.Key}, row{"signature", c.Signature}, row{"use", kind},
			row{"SHA-256", c.SHA256}, row{"public key", "sha256:" + c.PublicKey},
		))
	}
	if text.Len() > 0 {
		text.WriteString("\n")
	}
	staged := ""
	if v.Staged != nil {
		staged = fmt.Sprintf("since %s, active from %s on, SHA-256 %s", v.Staged.Since, v.Staged.Active, v.Staged.SHA256)
	}
	anchor := "not checked against an anchor"
	if v.Anchored {
		anchor = "leads to a trust anchor of the service"
	}
	text.WriteString(rows(
		row{"answers", answerText(v.Answers)}, row{"differs", clean(v.Differences...)}, row{"staged", staged}, row{"anchor", anchor}, row{"note", clean(v.Notes...)},
	))
	return text.String()
}

func answerText(answers string) string {
	return map[string]string{
		"pending":   "the pending CSR",
		"staged":    "the staged certificate's key",
		"installed": "the key of the installed certificate",
		"none":      "neither the pending CSR nor the installed key",
		"unknown":   "not compared with a CSR",
	}[answers]
}

// compare asks the service what it says of a chain. A server that does not check, and a
// user who may not ask for it, leave the comparison with the pending CSR.
func (v *chainView) compare(ctx context.Context, esx *vapi.Client, chain pkcs10.Chain) error {
	report, err := console.NewClient(esx).Check(ctx, console.CheckSpec{Kind: "certificate", Certificate: chain.PEM()})
	if err == nil {
		v.take(report)
		return nil
	}
	switch client.Status(err) {
	case 403, 404, 405:
	default:
		return err
	}
	csr, err := esx.CSR(ctx)
	switch client.Status(err) {
	case 403, 404:
		v.Notes = append(v.Notes, "the server has no pending CSR to compare with, or does not show it")
		return nil
	}
	if err != nil {
		return err
	}
	return v.compareWith(csr, chain.Leaf())
}

// take takes over what a service has found.
func (v *chainView) take(r console.Report) {
	v.Answers, v.Anchored, v.Staged, v.Active, v.Unchanged, v.Checks = r.Key, r.Anchored, r.Staged, r.Active, r.Unchanged, r.Checks
	if v.Answers == "" {
		v.Answers = "none"
	}
	for _, check := range r.Checks {
		for _, m := range check.Messages {
			switch {
			case check.Check == string(pkcs10.CheckNames):
				v.Differences = append(v.Differences, m.Default)
			case check.Result == "failed", check.Result == "warning":
				v.Notes = append(v.Notes, m.Default)
			}
		}
	}
}

// compareWith compares a leaf with a CSR.
func (v *chainView) compareWith(csr string, leaf *x509.Certificate) error {
	r, err := parseRequest([]byte(csr))
	if err != nil {
		return fmt.Errorf("the CSR of the server: %w", err)
	}
	v.Answers = "none"
	if pkcs10.SameKey(r.PublicKey, leaf.PublicKey) {
		v.Answers = "pending"
		spec, _, err := pkcs10.SpecOf(r.Raw)
		if err != nil {
			return err
		}
		v.Differences = append(v.Differences, pkcs10.Compare(spec, leaf)...)
	}
	v.Notes = append(v.Notes, "compared here, since the server does not check for this user")
	return nil
}

// readChain reads the certificates of files in PEM, DER or PKCS#7, in any order, and
// returns them as a chain, the leaf first.
func readChain(files []string) (all pkcs10.Chain, err error) {
	seen := map[string]bool{}
	for _, file := range files {
		text, err := readFile(file, maxPEMFile)
		if err != nil {
			return nil, err
		}
		chain, broken := pkcs10.ReadChain(text, true)
		if len(broken) > 0 {
			var lines []error
			for _, v := range broken {
				lines = append(lines, errors.New(v.Describe(file)))
			}
			return nil, errors.Join(lines...)
		}
		for _, c := range chain {
			if !seen[string(c.Raw)] {
				seen[string(c.Raw)] = true
				all = append(all, c)
			}
		}
	}
	ordered, cause := pkcs10.InOrder(all)
	if cause != "" {
		return nil, fmt.Errorf("the certificates are not one chain, leaf and issuers: %s", cause)
	}
	return ordered, nil
}

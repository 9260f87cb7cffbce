package handler_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"attestcsr/test/kit"
)

// sent is a chain as a client may send it: most are broken in one place.
type sent struct{ name, text string }

// brokenChains are chains for a key. Half of them are a good chain whose text or bytes were
// changed, in turn at every so many places. The others are well-formed, and each has a
// field that is not as it has to be.
func brokenChains(t *testing.T, key crypto.PublicKey) []sent {
	t.Helper()
	root := newTestCA(t)
	middle := root.NewCA(t, "middle")
	leaf := middle.Issue(t, "leaf", key, names)
	all := []sent{{"good", kit.PEM(leaf, middle.Cert, root.Cert)}, {"leaf alone", kit.PEM(leaf)}}
	all = append(all, brokenTexts(leaf, middle.Cert, root.Cert)...)
	all = append(all, brokenFields(t, root, middle, key)...)
	for place, cert := range []*x509.Certificate{leaf, middle.Cert} {
		for i := 0; i < len(cert.Raw); i += 1 + len(cert.Raw)/kit.Effort(120, 1000) {
			der := slices.Clone(cert.Raw)
			der[i] ^= byte(1 + i%255)
			chain := []*x509.Certificate{leaf, middle.Cert, root.Cert}
			chain[place] = &x509.Certificate{Raw: der}
			all = append(all, sent{fmt.Sprintf("certificate %d, byte %d", place+1, i), kit.PEM(chain...)})
		}
	}
	return all
}

func names(c *x509.Certificate) { c.DNSNames = []string{"leaf.example.com"} }

// brokenTexts are what happens to a chain between the CA and here.
func brokenTexts(leaf, middle, root *x509.Certificate) []sent {
	good := kit.PEM(leaf, middle, root)
	blocks := strings.SplitAfter(good, "-----END CERTIFICATE-----\n")
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	wide := ""
	for _, unit := range utf16.Encode([]rune(good)) {
		wide += string(rune(unit>>8)) + string(rune(unit&0xff))
	}
	all := []sent{
		{"nothing", ""}, {"blanks", " \n"}, {"words", "certificate"}, {"a path", "/etc/ssl/cert.pem"},
		{"byte order mark", "\ufeff" + good}, {"UTF-16", wide}, {"line ends of Windows", strings.ReplaceAll(good, "\n", "\r\n")},
		{"no line ends", strings.ReplaceAll(good, "\n", "")}, {"line ends as two characters", strings.ReplaceAll(good, "\n", `\n`)},
		{"blocks without a line end between", strings.ReplaceAll(good, "-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----")},
		{"blanks for plus signs", strings.ReplaceAll(good, "+", " ")}, {"base64 of base64", base64.StdEncoding.EncodeToString([]byte(good))},
		{"DER in base64", base64.StdEncoding.EncodeToString(leaf.Raw)}, {"text between", strings.Join(blocks, "issuer=somebody\n")},
		{"private key", good + block("PRIVATE KEY", []byte("secret"))}, {"a CSR", block("CERTIFICATE REQUEST", leaf.RawTBSCertificate)},
		{"trusted certificate", block("TRUSTED CERTIFICATE", leaf.Raw)}, {"no PKCS#7", block("PKCS7", leaf.Raw)},
		{"a duplicate", blocks[0] + good}, {"eleven", strings.Repeat(strings.Join(blocks, ""), 5)}, {"four hundred empty blocks", strings.Repeat("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", 400)},
		{"trailing DER", block("CERTIFICATE", append(slices.Clone(leaf.Raw), 0))}, {"headers", strings.Replace(good, "-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1)},
		{"NUL", good + "\x00"}, {"escape sequence", "\x1b[2J" + good},
	}
	for _, order := range [][3]int{{0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		all = append(all, sent{fmt.Sprint("order ", order), blocks[order[0]] + blocks[order[1]] + blocks[order[2]]})
	}
	for i := 0; i < len(good); i += 1 + len(good)/kit.Effort(60, 500) {
		all = append(all, sent{fmt.Sprintf("cut at %d", i), good[:i]}, sent{fmt.Sprintf("without character %d", i), good[:i] + good[i+1:]},
			sent{fmt.Sprintf("another character %d", i), good[:i] + "!" + good[i+1:]})
	}
	return all
}

// brokenFields have a field of the leaf or of its issuer that is not as it has to be.
func brokenFields(t *testing.T, root, middle *kit.CA, key crypto.PublicKey) []sent {
	t.Helper()
	edits := map[string]func(*x509.Certificate){
		"expired":                func(c *x509.Certificate) { c.NotAfter = root.Now.Add(-time.Hour) },
		"not yet valid":          func(c *x509.Certificate) { c.NotBefore = root.Now.Add(time.Hour) },
		"valid for ever":         func(c *x509.Certificate) { c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) },
		"ends before it begins":  func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(-time.Hour) },
		"another CN":             func(c *x509.Certificate) { c.Subject.CommonName = "other" },
		"no subject":             func(c *x509.Certificate) { c.Subject = pkix.Name{} },
		"a subject of control":   func(c *x509.Certificate) { c.Subject.CommonName = "a\u202e\x1b[2J\nb" },
		"a long subject":         func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("x", 2000) },
		"many names":             func(c *x509.Certificate) { c.DNSNames = many(500, "h%d.example.com") },
		"no key usage":           func(c *x509.Certificate) { c.KeyUsage = 0 },
		"key usage keyAgreement": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement },
		"key usage cRLSign":      func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign },
		"a CA": func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		},
		"no CA":                      func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, true },
		"no path length":             func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true },
		"unknown critical extension": func(c *x509.Certificate) { c.ExtraExtensions = extension(true) },
		"unknown extension":          func(c *x509.Certificate) { c.ExtraExtensions = extension(false) },
		"name constraints": func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.org"}, true
		},
		"extended key usage":          func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"another authority key":       func(c *x509.Certificate) { c.AuthorityKeyId = []byte{1, 2, 3} },
		"policy with a strange value": func(c *x509.Certificate) { c.PolicyIdentifiers = []asn1.ObjectIdentifier{{2, 999, 1}} },
	}
	var all []sent
	for name, edit := range edits {
		all = append(all, sent{"leaf: " + name, kit.PEM(middle.Issue(t, "leaf", key, names, edit), middle.Cert, root.Cert)})
		issuer := root.NewCA(t, "middle", edit)
		all = append(all, sent{"issuer: " + name, kit.PEM(issuer.Issue(t, "leaf", key, names), issuer.Cert, root.Cert)})
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak := &kit.CA{Key: small, Now: root.Now}
	weak.Cert = root.Issue(t, "weak", small.Public(), edits["a CA"])
	sha1 := func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }
	other := newTestCA(t)
	return append(all,
		sent{"RSA 1024 issuer", kit.PEM(weak.Issue(t, "leaf", key, names), weak.Cert, root.Cert)},
		sent{"another key", kit.PEM(middle.Issue(t, "leaf", kit.NewKey(t).Public(), names), middle.Cert)},
		sent{"another issuer", kit.PEM(middle.Issue(t, "leaf", key, names), other.Cert)},
		sent{"an issuer of the same name", kit.PEM(middle.Issue(t, "leaf", key, names), root.NewCA(t, "middle").Cert)},
		sent{"surplus root", kit.PEM(middle.Issue(t, "leaf", key, names), middle.Cert, root.Cert, other.Cert)},
		sent{"signed with SHA-1", kit.PEM(weak.Issue(t, "leaf", key, names, sha1))},
	)
}

func extension(critical bool) []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 1}, Critical: critical, Value: []byte{5, 0}}}
}

// TestBrokenChains sends chains that are broken in one place to each operation that takes
// one, and to the check of each. No answer is a fault of the service, each is a document
// of its dialect, and a check says what the set then answers.
func TestBrokenChains(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	const id = "swept"
	request := `{"subject":{"attributes":[{"key":"CN","value":"leaf"}]},"key_size":2048}`
	s.createCSR(validSpec)
	chains := brokenChains(t, parseCSR(t, *s.nsxMake(id, request).PEMEncoded).PublicKey)
	accepted := 0
	for _, c := range chains {
		report := reportOf(t, s.do(checkCall("", c.text)))
		a := s.setCertificate(c.text)
		if got := a.status == http.StatusNoContent; got != report.Accepted {
			t.Errorf("%s: check says %+v, set %d %s", c.name, report, a.status, a.body)
		} else if got {
			accepted++
		} else if told := messagesOf(t, a); !sameTexts(told, report.failures()) {
			t.Errorf("%s: check says\n%q\nset says\n%q", c.name, report.failures(), told)
		}

		report = reportOf(t, s.do(checkCall(id, c.text)))
		a = s.importChain(id, c.text, "")
		if got := a.status == http.StatusCreated; got != report.Accepted {
			t.Errorf("%s: check says %+v, import %d %s", c.name, report, a.status, a.body)
		} else if got {
			s.nsxMake(id, request)
		} else if e := a.nsxError(t); a.status != http.StatusBadRequest || *e.Code != 255 || e.Details == nil {
			t.Errorf("%s: import %d %s", c.name, a.status, a.body)
		}
		if t.Failed() {
			return // the log of hundreds helps nobody
		}
	}
	if strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Error("a broken chain was logged as a fault of the service")
	}
	if accepted < 10 || accepted > len(chains)/2 {
		t.Errorf("%d of %d chains are accepted: what is tested?", accepted, len(chains))
	}
	kit.Count(t, "broken chains sent", len(chains))
}

// messagesOf are the messages of a refused set, as checkReport.failures writes them.
func messagesOf(t *testing.T, a answer) (messages []string) {
	t.Helper()
	doc := a.vapiError(t)
	if a.status != http.StatusBadRequest || doc.ErrorType != "INVALID_ARGUMENT" {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, m := range doc.Messages {
		messages = append(messages, m.ID+": "+m.Default)
	}
	return messages
}

// sameTexts compares texts apart from the time of each, which some of them say.
func sameTexts(a, b []string) bool {
	return slices.Equal(sortedTimeless(a), sortedTimeless(b))
}

func sortedTimeless(texts []string) (sorted []string) {
	clock := regexp.MustCompile(`the clock here says [-0-9T:]+Z`)
	for _, text := range texts {
		sorted = append(sorted, clock.ReplaceAllString(text, ""))
	}
	slices.Sort(sorted)
	return sorted
}

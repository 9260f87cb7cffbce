package pkcs10_test

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

func TestReadChain(t *testing.T) {
	t.Parallel()
	g := newGiven(t)
	for _, c := range slices.Concat(carriedCases(g), boundaryCases(g), foreignCases(g), contentCases(t, g), readCases(g)) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			chain, broken := pkcs10.ReadChain([]byte(c.text), false)
			if len(c.want) == 0 && (broken != nil || chain.PEM() != g.chain) {
				t.Fatalf("violations %+v", broken)
			}
			checkFaults(t, broken, c.want)
			for _, v := range broken {
				if said := fmt.Sprintf("%+v %s", v, v.Describe("certificate")); strings.Contains(said, secret[:16]) || strings.Contains(said, g.body[:16]) {
					t.Errorf("what was sent is echoed: %s", said)
				}
			}
		})
	}
}

// checkFaults compares violations with what was wanted.
func checkFaults(t *testing.T, broken pkcs10.Violations, want []fault) {
	t.Helper()
	kit.CheckSentences(t, broken)
	if len(broken) != len(want) {
		t.Fatalf("violations %+v\nwant %+v", broken, want)
	}
	for i, v := range broken {
		w := want[i]
		if v.Field != pkcs10.CertificateChain || v.Check() != pkcs10.CheckEncoding || v.Rule != w.rule || v.Place != w.place || v.Value != w.value && w.value != "*" {
			t.Errorf("%+v\nwant %+v", v, w)
		}
		if said := v.Describe("certificate"); !strings.Contains(said, w.words) {
			t.Errorf("%s\nwant %q in it", said, w.words)
		}
	}
}

// Sentences say which certificate, what is wrong, what the parser says and what to do.
func TestEncodingSentences(t *testing.T) {
	t.Parallel()
	g := newGiven(t)
	negative := inBlock("CERTIFICATE", rebuild(t, g.middle.Cert, map[int][]byte{itsSerial: {2, 1, 0x9d}}))
	for text, want := range map[string]string{
		g.one + negative:                 `certificate 2 "CN=middle" is refused by crypto/x509, the CA has to issue another one: x509: negative serial number`,
		strings.TrimSpace(g.one) + g.one: `certificate 1 "CN=leaf" has an END and a BEGIN on one line: put a line end between the two blocks: line ` + strconv.Itoa(strings.Count(g.one, "\n")),
		block("EC PRIVATE KEY", secret):  "certificate must not have a private key, and has one (EC PRIVATE KEY): take it out, and replace the key, because it may be compromised now: line 1",
	} {
		_, broken := pkcs10.ReadChain([]byte(text), false)
		if len(broken) != 1 || broken[0].Describe("certificate") != want {
			t.Errorf("%+v\nwant %s", []pkcs10.Violation(broken), want)
		}
	}
}

// Ten certificates are a chain, eleven are not, however often each is sent.
func TestReadChainLimit(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	certificates := longChain(t, root, testKey().Public())
	ten, eleven := kit.PEM(certificates[:10]...), kit.PEM(certificates[:11]...)
	if chain, broken := pkcs10.ReadChain([]byte(ten+ten), false); broken != nil || len(chain) != 10 {
		t.Errorf("%d certificates, %+v", len(chain), broken)
	}
	_, broken := pkcs10.ReadChain([]byte(eleven), false)
	checkFaults(t, broken, []fault{{rule: pkcs10.TooMany, words: "at most 10 certificates"}})
	_, broken = pkcs10.ReadChain([]byte(strings.Repeat(block("CERTIFICATE", ""), 1000)), false)
	if len(broken) > 20 || broken[len(broken)-1].Rule != pkcs10.TooMany {
		t.Errorf("%d violations, %+v", len(broken), broken)
	}
	_, broken = pkcs10.ReadChain([]byte(strings.Repeat("-----END CERTIFICATE-----\n", 1000)), false)
	if len(broken) != 20 {
		t.Errorf("%d violations", len(broken))
	}
}

// The work is bounded for a text of 1 MiB, whatever is in it.
func TestReadChainEffort(t *testing.T) {
	t.Parallel()
	g := newGiven(t)
	for name, part := range map[string]string{
		"certificates": g.chain, "boundaries": "-----BEGIN CERTIFICATE-----\n", "mixed lines": "-----END A----------BEGIN B-----", "hyphens": "-", "five hyphens and BEGIN": "-----BEGIN ",
		"carriage returns": "\r", "lines of base64": "AAAA\n", "zeros": "\x00", "quotes": ">",
	} {
		for _, before := range []string{"", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN PKCS7-----\n"} {
			text := []byte(before + strings.Repeat(part, (1<<20-len(before))/len(part)))
			start := time.Now()
			_, _ = pkcs10.ReadChain(text, false)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%s after %q took %v", name, before, took)
			}
		}
	}
}

// checkRead reads a text and checks what holds for every text.
func checkRead(t *testing.T, text []byte, der bool) {
	t.Helper()
	chain, broken := pkcs10.ReadChain(text, der)
	if len(broken) > 0 {
		if chain != nil || len(broken) > 20 {
			t.Fatalf("a chain of %d beside %d violations", len(chain), len(broken))
		}
		for _, v := range broken {
			if v.Field != pkcs10.CertificateChain || v.Check() != pkcs10.CheckEncoding || v.Place < 0 || v.Place > 11 {
				t.Fatalf("%+v", v)
			}
		}
		kit.CheckSentences(t, broken)
		return
	}
	if n := len(chain); n < 1 || n > 10 {
		t.Fatalf("%d certificates", n)
	}
	for i, c := range chain {
		if slices.ContainsFunc(chain[:i], c.Equal) {
			t.Fatal("a certificate is there twice")
		}
	}
	again, broken := pkcs10.ReadChain([]byte(chain.PEM()), false)
	if len(broken) > 0 || !slices.EqualFunc(again, chain, (*x509.Certificate).Equal) {
		t.Fatalf("the chain reads as another one: %+v", []pkcs10.Violation(broken))
	}
	// encoding/pem reads what is stored in the same way.
	stored, err := kit.ParseChain(chain.PEM())
	if err != nil || !slices.EqualFunc(stored, chain, (*x509.Certificate).Equal) {
		t.Fatalf("the stored chain is another one: %v", err)
	}
}

func FuzzReadChain(f *testing.F) {
	g := newGiven(f)
	for _, c := range slices.Concat(carriedCases(g), boundaryCases(g), foreignCases(g), contentCases(f, g), readCases(g)) {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { checkRead(t, text, false) })
}

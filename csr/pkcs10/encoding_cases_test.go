package pkcs10_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// secret stands for a private key that was sent by mistake.
const secret = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ"

func block(label, body string) string {
	return "-----BEGIN " + label + "-----\n" + body + "\n-----END " + label + "-----\n"
}

func inBlock(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

// given are the certificates and texts that the tables are made of.
type given struct {
	root, middle *kit.CA
	leaf         *x509.Certificate
	other        *x509.Certificate // of middle, for another key
	chain, one   string            // leaf and middle; leaf
	body         string            // the base64 of leaf, in lines
}

func newGiven(t testing.TB) given {
	t.Helper()
	root := kit.NewCA(t, "root", noon())
	middle := root.NewCA(t, "middle")
	// Without a + or with one at the end of a line, form encoding would not be seen.
	plus := func(c *x509.Certificate) bool {
		for line := range strings.Lines(kit.PEM(c)) {
			if at := strings.Index(strings.TrimSpace(line), "+"); at > 0 && at < len(strings.TrimSpace(line))-1 {
				return true
			}
		}
		return false
	}
	leaf := middle.Issue(t, "leaf", testKey().Public())
	for !plus(leaf) {
		leaf = middle.Issue(t, "leaf", testKey().Public())
	}
	one := kit.PEM(leaf)
	return given{
		root: root, middle: middle, leaf: leaf, other: middle.Issue(t, "other", kit.NewKey(t).Public()),
		chain: one + kit.PEM(middle.Cert), one: one,
		body: strings.TrimSuffix(strings.TrimPrefix(one, "-----BEGIN CERTIFICATE-----\n"), "\n-----END CERTIFICATE-----\n"),
	}
}

// textCase is a text, and what is said of it. With nothing said, it is read as the chain.
type textCase struct {
	name string
	text string
	want []fault
}

type fault struct {
	rule  pkcs10.Rule
	place int
	value string // "*": any
	words string // a part of the sentence
}

func asUTF16(text string, order binary.AppendByteOrder, mark bool) string {
	var b []byte
	if mark {
		text = "\ufeff" + text
	}
	for _, unit := range utf16.Encode([]rune(text)) {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}

// carriedCases are texts that were damaged on their way.
func carriedCases(g given) []textCase {
	whole := func(rule pkcs10.Rule, words string) []fault { return []fault{{rule: rule, words: words}} }
	// Whether the subject can be read depends on where the damage is.
	first := func(rule pkcs10.Rule, words string) []fault { return []fault{{rule, 1, "*", words}} }
	escaped := strings.ReplaceAll(g.chain, "\n", `\n`)
	return []textCase{
		{"nothing", "", whole(pkcs10.Empty, "must not be empty")},
		{"blanks", " \r\n\t", whole(pkcs10.Empty, "must not be empty")},
		{"a byte order mark alone", "\ufeff", whole(pkcs10.Empty, "must not be empty")},
		{"UTF-16 from PowerShell", asUTF16(g.chain, binary.LittleEndian, true), whole(pkcs10.UTF16, "save the text as UTF-8")},
		{"UTF-16 without a mark", asUTF16(g.chain, binary.LittleEndian, false), whole(pkcs10.UTF16, "save the text as UTF-8")},
		{"UTF-16, big endian", asUTF16(g.chain, binary.BigEndian, true), whole(pkcs10.UTF16, "save the text as UTF-8")},
		{"UTF-16, big endian, without a mark", asUTF16(g.chain, binary.BigEndian, false), whole(pkcs10.UTF16, "save the text as UTF-8")},
		{"UTF-16 read as Latin-1", string([]rune{0xff, 0xfe}) + asUTF16(g.chain, binary.LittleEndian, false), whole(pkcs10.UTF16, "save the text as UTF-8")},
		{"line ends escaped twice", escaped, whole(pkcs10.EscapedLineEnds, "a backslash and a letter")},
		{"line ends of Windows escaped twice", strings.ReplaceAll(g.chain, "\n", `\r\n`), whole(pkcs10.EscapedLineEnds, "a backslash and a letter")},
		{"line ends escaped twice in the body", block("CERTIFICATE", strings.ReplaceAll(g.body, "\n", `\n`)), first(pkcs10.EscapedLineEnds, "line 2")},
		{"line ends escaped thrice", strings.ReplaceAll(g.chain, "\n", `\\n`), whole(pkcs10.EscapedLineEnds, "a backslash and a letter")},
		{"line ends escaped as code points", strings.ReplaceAll(g.chain, "\n", `\u000a`), whole(pkcs10.EscapedLineEnds, "a backslash and a letter")},
		{"a JSON document as text", `{"certificate":"` + escaped + `"}`, whole(pkcs10.EscapedLineEnds, "a backslash and a letter")},
		{"path-encoded", url.PathEscape(g.chain), whole(pkcs10.URLEncoded, "send the text as it is")},
		{"query-encoded", url.QueryEscape(g.chain), whole(pkcs10.URLEncoded, "send the text as it is")},
		{"query-encoded body", block("CERTIFICATE", strings.ReplaceAll(g.body, "+", "%2B")), first(pkcs10.URLEncoded, "line ")},
		{"+ became a blank", strings.ReplaceAll(g.one, "+", " "), first(pkcs10.BlankInBase64, "form encoding")},
		{"base64 of PEM", base64.StdEncoding.EncodeToString([]byte(g.chain)), whole(pkcs10.EncodedTwice, "decode it once")},
		{"query-encoded line ends", strings.ReplaceAll(g.chain, "\n", "%0A"), whole(pkcs10.URLEncoded, "send the text as it is")},
		{"base64 of PEM in a secret of Kubernetes", "tls.crt: " + base64.StdEncoding.EncodeToString([]byte(g.chain)), whole(pkcs10.EncodedTwice, "decode it once")},
		{"base64 of PEM of Windows", base64.StdEncoding.EncodeToString([]byte(strings.ReplaceAll(g.chain, "\n", "\r\n"))), whole(pkcs10.EncodedTwice, "decode it once")},
		{"DER", string(g.leaf.Raw), whole(pkcs10.DERInsteadOfPEM, "openssl x509 -inform DER")},
		{"DER read as Latin-1", latin1(g.leaf.Raw), whole(pkcs10.DERInsteadOfPEM, "openssl x509 -inform DER")},
		{"DER read as UTF-8", strings.ToValidUTF8(string(g.leaf.Raw), "\uFFFD"), whole(pkcs10.DERInsteadOfPEM, "openssl x509 -inform DER")},
		{"base64 alone", g.body, whole(pkcs10.NoBoundaries, "-----BEGIN CERTIFICATE-----")},
		{"base64 alone on one line", strings.ReplaceAll(g.body, "\n", ""), whole(pkcs10.NoBoundaries, "-----BEGIN CERTIFICATE-----")},
		{"prose", "a certificate, please", whole(pkcs10.NoCertificate, "at least one PEM block of type CERTIFICATE")},
		{"bytes", "\x00\xff\x30", whole(pkcs10.NoCertificate, "at least one PEM block of type CERTIFICATE")},
	}
}

func latin1(b []byte) string {
	var text []rune
	for _, c := range b {
		text = append(text, rune(c))
	}
	return string(text)
}

// boundaryCases are texts whose BEGIN and END lines are damaged.
func boundaryCases(g given) []textCase {
	at := func(place int, rule pkcs10.Rule, words string) []fault {
		return []fault{{rule: rule, place: place, words: words}}
	}
	issuer, lines := strings.TrimPrefix(g.chain, g.one), strings.Count(g.one, "\n")
	read := func(place int, rule pkcs10.Rule, words string) []fault {
		return []fault{{rule, place, []string{"CN=leaf", "CN=middle"}[place-1], words}}
	}
	line := func(n int) string { return fmt.Sprintf("line %d", n) }
	oneLine := strings.ReplaceAll(g.one, "\n", "")
	return []textCase{
		{"no line end between", strings.TrimSpace(g.one) + issuer, read(1, pkcs10.JoinedBlocks, line(lines))},
		{"no line end between, but a blank", strings.TrimSpace(g.one) + " " + issuer, read(1, pkcs10.BrokenBoundary, line(lines))},
		{"no line ends", oneLine, at(1, pkcs10.LostLineEnds, "line 1")},
		{"blanks for line ends", strings.ReplaceAll(g.chain, "\n", " "), at(1, pkcs10.LostLineEnds, "line 1")},
		{"no line end after BEGIN", strings.Replace(g.one, "\n", "", 1), at(1, pkcs10.LostLineEnds, "line 1")},
		{"no line end before END", strings.Replace(g.one, "\n-----END", "-----END", 1), read(1, pkcs10.LostLineEnds, line(lines-1))},
		{"text before BEGIN", "x" + g.one, at(1, pkcs10.BrokenBoundary, "line 1")},
		{"text after END", strings.TrimSpace(g.one) + " the end", read(1, pkcs10.BrokenBoundary, line(lines))},
		{"quoted in a mail", "> " + strings.ReplaceAll(strings.TrimSpace(g.one), "\n", "\n> "), at(1, pkcs10.BrokenBoundary, "line 1")},
		{"four hyphens before BEGIN", g.one[1:], at(1, pkcs10.BrokenBoundary, "line 1")},
		{"four hyphens after BEGIN", strings.Replace(g.one, "CERTIFICATE-----", "CERTIFICATE----", 1), at(1, pkcs10.BrokenBoundary, "line 1")},
		{"four hyphens before END", strings.Replace(g.one, "-----END", "----END", 1), read(1, pkcs10.BrokenBoundary, line(lines))},
		{"four hyphens after END", strings.TrimSpace(g.one)[:len(g.one)-2] + "\n", read(1, pkcs10.BrokenBoundary, line(lines))},
		{"dashes of a word processor", strings.ReplaceAll(g.one, "-----", "\u2014\u2013"), at(1, pkcs10.BrokenBoundary, "line 1")},
		{"lower case", strings.ReplaceAll(strings.ReplaceAll(g.one, "BEGIN CERTIFICATE", "begin certificate"), "END CERTIFICATE", "end certificate"), at(1, pkcs10.BrokenBoundary, "line 1")},
		{"a backslash after BEGIN", strings.Replace(g.one, "\n", "\\\n", 1), at(1, pkcs10.BrokenBoundary, "line 1")},
		{"a zero after END", strings.TrimSpace(g.one) + "\x00", read(1, pkcs10.BrokenBoundary, line(lines))},
		{"another END", strings.Replace(g.one, "END CERTIFICATE", "END PRIVATE KEY", 1), read(1, pkcs10.BrokenBoundary, "another type")},
		{"cut in the middle", g.one[:400], read(1, pkcs10.CutOff, "line 1 begins it, no END line follows")},
		{"the END is missing", strings.TrimSuffix(g.chain, "-----END CERTIFICATE-----\n"), read(2, pkcs10.CutOff, line(lines+1)+" begins it, no END line follows")},
		{"cut off within END", strings.TrimSpace(g.chain)[:len(g.chain)-10], read(2, pkcs10.BrokenBoundary, "damaged BEGIN or END")},
		{"the first END is missing", strings.Replace(g.chain, "-----END CERTIFICATE-----\n", "", 1), read(1, pkcs10.CutOff, line(lines)+" begins another block")},
		{"BEGIN alone", "-----BEGIN CERTIFICATE-----", at(1, pkcs10.CutOff, "line 1")},
		{"END alone", "-----END CERTIFICATE-----\n", []fault{{rule: pkcs10.MissingBegin, words: "line 1"}}},
		{"the beginning is missing", g.chain[200:], []fault{{rule: pkcs10.MissingBegin, words: "its first lines are missing"}}},
		{"header lines", block("CERTIFICATE", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"+g.body), at(1, pkcs10.HeaderLines, "line 2")},
	}
}

// foreignCases are texts with something else than certificates.
func foreignCases(g given) []textCase {
	whole := func(rule pkcs10.Rule, words string) []fault { return []fault{{rule: rule, words: words}} }
	one := func(label string) string { return block(label, secret) }
	return []textCase{
		{"a private key after it", g.chain + one("PRIVATE KEY"), whole(pkcs10.PrivateKey, "(PRIVATE KEY): take it out, and replace the key")},
		{"a private key before it", one("RSA PRIVATE KEY") + g.chain, whole(pkcs10.PrivateKey, "(RSA PRIVATE KEY)")},
		{"an EC key", one("EC PRIVATE KEY"), whole(pkcs10.PrivateKey, "(EC PRIVATE KEY)")},
		{"an encrypted key", one("ENCRYPTED PRIVATE KEY"), whole(pkcs10.PrivateKey, "(ENCRYPTED PRIVATE KEY)")},
		{"an encrypted key of old", block("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\n"+secret), whole(pkcs10.PrivateKey, "(RSA PRIVATE KEY)")},
		{"a key of OpenSSH", one("OPENSSH PRIVATE KEY"), whole(pkcs10.PrivateKey, "(OPENSSH PRIVATE KEY)")},
		{"a key of PGP", one("PGP PRIVATE KEY BLOCK"), whole(pkcs10.PrivateKey, "(PGP PRIVATE KEY BLOCK)")},
		{"a private key without END", "-----BEGIN PRIVATE KEY-----\n" + secret, whole(pkcs10.PrivateKey, "line 1")},
		{"a private key in the wrong label", block("CERTIFICATE", secret[:48]), []fault{{rule: pkcs10.PrivateKey, place: 1, words: "(PKCS#8)"}}},
		{"two kinds of key", one("PRIVATE KEY") + one("EC PARAMETERS"), []fault{{rule: pkcs10.PrivateKey, words: "line 1"}, {rule: pkcs10.ForeignBlock, words: "parameters of a key (EC PARAMETERS): line 4"}}},
		{"a CSR", one("CERTIFICATE REQUEST"), whole(pkcs10.RequestBlock, "is a CSR: send the certificate")},
		{"a CSR of Windows", one("NEW CERTIFICATE REQUEST"), whole(pkcs10.RequestBlock, "is a CSR: send the certificate")},
		{"a public key", one("PUBLIC KEY"), whole(pkcs10.ForeignBlock, "a public key (PUBLIC KEY)")},
		{"parameters", one("DH PARAMETERS"), whole(pkcs10.ForeignBlock, "parameters of a key (DH PARAMETERS)")},
		{"a revocation list", g.chain + one("X509 CRL"), whole(pkcs10.ForeignBlock, "a revocation list (X509 CRL)")},
		{"trusted", one("TRUSTED CERTIFICATE"), whole(pkcs10.TrustedBlock, "openssl x509 -in FILE")},
		{"an old label", one("X509 CERTIFICATE"), whole(pkcs10.ForeignBlock, "another one (X509 CERTIFICATE)")},
		{"a label in small letters", block("certificate", g.body), whole(pkcs10.ForeignBlock, "another one (certificate)")},
		{"no label", block("", secret), []fault{{rule: pkcs10.BrokenBoundary, place: 1, words: "line 1"}}},
		{"a label that cannot be printed", one("A\x00\u202eB"), whole(pkcs10.ForeignBlock, "another one (A\uFFFD\uFFFDB)")},
		{"a long label", one(strings.Repeat("X", 1000)), whole(pkcs10.ForeignBlock, "("+strings.Repeat("X", 64)+"…)")},
	}
}

// contentCases are texts of CERTIFICATE blocks that hold no certificate.
func contentCases(t testing.TB, g given) []textCase {
	t.Helper()
	at := func(place int, rule pkcs10.Rule, value, words string) []fault {
		return []fault{{rule: rule, place: place, value: value, words: words}}
	}
	in := func(der []byte) string { return inBlock("CERTIFICATE", der) }
	edited := func(edits map[int][]byte) string { return in(rebuild(t, g.middle.Cert, edits)) }
	curve := func(parameters []byte) map[int][]byte {
		return map[int][]byte{itsKey: tlv(0x30, tlv(0x30, oid(t, 1, 2, 840, 10045, 2, 1), parameters), tlv(0x03, []byte{0, 4}, make([]byte, 64)))}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, testKey())
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), NextUpdate: noon()}, withKeyID(t, g), g.root.Key)
	if err != nil {
		t.Fatal(err)
	}
	fractions := tlv(0x30, tlv(0x18, []byte("20261101000000.0Z")), tlv(0x18, []byte("20271101000000.0Z")))
	// unclean is base64 of a certificate, but for the bits that decoding drops.
	padded := g.leaf
	for len(padded.Raw)%3 != 1 {
		padded = g.middle.Issue(t, padded.Subject.CommonName+"+", g.leaf.PublicKey)
	}
	unclean := strings.TrimSuffix(base64.StdEncoding.EncodeToString(padded.Raw), "==")
	unclean = unclean[:len(unclean)-1] + string(unclean[len(unclean)-1]+1) + "=="
	return []textCase{
		{"another character", block("CERTIFICATE", "MI\n"+g.body[:10]+"!"+g.body[10:]), at(1, pkcs10.BrokenBase64, "", "line 3, character 11")},
		{"a character of two bytes", block("CERTIFICATE", "MII\u200b"), at(1, pkcs10.BrokenBase64, "", "line 2, character 4")},
		{"base64 for URLs", block("CERTIFICATE", "MII_"), at(1, pkcs10.BrokenBase64, "", "line 2, character 4")},
		{"a lost character", g.one + block("CERTIFICATE", g.body[1:]), at(2, pkcs10.BrokenBase64, "", "characters are missing")},
		{"a lost line", g.one + block("CERTIFICATE", g.body[65:]), at(2, pkcs10.NotDER, "", "something else than DER")},
		{"a lost last line", g.one + block("CERTIFICATE", g.body[:strings.LastIndex(g.body, "\n")]), at(2, pkcs10.CutOff, "CN=leaf", "bytes, and ")},
		{"padding in the middle", block("CERTIFICATE", "MIIA\nMIA=\nMIIA"), at(1, pkcs10.BrokenBase64, "", "line 4")},
		{"bits too many", block("CERTIFICATE", unclean), at(1, pkcs10.BrokenBase64, padded.Subject.String(), "line 2")},
		{"nothing in it", g.one + block("CERTIFICATE", ""), at(2, pkcs10.EmptyBlock, "", "nothing between BEGIN and END")},
		{"other bytes", in([]byte("hello")), at(1, pkcs10.NotDER, "", "something else than DER")},
		{"PEM in PEM", in([]byte(g.one)), at(1, pkcs10.NotDER, "", "something else than DER")},
		{"a length of nine bytes", in([]byte{0x30, 0x89, 1, 2, 3}), at(1, pkcs10.NotDER, "", "something else than DER")},
		{"a byte too many", in(append(bytes.Clone(g.leaf.Raw), 0)), at(1, pkcs10.TrailingBytes, "CN=leaf", "1 bytes after its end")},
		{"two in one block", in(slices.Concat(g.leaf.Raw, g.middle.Cert.Raw)), at(1, pkcs10.TrailingBytes, "CN=leaf", "a block of its own")},
		{"DER cut off", in(g.leaf.Raw[:200]), at(1, pkcs10.CutOff, "CN=leaf", fmt.Sprintf("its DER is %d bytes, and 200 are there", len(g.leaf.Raw)))},
		{"indefinite length", in(slices.Concat([]byte{0x30, 0x80}, g.leaf.Raw[4:], []byte{0, 0})), at(1, pkcs10.BER, "", "must be DER")},
		{"a CSR in the wrong label", in(csr), at(1, pkcs10.RequestBlock, "", "is a CSR")},
		{"a revocation list in the wrong label", in(crl), at(1, pkcs10.ForeignBlock, "", "a revocation list")},
		{"a public key in the wrong label", in(g.leaf.RawSubjectPublicKeyInfo), at(1, pkcs10.ForeignBlock, "", "a public key")},
		{"PKCS#12", in(tlv(0x30, []byte{2, 1, 3}, tlv(0x30, oid(t, 1, 2, 840, 113549, 1, 7, 1)))), at(1, pkcs10.PrivateKey, "", "(PKCS#12)")},
		{"negative serial number", g.one + edited(map[int][]byte{itsSerial: {2, 1, 0x9d}}), at(2, pkcs10.Malformed, "CN=middle", "x509: negative serial number")},
		{"PrintableString with _", g.one + edited(map[int][]byte{itsSubject: nameOf(t, 0x13, "Corp_Issuing CA")}), at(2, pkcs10.Malformed, "CN=Corp_Issuing CA", "invalid PrintableString")},
		{"T61String in Latin-1", g.one + edited(map[int][]byte{itsSubject: nameOf(t, 0x0c, "M\xfcller")}), at(2, pkcs10.Malformed, "CN=M\uFFFDller", "invalid UTF-8")},
		{"brainpoolP256r1", g.one + edited(curve(oid(t, 1, 3, 36, 3, 3, 2, 8, 1, 1, 7))), at(2, pkcs10.Malformed, "CN=middle", "unsupported elliptic curve")},
		{"explicit curve parameters", g.one + edited(curve(explicitP256(t))), at(2, pkcs10.Malformed, "CN=middle", "x509: invalid ECDSA parameters")},
		{"fractions of a second", edited(map[int][]byte{itsValidity: fractions}), at(1, pkcs10.Malformed, "CN=middle", "x509: malformed GeneralizedTime")},
		{"two of them", edited(map[int][]byte{itsSerial: {2, 1, 0x9d}}) + g.one + edited(map[int][]byte{itsValidity: fractions}), []fault{
			{pkcs10.Malformed, 1, "CN=middle", "negative serial"}, {pkcs10.Malformed, 3, "CN=middle", "GeneralizedTime"},
		}},
		{"a text and a certificate", "x" + g.one + edited(map[int][]byte{itsSerial: {2, 1, 0x9d}}), []fault{
			{pkcs10.BrokenBoundary, 1, "", "line 1"}, {pkcs10.Malformed, 2, "CN=middle", "negative serial"},
		}},
	}
}

// withKeyID is the root as the issuer of a revocation list.
func withKeyID(t testing.TB, g given) *x509.Certificate {
	t.Helper()
	return (&kit.CA{Key: g.root.Key, Now: noon()}).Issue(t, "root", g.root.Key.Public(), asCA, func(c *x509.Certificate) {
		c.KeyUsage |= x509.KeyUsageCRLSign
		c.SubjectKeyId = []byte{1}
	})
}

// explicitP256 is P-256 as SpecifiedECDomain (SEC 1, C.2).
func explicitP256(t testing.TB) []byte {
	t.Helper()
	p := elliptic.P256().Params()
	number := func(n *big.Int) []byte { return tlv(0x02, []byte{0}, n.Bytes()) }
	octets := func(b ...byte) []byte { return tlv(0x04, b) }
	return tlv(0x30, []byte{2, 1, 1}, tlv(0x30, oid(t, 1, 2, 840, 10045, 1, 1), number(p.P)),
		tlv(0x30, octets(p.B.Bytes()...), octets(p.B.Bytes()...)), octets(slices.Concat([]byte{4}, p.Gx.Bytes(), p.Gy.Bytes())...), number(p.N), []byte{2, 1, 1})
}

// readCases are texts that are read as the chain.
func readCases(g given) []textCase {
	issuer := strings.TrimPrefix(g.chain, g.one)
	return []textCase{
		{name: "as openssl writes it", text: g.chain},
		{name: "line ends of Windows", text: strings.ReplaceAll(g.chain, "\n", "\r\n")},
		{name: "line ends of old", text: strings.ReplaceAll(g.chain, "\n", "\r")},
		{name: "blanks at the ends of lines", text: strings.ReplaceAll(g.chain, "\n", " \n\t\n")},
		{name: "indented", text: "  " + strings.ReplaceAll(g.chain, "\n", "\n  ")},
		{name: "no line end at the end", text: strings.TrimSpace(g.chain)},
		{name: "one line of base64", text: block("CERTIFICATE", strings.ReplaceAll(g.body, "\n", "")) + issuer},
		{name: "byte order mark", text: "\ufeff" + g.chain},
		{name: "a byte order mark in each file", text: "\ufeff" + g.one + "\ufeff" + issuer},
		{name: "text outside of blocks", text: "subject=CN = leaf\nissuer=CN = middle\n" + g.one + "\n  some - dashes -- here\nBag Attributes: x\n" + issuer + "\nend"},
		{name: "text that says BEGIN", text: "Copy from -----BEGIN to -----END:\n" + g.chain},
		{name: "the leaf twice", text: g.one + g.chain},
		{name: "the issuer twice", text: g.chain + issuer},
		{name: "all of it twelve times", text: strings.Repeat(g.chain, 12)},
	}
}

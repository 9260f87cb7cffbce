//go:build tools

package handler_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"attestcsr/test/kit"
)

// run runs a tool with the input on stdin and returns what it printed.
func run(input, name string, args ...string) (string, error) {
	command := exec.Command(name, args...)
	command.Stdin = strings.NewReader(input)
	out, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// OpenSSL and GnuTLS judge what becomes of generated specs of both dialects: they
// verify it, and read in every field what was asked for. Some of it then signs
// itself, and they verify that too.
func TestToolsJudgeGeneratedSpecs(t *testing.T) {
	t.Parallel()
	s, dir := newStack(t), t.TempDir()
	var certificates atomic.Int64
	judged, refused := judgeGenerated(t, s, kit.Effort(200, 20_000), func(n uint64, spec generated, a answer) error {
		if err := spec.judgeWithTools(a); err != nil || !spec.nsx || n%4 != 0 {
			return err
		}
		certificates.Add(1)
		return spec.want.signItself(s, fmt.Sprint(n), filepath.Join(dir, fmt.Sprint(n, ".pem")))
	})
	if err := judgeInstalled(s, filepath.Join(dir, "installed.pem")); err != nil {
		t.Error(err)
	}
	kit.Count(t, "specs judged by openssl", judged)
	kit.Count(t, "specs judged by certtool", judged)
	kit.Count(t, "specs refused", refused)
	kit.Count(t, "self-signed certificates judged", int(certificates.Load())+1)
}

func (s generated) judgeWithTools(a answer) error {
	text, r, err := s.judgeAnswer(a)
	if err != nil {
		return err
	}
	// As OpenSSL prints them: types as numbers, one attribute a line, with the
	// string type and the escapes of RFC 2253, which can be undone.
	out, err := run(text, "openssl", "req", "-verify", "-noout", "-text", "-pubkey", "-nameopt", "oid,sep_multiline,show_type,utf8,esc_2253,esc_ctrl")
	if err != nil {
		return err
	}
	if err := s.want.judgeOpenSSL(out, r.parsed.RawSubjectPublicKeyInfo, "req"); err != nil {
		return fmt.Errorf("openssl: %w\n%s", err, out)
	}
	out, err = run(text, "certtool", "--crq-info")
	if err != nil {
		return err
	}
	if err := s.want.judgeCerttool(out, r.parsed.RawSubjectPublicKeyInfo); err != nil {
		return fmt.Errorf("certtool: %w\n%s", err, out)
	}
	return nil
}

// between returns the lines from one that is before to one that begins with after.
func between(out, before string, after ...string) ([]string, error) {
	_, rest, found := strings.Cut(out, before+"\n")
	if !found {
		return nil, fmt.Errorf("no line %q", before)
	}
	var lines []string
	for line := range strings.SplitSeq(rest, "\n") {
		if slices.ContainsFunc(after, func(s string) bool { return strings.HasPrefix(strings.TrimLeft(line, " \t"), s) }) {
			return lines, nil
		}
		lines = append(lines, line)
	}
	return nil, fmt.Errorf("no line %q after %q", after, before)
}

// missing returns an error that names the first part that is not there.
func missing(out string, parts ...string) error {
	for _, part := range parts {
		if !strings.Contains(out, part) {
			return fmt.Errorf("%q is missing", part)
		}
	}
	return nil
}

// judgeOpenSSL compares what "openssl req" or "openssl x509" printed with what was
// asked for.
func (w wantedCSR) judgeOpenSSL(out string, spki []byte, command string) error {
	subject, err := between(out, "        Subject:", "Subject Public Key Info:")
	if err != nil {
		return err
	}
	if err := w.compareSubject(subject, func(a wantedAttribute) string {
		kind := "UTF8STRING"
		if a.key == "C" {
			kind = "PRINTABLESTRING"
		}
		return "            " + attributeOIDs()[a.key] + "=" + kind + ":"
	}); err != nil {
		return err
	}
	key, _ := pem.Decode([]byte(out))
	if key == nil || !bytes.Equal(key.Bytes, spki) {
		return fmt.Errorf("another public key")
	}
	algorithm := "sha256WithRSAEncryption"
	if w.curve {
		algorithm = fmt.Sprintf("ecdsa-with-SHA%d", min(w.bits, 512))
	}
	if err := missing(out, fmt.Sprintf("Public-Key: (%d bit)\n", w.bits), "    Signature Algorithm: "+algorithm+"\n"); err != nil || command != "req" {
		return err
	}
	if err := missing(out, "verify OK", "        Version: 1 (0x0)\n"); err != nil {
		return err
	}
	const margin = "                "
	extensions, err := between(out, "        Attributes:", "Signature Algorithm:")
	if err != nil || len(extensions) == 0 {
		return fmt.Errorf("attributes %q, %w", extensions, err)
	}
	want := []string{"            Requested Extensions:"}
	if len(w.wantedExtensions()) == 0 { // OpenSSL 3.0 prints the heading nevertheless
		want = []string{"            (none)"}
		extensions = extensions[:1]
	}
	if w.ca {
		want = append(want, margin+"X509v3 Basic Constraints: critical", margin+"    CA:TRUE", margin+"X509v3 Key Usage: critical", margin+"    Certificate Sign")
	}
	if len(w.names) > 0 {
		want = append(want, margin+"X509v3 Subject Alternative Name: ", margin+"    "+w.openSSLNames())
	}
	if !slices.Equal(extensions, want) {
		return fmt.Errorf("attributes %q, want %q", extensions, want)
	}
	return nil
}

// compareSubject compares the attributes that a tool printed, each after a prefix.
func (w wantedCSR) compareSubject(printed []string, prefix func(wantedAttribute) string) error {
	if len(printed) != len(w.subject) {
		return fmt.Errorf("%d attributes, want %d", len(printed), len(w.subject))
	}
	for i, a := range w.subject {
		escaped, ok := strings.CutPrefix(printed[i], prefix(a))
		got, err := unescape(escaped)
		if err != nil {
			return err
		}
		if !ok || got != a.value {
			return fmt.Errorf("attribute %d, %s: %q is read of %q, want %q", i, a.key, got, printed[i], a.value)
		}
	}
	return nil
}

// openSSLNames is the subject alternative name as OpenSSL prints it.
func (w wantedCSR) openSSLNames() string {
	var all []string
	for _, n := range w.names {
		switch n.tag {
		case mailTag:
			all = append(all, "email:"+n.bytes)
		case dnsTag:
			all = append(all, "DNS:"+n.bytes)
		case uriTag:
			all = append(all, "URI:"+n.bytes)
		case ipTag:
			text := netip.AddrFrom4([4]byte([]byte(n.bytes + "....")[:4])).String()
			if len(n.bytes) == 16 {
				groups := make([]string, 8)
				for i := range groups {
					groups[i] = fmt.Sprintf("%X", int(n.bytes[2*i])<<8|int(n.bytes[2*i+1]))
				}
				text = strings.Join(groups, ":")
			}
			all = append(all, "IP Address:"+text)
		}
	}
	return strings.Join(all, ", ")
}

// unescape undoes RFC 4514 section 2.4.
func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		var octet byte
		switch i++; {
		case i == len(s):
			return "", fmt.Errorf("a backslash at the end of %q", s)
		case strings.IndexByte("\"+,;<>\\#= ", s[i]) >= 0:
			b.WriteByte(s[i])
		default:
			if _, err := fmt.Sscanf(s[i:min(i+2, len(s))], "%02x", &octet); err != nil {
				return "", fmt.Errorf("escape %q of %q", s[i:], s)
			}
			b.WriteByte(octet)
			i++
		}
	}
	return b.String(), nil
}

// splitRDNs splits a name at the commas that are not escaped.
func splitRDNs(name string) []string {
	var all []string
	begin := 0
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case ',':
			all, begin = append(all, name[begin:i]), i+1
		}
	}
	return append(all, name[begin:])
}

// judgeCerttool compares what "certtool --crq-info" or "--certificate-info"
// printed with what was asked for.
func (w wantedCSR) judgeCerttool(out string, spki []byte) error {
	_, rest, _ := strings.Cut(out, "\tSubject: ")
	name, _, _ := strings.Cut(rest, "\n")
	rdns := splitRDNs(name)
	slices.Reverse(rdns) // it prints the last one first, as RFC 4514 has it
	if err := w.compareSubject(rdns, func(a wantedAttribute) string { return a.key + "=" }); err != nil {
		return err
	}
	key, signature := "\tSubject Public Key Algorithm: RSA\n", "\tSignature Algorithm: RSA-SHA256\n"
	if w.curve {
		key, signature = fmt.Sprintf("\tCurve:\tSECP%dR1\n", w.bits), fmt.Sprintf("\tSignature Algorithm: ECDSA-SHA%d\n", min(w.bits, 512))
	}
	// certtool counts the bits of P-521 in whole bytes.
	bits := map[bool]int{true: 528, false: w.bits}[w.bits == 521]
	err := missing(out, key, signature, fmt.Sprintf("(%d bits)\n", bits), fmt.Sprintf("\tsha256:%x\n", sha256.Sum256(spki)))
	if err != nil {
		return err
	}
	if !strings.Contains(out, "PKCS #10 Certificate Request Information:\n\tVersion: 1\n") {
		return nil // a certificate, which has more extensions
	}
	if err := missing(out, "Self signature: verified\n"); err != nil {
		return err
	}
	var want []string
	if len(w.wantedExtensions()) > 0 {
		want = append(want, "\tAttributes:", "\t\tExtensions:")
	}
	if w.ca {
		want = append(want, "\t\t\tBasic Constraints (critical):", "\t\t\t\tCertificate Authority (CA): TRUE", "\t\t\tKey Usage (critical):", "\t\t\t\tCertificate signing.")
	}
	if len(w.names) > 0 {
		want = append(want, "\t\t\tSubject Alternative Name (not critical):")
	}
	got, err := between(out, strings.TrimSuffix(signature, "\n"), "Other Information:")
	if err != nil {
		return err
	}
	if len(got) != len(want)+len(w.names) || !slices.Equal(got[:len(want)], want) {
		return fmt.Errorf("attributes %q, want %q and %d names", got, want, len(w.names))
	}
	return w.judgeCerttoolNames(got[len(want):])
}

// judgeCerttoolNames compares the lines of names. Beside one that is
// internationalised certtool shows how it reads.
func (w wantedCSR) judgeCerttoolNames(lines []string) error {
	for i, n := range w.names {
		text := map[int]string{mailTag: "RFC822Name: ", dnsTag: "DNSname: ", uriTag: "URI: ", ipTag: "IPAddress: "}[n.tag] + n.bytes
		if addr, ok := netip.AddrFromSlice([]byte(n.bytes)); n.tag == ipTag && ok {
			text = "IPAddress: " + addr.String()
		}
		got := strings.TrimLeft(lines[i], "\t")
		if shown, readable, internationalised := strings.Cut(got, " ("); internationalised && strings.HasSuffix(readable, ")") && strings.Contains(strings.ToLower(shown), "xn--") {
			got = shown
		}
		if got != text {
			return fmt.Errorf("name %d: %q, want %q", i, got, text)
		}
	}
	return nil
}

// signItself makes the request of an accepted spec a certificate, and lets the
// tools judge that.
func (w wantedCSR) signItself(s *stack, id, file string) error {
	a := s.serve(call{method: http.MethodPost, path: nsxPath(id, "action=self_sign", "days_valid=30")})
	text, err := generated{nsx: true}.pem(a)
	if err != nil || a.status != http.StatusCreated {
		return fmt.Errorf("self_sign: %w, %d %s", err, a.status, a.body)
	}
	return w.judgeCertificate(text, file)
}

// judgeCertificate lets the tools judge a self-signed certificate.
func (w wantedCSR) judgeCertificate(text, file string) error {
	c, err := w.judgeSelfSigned(text)
	if err != nil {
		return err
	}
	if err := verifySelfSigned(text, file); err != nil {
		return err
	}
	out, err := run(text, "openssl", "x509", "-noout", "-text", "-pubkey", "-nameopt", "oid,sep_multiline,show_type,utf8,esc_2253,esc_ctrl")
	if err != nil {
		return err
	}
	if err := w.judgeOpenSSL(out, c.RawSubjectPublicKeyInfo, "x509"); err != nil {
		return fmt.Errorf("openssl: %w\n%s", err, out)
	}
	if len(w.names) > 0 {
		if err := missing(out, "X509v3 Subject Alternative Name: \n                "+w.openSSLNames()+"\n"); err != nil {
			return err
		}
	}
	// GnuTLS trusts the certificates of CAs alone.
	if w.ca {
		out, err = run("", "certtool", "--verify", "--load-ca-certificate", file, "--infile", file)
		if err != nil || !strings.Contains(out, "Output: Verified. The certificate is trusted.") {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	out, err = run(text, "certtool", "--certificate-info")
	if err != nil {
		return err
	}
	if err := w.judgeCerttool(out, c.RawSubjectPublicKeyInfo); err != nil {
		return fmt.Errorf("certtool: %w\n%s", err, out)
	}
	return nil
}

// verifySelfSigned lets OpenSSL verify a certificate that is its own issuer.
func verifySelfSigned(text, file string) error {
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	out, err := run("", "openssl", "verify", "-x509_strict", "-CAfile", file, file)
	if err != nil {
		return err
	}
	return missing(out, ".pem: OK\n")
}

// judgeInstalled lets the tools judge the self-signed certificate that the ESX
// dialect begins with.
func judgeInstalled(s *stack, file string) error {
	text := s.installed()
	if err := verifySelfSigned(text, file); err != nil {
		return err
	}
	out, err := run(text, "certtool", "--certificate-info")
	if err != nil {
		return err
	}
	return missing(out, "\tSubject: CN="+s.hostname+"\n", "\tIssuer: CN="+s.hostname+"\n", "Certificate Authority (CA): FALSE")
}

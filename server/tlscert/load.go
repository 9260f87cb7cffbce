package tlscert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// maxFile bounds a file with certificates or a key, in bytes.
const maxFile = 256 << 10

// Load reads a chain of certificates and the key of the first. The remarks say what is
// odd about files that can be used. An error names both files.
func Load(certFile, keyFile string, now time.Time) (cert *tls.Certificate, remarks []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s cannot be used with the key in %s: %w", certFile, keyFile, err)
		}
	}()
	certs, remark, err := readPEM(certFile)
	if err != nil {
		return nil, nil, err
	}
	remarks = append(remarks, remark...)
	key, remark, err := readPEM(keyFile)
	if err != nil {
		return nil, nil, err
	}
	remarks = append(remarks, remark...)
	pair, err := tls.X509KeyPair(certs, key)
	if err != nil {
		return nil, nil, errors.Join(err, ownerOf(certs, key))
	}
	remarks = append(remarks, remarksOnChain(pair.Certificate)...)
	return &pair, append(remarks, remarksOnDates(pair.Leaf, now)...), nil
}

// readPEM returns the text of a file without byte order marks. Editors on Windows write
// them, and "copy a+b" leaves them in the middle, where they would hide a certificate.
func readPEM(name string) (text []byte, remarks []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	text, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(text) > maxFile:
		return nil, nil, fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")), bytes.Contains(text, []byte("-\x00-\x00-")):
		return nil, nil, fmt.Errorf("%s is UTF-16 text: save it as ASCII or UTF-8", name)
	}
	if mark := []byte("\ufeff"); bytes.Contains(text, mark) {
		text = bytes.ReplaceAll(text, mark, nil)
		remarks = []string{name + " has a byte order mark, which is ignored: save it without"}
	}
	return text, remarks, nil
}

// ownerOf says which certificate the key is for, where that is not the first one.
func ownerOf(certs, key []byte) error {
	for place := 1; ; place++ {
		block, rest := pem.Decode(certs)
		if block == nil {
			return nil
		}
		if _, err := tls.X509KeyPair(pem.EncodeToMemory(block), key); err == nil && place > 1 {
			return fmt.Errorf("the key is that of certificate %d of the file: put that certificate first, and after each certificate its issuer", place)
		}
		certs = rest
	}
}

// remarksOnChain says what clients may miss in a chain, by the names in it.
func remarksOnChain(chain [][]byte) (remarks []string) {
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		var err error
		if certs[i], err = x509.ParseCertificate(der); err != nil {
			return []string{fmt.Sprintf("certificate %d of the file cannot be read, so that clients may refuse all: %v", i+1, err)}
		}
	}
	for i, c := range certs {
		last := i == len(certs)-1
		if isSelfIssued(c) || last && i > 0 || !last && issued(certs[i+1], c) {
			continue
		}
		remark := fmt.Sprintf("the file lacks the issuer of certificate %d, %s: clients may not find the issuer; append its certificate", i+1, quote(c.Issuer.String()))
		for j, other := range certs {
			if issued(other, c) {
				remark = fmt.Sprintf("the file is in the wrong order, so that clients may refuse it: certificate %d, %s, is the issuer of certificate %d and has to follow it", j+1, quote(other.Subject.String()), i+1)
			}
		}
		remarks = append(remarks, remark)
	}
	return remarks
}

func issued(issuer, c *x509.Certificate) bool { return bytes.Equal(issuer.RawSubject, c.RawIssuer) }

func isSelfIssued(c *x509.Certificate) bool { return issued(c, c) }

// quote cuts a name out of a certificate for a line of the log.
func quote(name string) string { return fmt.Sprintf("%.200q", strings.ToValidUTF8(name, "?")) }

func remarksOnDates(leaf *x509.Certificate, now time.Time) []string {
	const day = 24 * time.Hour
	end := leaf.NotAfter.UTC().Format(time.RFC3339)
	left := leaf.NotAfter.Sub(now)
	remark := ""
	switch {
	case now.Before(leaf.NotBefore):
		remark = "the certificate is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339)
	case left < 0:
		remark = "the certificate expired at " + end
	case left < 7*day:
		remark = "the certificate ends in less than 7 days, at " + end
	case left < 30*day:
		remark = "the certificate ends in less than 30 days, at " + end
	default:
		return nil
	}
	return []string{remark}
}

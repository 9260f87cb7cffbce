// Command step signs a CSR as step-ca does, with the library of smallstep. It is a module
// of its own: what it needs is no part of the product.
package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"go.step.sm/crypto/pemutil"
	"go.step.sm/crypto/x509util"
)

func main() {
	if err := sign(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// sign reads a certificate of a CA, its key and a CSR, and prints the certificate.
func sign(caFile, keyFile, requestFile string) error {
	ca, err := pemutil.ReadCertificate(caFile)
	if err != nil {
		return err
	}
	key, err := pemutil.Read(keyFile)
	if err != nil {
		return err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return errors.New("the key cannot sign")
	}
	request, err := pemutil.ReadCertificateRequest(requestFile)
	if err != nil {
		return err
	}
	// The subject and the names of the request, as with "step certificate sign".
	data := x509util.NewTemplateData()
	data.SetCertificateRequest(request)
	certificate, err := x509util.NewCertificate(request, x509util.WithTemplate(x509util.CertificateRequestTemplate, data))
	if err != nil {
		return err
	}
	template := certificate.GetCertificate()
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	signed, err := x509util.CreateCertificate(template, ca, request.PublicKey, signer)
	if err != nil {
		return err
	}
	return pem.Encode(os.Stdout, &pem.Block{Type: "CERTIFICATE", Bytes: signed.Raw})
}

// Command client makes a CSR in the dialect of ESX and one in that of NSX, with a client that
// oapi-codegen has generated from the OpenAPI document. It is a module of its own: what it
// needs is no part of the product.
//
// Its arguments are the URL of the service and the file of its certificate. Its input is a
// user and a password, each on a line. It prints both CSRs.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"

	"attestcsr/test/openapi/client/api" // is generated
)

//go:generate go tool oapi-codegen -config config.yaml openapi.yaml

func main() {
	if err := makeBoth(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func makeBoth(ctx context.Context, server, certificateFile string) error {
	var user, password string
	if _, err := fmt.Scan(&user, &password); err != nil {
		return err
	}
	certificate, err := os.ReadFile(certificateFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	withTLS := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	client, err := api.NewClientWithResponses(server, api.WithHTTPClient(withTLS), api.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.SetBasicAuth(user, password)
		return nil
	}))
	if err != nil {
		return err
	}
	for _, make := range []func(context.Context, *api.ClientWithResponses) (string, error){makeESX, makeNSX} {
		text, err := make(ctx, client)
		if err != nil {
			return err
		}
		fmt.Print(text)
	}
	return nil
}

func makeESX(ctx context.Context, client *api.ClientWithResponses) (string, error) {
	size, name := int64(2048), "esx-01.example.com"
	answer, err := client.CreateCsrWithResponse(ctx, api.EsxCsrSpec{
		KeySize: &size, CommonName: &name, Organization: "Example Ltd", OrganizationUnit: "Hosts", Locality: "Palo Alto",
		StateOrProvince: "California", Country: "US", EmailAddress: "pki@example.com",
	})
	if err != nil {
		return "", err
	}
	if answer.JSON201 == nil {
		return "", fmt.Errorf("ESX: %s: %s", answer.Status(), answer.Body)
	}
	return answer.JSON201.Csr, nil
}

// makeNSX makes a CSR under an id with a slash. The error of a second attempt is read as a
// document.
func makeNSX(ctx context.Context, client *api.ClientWithResponses) (string, error) {
	var size api.TlsCsrMembers_KeySize
	algorithm := api.TlsCsrMembersAlgorithmEC
	body := api.PostNsxCsrJSONRequestBody{}
	err := errors.Join(size.FromTlsCsrMembersKeySize1("384"), body.FromTlsCsrSpec(api.TlsCsrSpec{
		Algorithm: &algorithm, KeySize: &size, Subject: api.TlsSubject{Attributes: []api.TlsAttribute{{Key: api.CN, Value: "web-01.example.com"}}},
	}))
	if err != nil {
		return "", err
	}
	const id = "site-1/web-01"
	create := &api.PostNsxCsrParams{Action: api.PostNsxCsrParamsActionCreate}
	answer, err := client.PostNsxCsrWithResponse(ctx, id, create, body)
	if err != nil {
		return "", err
	}
	if answer.JSON201 == nil {
		return "", fmt.Errorf("NSX: %s: %s", answer.Status(), answer.Body)
	}
	made, err := answer.JSON201.AsTlsCsr()
	if err != nil {
		return "", err
	}
	again, err := client.PostNsxCsrWithResponse(ctx, id, create, body)
	if err != nil {
		return "", err
	}
	if made.Id != id || again.JSON400 == nil || again.JSON400.ErrorCode != 500127 {
		return "", fmt.Errorf("id %s, and then %s: %s", made.Id, again.Status(), again.Body)
	}
	return made.PemEncoded, nil
}

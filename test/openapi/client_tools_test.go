//go:build tools

// Package openapi_test has others use the OpenAPI document of the running service.
package openapi_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestGeneratedClient: oapi-codegen makes a client from the document that the service hands
// out. It compiles, and makes a CSR in both dialects.
func TestGeneratedClient(t *testing.T) {
	t.Parallel()
	s, dir := start.Serve(t, start.Options{}), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("client")); err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, dir, "openapi.yaml", s.Must(http.StatusOK, http.MethodGet, "/openapi.yaml", "", start.Anonymous))
	if err := os.Mkdir(filepath.Join(dir, "api"), 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(input, command string, args ...string) string {
		t.Helper()
		var words strings.Builder
		c := exec.CommandContext(t.Context(), command, args...)
		c.Dir, c.Stderr, c.Stdin = dir, &words, strings.NewReader(input)
		out, err := c.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", command, err, out, words.String())
		}
		return string(out)
	}
	run("", "go", "generate", "-mod=readonly", "./...")
	run("", "go", "build", "-mod=readonly", "-o", "client", ".")
	rest := []byte(run(start.User+"\n"+s.Password+"\n", filepath.Join(dir, "client"), s.URL, filepath.Join(s.DataDir, "tls-cert.pem")))
	made := 0
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || request.CheckSignature() != nil {
			t.Fatalf("%v: %s", err, pem.EncodeToMemory(block))
		}
		switch key := request.PublicKey.(type) {
		case *rsa.PublicKey:
			if request.Subject.CommonName != "esx-01.example.com" || key.N.BitLen() != 2048 {
				t.Errorf("ESX: %s", request.Subject)
			}
		case *ecdsa.PublicKey:
			if request.Subject.CommonName != "web-01.example.com" || key.Params().BitSize != 384 {
				t.Errorf("NSX: %s", request.Subject)
			}
		}
		made++
	}
	if made != 2 {
		t.Errorf("%d CSRs", made)
	}
	kit.Count(t, "CSRs of a generated client", made)
}

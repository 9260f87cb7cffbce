//go:build tools

package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestSignaturesOpenSSL: OpenSSL verifies what "key sign" signs, in every hash and scheme,
// and nothing else.
func TestSignaturesOpenSSL(t *testing.T) {
	t.Parallel()
	s, dir := ofBinary(t), t.TempDir()
	file := kit.Overwrite(t, dir, "message", "what is signed")
	other := kit.Overwrite(t, dir, "other", "what is not signed")
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), start.Binary(t), args...)
		cmd.Env = append(os.Environ(), "ATTESTCSR_DATA_DIR="+s.dataDir, "HOME="+dir)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("nsx", "csr", "create", "ec", "--cn", "ec.example.com", "--algorithm", "EC", "--bits", "384")
	id := run("nsx", "csr", "self-sign", "ec")
	verified := 0
	for _, hash := range []string{"sha256", "sha384", "sha512"} {
		for scheme, options := range map[string][]string{
			"pss":      {"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"},
			"pkcs1v15": nil,
			"ecdsa":    nil,
		} {
			name := hash + "-" + scheme
			sign := []string{"key", "sign", file, "--hash", hash, "--out", name + ".sig"}
			certificate := run("certificate", "get")
			if scheme == "ecdsa" {
				sign = append(sign, "--key", "nsx-"+id)
				certificate = run("nsx", "certificate", "get", id)
			} else {
				sign = append(sign, "--scheme", scheme)
			}
			run(sign...)
			key := openssl(t, "x509", "-in", kit.Overwrite(t, dir, name+".pem", certificate), "-noout", "-pubkey")
			args := append([]string{"dgst", "-" + hash, "-verify", kit.Overwrite(t, dir, name+".pub", key)}, options...)
			args = append(args, "-signature", filepath.Join(dir, name+".sig"))
			if said := openssl(t, append(slices.Clip(args), file)...); said != "Verified OK\n" {
				t.Errorf("%s: %s", name, said)
			}
			if err := exec.CommandContext(t.Context(), "openssl", append(slices.Clip(args), other)...).Run(); err == nil {
				t.Errorf("%s: OpenSSL verifies another file", name)
			}
			verified++
		}
	}
	kit.Count(t, "signatures that OpenSSL verified", verified)
}

// openssl runs OpenSSL and returns what it prints.
func openssl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return string(out)
}

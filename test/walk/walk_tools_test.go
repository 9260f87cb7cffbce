//go:build tools

// Package walk_test goes the way of an operator, from the first CSR to the day after a
// loss, with nothing but commands.
package walk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// operator is somebody on the service's own host, in a folder of their own.
type operator struct {
	t       *testing.T
	folder  string
	dataDir string
}

// attestcsr runs a command that must end with 0, and returns what it prints.
func (o *operator) attestcsr(args ...string) string {
	o.t.Helper()
	return o.run(start.Binary(o.t), args...)
}

func (o *operator) run(program string, args ...string) string {
	o.t.Helper()
	out, err := o.command(program, args...).Output()
	if err != nil {
		said := ""
		if exit, is := errors.AsType[*exec.ExitError](err); is {
			said = string(exit.Stderr)
		}
		o.t.Fatalf("%s %s: %v\n%s%s", filepath.Base(program), strings.Join(args, " "), err, out, said)
	}
	return string(out)
}

func (o *operator) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(o.t.Context(), program, args...)
	cmd.Dir = o.folder
	cmd.Env = append(os.Environ(), "ATTESTCSR_DATA_DIR="+o.dataDir, "HOME="+o.folder)
	return cmd
}

// file returns the content of a file in the folder.
func (o *operator) file(name string) string { return string(kit.Read(o.t, o.folder, name)) }

func (o *operator) says(text string, wants ...string) {
	o.t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			o.t.Errorf("nothing says %q:\n%s", want, text)
		}
	}
}

// TestWalk: make a CSR, show it, have a CA sign it, set the certificate, sign a file and
// verify it, back up, lose the data, restore, and find the same certificate and the same
// key.
func TestWalk(t *testing.T) {
	t.Parallel()
	service := start.Serve(t, start.Options{Binary: start.Binary(t)})
	o := &operator{t: t, folder: t.TempDir(), dataDir: service.DataDir}
	kit.Overwrite(t, o.folder, "report", "what is signed")
	kit.Overwrite(t, o.folder, "passphrase", "a long passphrase of many words\n")

	o.attestcsr("csr", "create", "--cn", "esx-01.example.com", "--organization", "Example Ltd", "--country", "US", "--san", "esx-01.example.com", "--out", "host.csr")
	o.says(o.attestcsr("csr", "show"), "Example Ltd", "esx-01.example.com", "RSA 2048")

	// The CA is OpenSSL.
	o.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=Example CA")
	kit.Overwrite(t, o.folder, "leaf.ext", "keyUsage=critical,digitalSignature\nsubjectAltName=DNS:esx-01.example.com\n")
	o.run("openssl", "x509", "-req", "-in", "host.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "365", "-sha256", "-extfile", "leaf.ext", "-out", "host.pem")
	o.attestcsr("certificate", "set", "ca.pem", "host.pem", "--yes")
	o.says(o.attestcsr("certificate", "show"), "Example CA", "days left")
	before := o.attestcsr("certificate", "get")
	if want := o.file("host.pem"); !strings.HasPrefix(before, want) {
		t.Errorf("the installed certificate is not the one that the CA made:\n%s\n%s", before, want)
	}

	kit.Overwrite(t, o.folder, "report.json", o.attestcsr("key", "sign", "report", "--output", "json"))
	o.attestcsr("key", "sign", "report", "--out", "report.sig")
	o.says(o.attestcsr("key", "verify", "report", "--signature", "report.json"), "valid")
	kit.Overwrite(t, o.folder, "host.pub", o.run("openssl", "x509", "-in", "host.pem", "-noout", "-pubkey"))
	o.says(o.run("openssl", "dgst", "-sha256", "-verify", "host.pub", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest",
		"-signature", "report.sig", "report"), "Verified OK")
	keys := o.attestcsr("key", "jwks", "--output", "json")

	o.attestcsr("backup", "create", "--to", "backup.age", "--passphrase-file", "passphrase")
	o.attestcsr("backup", "verify", "backup.age", "--passphrase-file", "passphrase")

	// The day of the loss.
	service.Kill()
	if err := os.RemoveAll(service.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := o.command(start.Binary(t), "certificate", "get").Run(); err == nil {
		t.Error("there is a certificate without data")
	}

	o.dataDir = filepath.Join(t.TempDir(), "restored")
	o.attestcsr("backup", "restore", "backup.age", "--passphrase-file", "passphrase")
	o.attestcsr("audit", "verify")
	start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: o.dataDir})
	if after := o.attestcsr("certificate", "get"); after != before {
		t.Errorf("another certificate after the restore:\n%s\n%s", after, before)
	}
	if after := o.attestcsr("key", "jwks", "--output", "json"); after != keys {
		t.Errorf("other keys are published after the restore:\n%s\n%s", after, keys)
	}
	o.says(o.attestcsr("key", "verify", "report", "--signature", "report.json"), "valid")
	kit.Overwrite(t, o.folder, "again.json", o.attestcsr("key", "sign", "report", "--output", "json"))
	o.says(o.attestcsr("key", "verify", "report", "--signature", "again.json", "--certificate", "host.pem"), "valid", "Example Ltd")
	o.attestcsr("audit", "verify")
}

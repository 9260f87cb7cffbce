//go:build tools

package backup_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestAgeOpens: with age and tar alone, a backup becomes a data_dir that a service starts
// on, with the same certificate and the same CSR. age also makes the identity.
func TestAgeOpens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	identity := filepath.Join(dir, "identity")
	if out, err := exec.Command("age-keygen", "-o", identity).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	recipient, err := exec.Command("age-keygen", "-y", identity).Output()
	if err != nil {
		t.Fatal(err)
	}
	o := start.Options{Config: start.Config(t, "")}
	s := used(t, o)
	csr, certificate := s.Must(200, "GET", start.CSRPath, ""), s.Must(200, "GET", start.CertificatePath, "")
	file := filepath.Join(dir, "backup.age")
	must(t, "backup", "create", "--data-dir", s.DataDir, "--to", file, "--recipient", strings.TrimSpace(string(recipient)))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-ec", `umask 077; age --decrypt -i "$1" "$2" | tar x -C "$3"`, "sh", identity, file, data).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if !strings.Contains(string(kit.Read(t, data, "manifest.json")), server.StoreFile) {
		t.Error("the manifest does not name the store")
	}
	o.DataDir = data
	again := start.Serve(t, o)
	if csr != again.Must(200, "GET", start.CSRPath, "") || certificate != again.Must(200, "GET", start.CertificatePath, "") {
		t.Error("another CSR or certificate")
	}
	must(t, "audit", "verify", "--data-dir", data)
	must(t, "store", "check", "--data-dir", data)
}

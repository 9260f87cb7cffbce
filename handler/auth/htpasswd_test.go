//go:build tools

package auth_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/handler/auth"
)

// htpasswd runs Apache's tool; the test fails where it is missing.
func htpasswd(t *testing.T, args ...string) {
	t.Helper()
	if output, err := exec.Command("htpasswd", args...).CombinedOutput(); err != nil {
		t.Fatalf("htpasswd: %v: %s", err, output)
	}
}

// readUsers reads a file that htpasswd wrote.
func readUsers(t *testing.T, path string) *auth.Users {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(file))
}

func TestHtpasswdFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users")
	htpasswd(t, "-cbB", path, "amy", "secret")
	htpasswd(t, "-bB", "-C", "7", path, "Jörg Müller", "пароль mit ümlaut")
	htpasswd(t, "-bB", "-C", "4", path, "bob", "hidden")
	users := readUsers(t, path)
	if names := fmt.Sprint(users.Names()); names != "[Jörg Müller amy bob]" || users.LowestCost() != 4 {
		t.Fatalf("users %s, lowest cost %d", names, users.LowestCost())
	}
	a := newAuth(auth.Config{Users: users})
	for user, password := range map[string]string{"amy": "secret", "Jörg Müller": "пароль mit ümlaut", "bob": "hidden"} {
		if err := try(a, user, password, here); err != nil {
			t.Errorf("%s: %v", user, err)
		}
		wantKind(t, try(a, user, password+"x", here), csr.Unauthenticated)
	}

	htpasswd(t, "-D", path, "bob")
	htpasswd(t, "-bB", path, "amy", "changed")
	a.SetUsers(readUsers(t, path))
	wantKind(t, try(a, "bob", "hidden", here), csr.Unauthenticated)
	wantKind(t, try(a, "amy", "secret", here), csr.Unauthenticated)
	if err := try(a, "amy", "changed", here); err != nil {
		t.Fatal(err)
	}
}

// htpasswd hashes the first 72 bytes of a longer password and takes up to 255;
// both of us then accept what it was given.
func TestHtpasswdLongPassword(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users")
	a := newAuth(auth.Config{})
	for _, length := range []int{71, 72, 73, 255} {
		password := strings.Repeat("0123456789abcdef", 16)[:length]
		htpasswd(t, "-cbB", "-C", "4", path, "amy", password)
		htpasswd(t, "-vb", path, "amy", password)
		a.SetUsers(readUsers(t, path))
		if err := try(a, "amy", password, here); err != nil {
			t.Errorf("%d bytes: %v", length, err)
		}
		wantKind(t, try(a, "amy", password[:70], here), csr.Unauthenticated)
	}
}

// htpasswd's other hashes are refused, and it accepts what Hash makes.
func TestHtpasswdHashes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "users")
	for _, kind := range []string{"-m", "-2", "-5", "-d", "-s", "-p"} {
		htpasswd(t, "-cb", kind, path, "amy", "secret")
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := auth.ParseUsers(file); err == nil {
			t.Errorf("htpasswd %s: accepted", kind)
		}
	}
	hash, err := auth.Hash("long secret")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("amy:"+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	htpasswd(t, "-vb", path, "amy", "long secret")
}

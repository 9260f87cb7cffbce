package config_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/test/kit"
)

var checkFilesCases = map[string]struct {
	args     string // DIR is the directory that prepareFiles filled
	at       time.Duration
	warnings []string
	problems []string
}{
	"defaults":                        {},
	"everything in order":             {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/tls.key --auth-users-file DIR/0640 --sealing-keyset-file DIR/0640"},
	"symbolic links are followed":     {args: "--tls-cert-file DIR/tls.crt.link --tls-key-file DIR/tls.key.link"},
	"directories that will be made":   {args: "--data-dir DIR/a/b/../c/ --sealing-keyset-file DIR/a/c/keyset"},
	"ignored password file":           {args: "--auth-users-file DIR/0640 --admin-password-file DIR/none"},
	"data_dir where we may not write": {args: "--data-dir DIR/closed/data", problems: unlessRoot("flag --data-dir: data_dir: cannot make files in DIR/closed: permission denied")},
	"files missing": {args: "--tls-cert-file DIR/c --tls-key-file DIR/k --auth-users-file DIR/u --sealing-keyset-file DIR/none/keyset", problems: []string{
		"flag --tls-cert-file: tls.cert_file: stat DIR/c: no such file or directory",
		"flag --tls-key-file: tls.key_file: stat DIR/k: no such file or directory",
		"flag --auth-users-file: auth.users_file: stat DIR/u: no such file or directory",
		"flag --sealing-keyset-file: sealing.keyset_file: stat DIR/none: no such file or directory",
	}},
	"not regular": {args: "--tls-cert-file DIR --tls-key-file DIR/loop --admin-password-file DIR/fifo", problems: []string{
		"flag --tls-cert-file: tls.cert_file: DIR is not a regular file",
		"flag --tls-key-file: tls.key_file: stat DIR/loop: too many levels of symbolic links",
		"flag --admin-password-file: admin_password_file: DIR/fifo is not a regular file",
	}},
	"others can read": {
		args:     "--tls-cert-file DIR/tls.crt --tls-key-file DIR/0604 --auth-users-file DIR/0604 --sealing-keyset-file DIR/0604",
		warnings: []string{"flag --auth-users-file: auth.users_file: every user can read DIR/0604, which has mode 0604; run chmod o-rwx on it"},
		problems: []string{
			"flag --tls-key-file: tls.key_file: every user can read or change DIR/0604, which has mode 0604; run chmod o-rwx on it",
			"flag --sealing-keyset-file: sealing.keyset_file: every user can read or change DIR/0604, which has mode 0604; run chmod o-rwx on it",
		},
	},
	"others can read the admin's password": {args: "--admin-password-file DIR/0604", warnings: []string{
		"flag --admin-password-file: admin_password_file: every user can read DIR/0604, which has mode 0604; run chmod o-rwx on it"}},
	"others can change users": {args: "--auth-users-file DIR/0602", problems: []string{
		"flag --auth-users-file: auth.users_file: every user can read or change DIR/0602, which has mode 0602; run chmod o-rwx on it"}},
	"certificate of another key": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/other/tls.key", problems: []string{
		"flag --tls-cert-file: tls.cert_file: DIR/tls.crt cannot be used with the key in DIR/other/tls.key: tls: private key does not match public key"}},
	"expired": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/tls.key", at: 400 * 24 * time.Hour, warnings: []string{
		"flag --tls-cert-file: tls.cert_file: the certificate expired at 2027-11-23T12:00:00Z"}},
	"not yet valid": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/tls.key", at: -400 * 24 * time.Hour, warnings: []string{
		"flag --tls-cert-file: tls.cert_file: the certificate is not valid before 2025-11-23T12:00:00Z"}},
	"data_dir is a file":    {args: "--data-dir DIR/0640", problems: []string{"flag --data-dir: data_dir: DIR/0640 is not a directory"}},
	"data_dir below a file": {args: "--data-dir DIR/0640/data", problems: []string{"flag --data-dir: data_dir: stat DIR/0640/data: not a directory"}},
}

// unlessRoot returns problems that root, whom permissions do not stop, never has.
func unlessRoot(problems ...string) []string {
	if os.Geteuid() == 0 {
		return nil
	}
	return problems
}

func TestCheckFiles(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	prepareFiles(t, dir, now)
	for name, tc := range checkFilesCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := strings.Fields(strings.ReplaceAll("--data-dir DIR "+tc.args, "DIR", dir))
			c := mustLoad(t, sources{args: args})
			warnings, err := c.CheckFiles(now.Add(tc.at))
			var problems []string
			if err != nil {
				problems = strings.Split(strings.ReplaceAll(err.Error(), dir, "DIR"), "\n")
			}
			for i := range warnings {
				warnings[i] = strings.ReplaceAll(warnings[i], dir, "DIR")
			}
			if !slices.Equal(warnings, tc.warnings) || !slices.Equal(problems, tc.problems) {
				t.Errorf("warnings %q, problems\n%s", warnings, strings.Join(problems, "\n"))
			}
		})
	}
}

// prepareFiles fills dir: a certificate with its key, in other a second pair, links
// to the first, files that are named after their mode, and what is no regular file.
func prepareFiles(t *testing.T, dir string, now time.Time) {
	t.Helper()
	for _, mode := range []os.FileMode{0o640, 0o604, 0o602} {
		write(t, filepath.Join(dir, fmt.Sprintf("%04o", mode)), mode, nil)
	}
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, "other"), 0o700), os.Mkdir(filepath.Join(dir, "closed"), 0o500),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink("tls.crt", filepath.Join(dir, "tls.crt.link")), os.Symlink("tls.key", filepath.Join(dir, "tls.key.link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	certificate(t, dir, now)
	certificate(t, filepath.Join(dir, "other"), now)
}

// certificate writes a key and a certificate for it that is valid in the two years
// around now.
func certificate(t *testing.T, dir string, now time.Time) {
	t.Helper()
	ca := kit.NewCA(t, "", now)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(ca.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tls.crt"), 0o644, []byte(kit.PEM(ca.Cert)))
	write(t, filepath.Join(dir, "tls.key"), 0o640, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func write(t *testing.T, name string, mode os.FileMode, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// certificate writes a key and a certificate for it that is valid in the hour
// around now.
func certificate(t *testing.T, dir string, now time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, cert, 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, key, 0o640, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return cert, key
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
	day := 24 * time.Hour

	// prepare makes files in DIR and returns the arguments that name them.
	for name, tc := range map[string]struct {
		prepare  func(t *testing.T, dir string) []string
		at       time.Time // zero: now
		warnings []string
		problems []string
	}{
		"defaults": {prepare: func(*testing.T, string) []string { return nil }},
		"everything in order": {prepare: func(t *testing.T, dir string) []string {
			cert, key := certificate(t, dir, now)
			for _, name := range []string{"users", "keyset"} {
				write(t, filepath.Join(dir, name), 0o640, nil)
			}
			return []string{"--tls-cert-file", cert, "--tls-key-file", key, "--auth-users-file", dir + "/users", "--sealing-keyset-file", dir + "/keyset", "--data-dir", dir}
		}},
		"symbolic links are followed": {prepare: func(t *testing.T, dir string) []string {
			cert, key := certificate(t, dir, now)
			for _, name := range []string{cert, key} {
				if err := os.Symlink(name, name+".link"); err != nil {
					t.Fatal(err)
				}
			}
			return []string{"--tls-cert-file", cert + ".link", "--tls-key-file", key + ".link"}
		}},
		"files missing": {
			prepare: func(_ *testing.T, dir string) []string {
				return []string{"--tls-cert-file", dir + "/c", "--tls-key-file", dir + "/k", "--auth-users-file", dir + "/u", "--sealing-keyset-file", dir + "/new"}
			},
			problems: []string{
				"flag --tls-cert-file: tls.cert_file: stat DIR/c: no such file or directory",
				"flag --tls-key-file: tls.key_file: stat DIR/k: no such file or directory",
				"flag --auth-users-file: auth.users_file: stat DIR/u: no such file or directory",
			},
		},
		"not regular": {
			prepare: func(t *testing.T, dir string) []string {
				if err := syscall.Mkfifo(dir+"/fifo", 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("loop", dir+"/loop"); err != nil {
					t.Fatal(err)
				}
				return []string{"--tls-cert-file", dir, "--tls-key-file", dir + "/loop", "--admin-password-file", dir + "/fifo"}
			},
			problems: []string{
				"flag --tls-cert-file: tls.cert_file: DIR is not a regular file",
				"flag --tls-key-file: tls.key_file: stat DIR/loop: too many levels of symbolic links",
				"flag --admin-password-file: admin_password_file: DIR/fifo is not a regular file",
			},
		},
		"others can read": {
			prepare: func(t *testing.T, dir string) []string {
				cert, key := certificate(t, dir, now)
				for _, name := range []string{key, dir + "/users", dir + "/keyset"} {
					if name != key {
						write(t, name, 0o600, nil)
					}
					if err := os.Chmod(name, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				return []string{"--tls-cert-file", cert, "--tls-key-file", key, "--auth-users-file", dir + "/users", "--sealing-keyset-file", dir + "/keyset"}
			},
			warnings: []string{"flag --auth-users-file: auth.users_file: DIR/users has mode 0644: everybody can read it; chmod o-rwx it"},
			problems: []string{
				"flag --tls-key-file: tls.key_file: DIR/tls.key has mode 0644: everybody can read or change it; chmod o-rwx it",
				"flag --sealing-keyset-file: sealing.keyset_file: DIR/keyset has mode 0644: everybody can read or change it; chmod o-rwx it",
			},
		},
		"others can read the admin's password": {
			prepare: func(t *testing.T, dir string) []string {
				write(t, dir+"/password", 0o604, nil)
				return []string{"--admin-password-file", dir + "/password"}
			},
			warnings: []string{"flag --admin-password-file: admin_password_file: DIR/password has mode 0604: everybody can read it; chmod o-rwx it"},
		},
		"others can change users": {
			prepare: func(t *testing.T, dir string) []string {
				write(t, dir+"/users", 0o602, nil)
				return []string{"--auth-users-file", dir + "/users"}
			},
			problems: []string{"flag --auth-users-file: auth.users_file: DIR/users has mode 0602: everybody can read or change it; chmod o-rwx it"},
		},
		"certificate of another key": {
			prepare: func(t *testing.T, dir string) []string {
				other := filepath.Join(dir, "other")
				if err := os.Mkdir(other, 0o700); err != nil {
					t.Fatal(err)
				}
				cert, _ := certificate(t, dir, now)
				_, key := certificate(t, other, now)
				return []string{"--tls-cert-file", cert, "--tls-key-file", key}
			},
			problems: []string{"flag --tls-cert-file: tls.cert_file: DIR/tls.crt and tls.key_file DIR/other/tls.key are no certificate and key to serve with: tls: private key does not match public key"},
		},
		"no PEM": {
			prepare: func(t *testing.T, dir string) []string {
				cert, key := certificate(t, dir, now)
				write(t, key, 0o600, []byte("hunter2"))
				return []string{"--tls-cert-file", cert, "--tls-key-file", key}
			},
			problems: []string{"flag --tls-cert-file: tls.cert_file: DIR/tls.crt and tls.key_file DIR/tls.key are no certificate and key to serve with: tls: failed to find any PEM data in key input"},
		},
		"expired": {
			prepare: func(t *testing.T, dir string) []string {
				cert, key := certificate(t, dir, now)
				return []string{"--tls-cert-file", cert, "--tls-key-file", key}
			},
			at:       now.Add(day),
			warnings: []string{"flag --tls-cert-file: tls.cert_file: the certificate expired at 2026-11-23T13:00:00Z"},
		},
		"not yet valid": {
			prepare: func(t *testing.T, dir string) []string {
				cert, key := certificate(t, dir, now)
				return []string{"--tls-cert-file", cert, "--tls-key-file", key}
			},
			at:       now.Add(-day),
			warnings: []string{"flag --tls-cert-file: tls.cert_file: the certificate is not valid before 2026-11-23T11:00:00Z"},
		},
		"data_dir can be made": {prepare: func(_ *testing.T, dir string) []string { return []string{"--data-dir", dir + "/a/b/../c/"} }},
		"data_dir is a file": {
			prepare: func(t *testing.T, dir string) []string {
				write(t, dir+"/file", 0o600, nil)
				return []string{"--data-dir", dir + "/file"}
			},
			problems: []string{"flag --data-dir: data_dir: DIR/file is not a directory"},
		},
		"data_dir below a file": {
			prepare: func(t *testing.T, dir string) []string {
				write(t, dir+"/file", 0o600, nil)
				return []string{"--data-dir", dir + "/file/data"}
			},
			problems: []string{"flag --data-dir: data_dir: stat DIR/file/data: not a directory"},
		},
		"data_dir where we may not write": {
			prepare: func(t *testing.T, dir string) []string {
				if err := os.Mkdir(dir+"/closed", 0o500); err != nil {
					t.Fatal(err)
				}
				return []string{"--data-dir", dir + "/closed/data"}
			},
			problems: unlessRoot("flag --data-dir: data_dir: cannot make files in DIR/closed: permission denied"),
		},
		"directory of the keyset is missing": {
			prepare: func(_ *testing.T, dir string) []string {
				return []string{"--sealing-keyset-file", dir + "/none/keyset"}
			},
			problems: []string{"flag --sealing-keyset-file: sealing.keyset_file: stat DIR/none: no such file or directory"},
		},
		"keyset in a data_dir to be made": {prepare: func(_ *testing.T, dir string) []string {
			return []string{"--data-dir", dir + "/data/", "--sealing-keyset-file", dir + "/data/keyset"}
		}},
		"an ignored password file need not exist": {prepare: func(t *testing.T, dir string) []string {
			write(t, dir+"/users", 0o600, nil)
			return []string{"--auth-users-file", dir + "/users", "--admin-password-file", dir + "/none"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c, _, problems := load(t, sources{args: append([]string{"--data-dir", dir}, tc.prepare(t, dir)...)})
			if problems != nil {
				t.Fatal(problems)
			}
			at := tc.at
			if at.IsZero() {
				at = now
			}
			warnings, err := c.CheckFiles(at)
			if err != nil {
				problems = strings.Split(strings.ReplaceAll(err.Error(), dir, "DIR"), "\n")
			}
			for i := range warnings {
				warnings[i] = strings.ReplaceAll(warnings[i], dir, "DIR")
			}
			if !slices.Equal(warnings, tc.warnings) {
				t.Errorf("warnings %q", warnings)
			}
			if !slices.Equal(problems, tc.problems) {
				t.Errorf("problems\n%s", strings.Join(problems, "\n"))
			}
		})
	}
}

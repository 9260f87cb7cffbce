package server

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"attestcsr/config"
	"attestcsr/test/kit"
)

const (
	othersRead  = "DIR/0604 is accessible to others (mode 0604): every user could read what is in it; run chmod o-rwx DIR/0604"
	othersWrite = "DIR/0602 is accessible to others (mode 0602): every user could change what is in it; run chmod o-w DIR/0602"
)

var checkFilesCases = map[string]struct {
	args     string // DIR is the directory that prepareFiles filled
	at       time.Duration
	warnings []string
	problems []string
}{
	"defaults":            {},
	"everything in order": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/tls.key --auth-users-file DIR/0640 --sealing-keyset-file DIR/0640"},
	"trust anchors":       {args: "--trust-anchors-file DIR/tls.crt"},
	"no trust anchor": {args: "--trust-anchors-file DIR/0640", problems: []string{
		"flag --trust-anchors-file: trust.anchors_file: DIR/0640: trust anchors: there is no self-signed certificate, so no chain can end here: add the root of the CA"}},
	"trust anchors are missing": {args: "--trust-anchors-file DIR/none", problems: []string{
		"flag --trust-anchors-file: trust.anchors_file: open DIR/none: no such file or directory"}},
	"others can change trust anchors": {args: "--trust-anchors-file DIR/0602", problems: []string{
		"flag --trust-anchors-file: trust.anchors_file: " + othersWrite}},
	"symbolic links are followed":     {args: "--tls-cert-file DIR/tls.crt.link --tls-key-file DIR/tls.key.link"},
	"directories that will be made":   {args: "--data-dir DIR/a/b/../c/ --sealing-keyset-file DIR/a/c/keyset"},
	"ignored password file":           {args: "--auth-users-file DIR/0640 --admin-password-file DIR/none"},
	"data_dir where we may not write": {args: "--data-dir DIR/closed/data", problems: unlessRoot("flag --data-dir: data_dir: cannot make files in DIR/closed: permission denied")},
	"files missing": {args: "--tls-cert-file DIR/c --tls-key-file DIR/k --auth-users-file DIR/u --sealing-keyset-file DIR/none/keyset", problems: []string{
		"flag --sealing-keyset-file: sealing.keyset_file: stat DIR/none: no such file or directory",
		"flag --tls-cert-file: tls.cert_file: open DIR/c: no such file or directory",
		"flag --tls-key-file: tls.key_file: open DIR/k: no such file or directory",
		"flag --auth-users-file: auth.users_file: open DIR/u: no such file or directory",
	}},
	"not regular": {args: "--tls-cert-file DIR --tls-key-file DIR/loop --admin-password-file DIR/fifo", problems: []string{
		"flag --tls-cert-file: tls.cert_file: DIR is not a regular file",
		"flag --tls-key-file: tls.key_file: stat DIR/loop: too many levels of symbolic links",
		"flag --admin-password-file: admin_password_file: DIR/fifo is not a regular file",
	}},
	"others can read": {
		args:     "--tls-cert-file DIR/tls.crt --tls-key-file DIR/0604 --auth-users-file DIR/0604 --sealing-keyset-file DIR/0604",
		warnings: []string{"flag --auth-users-file: auth.users_file: " + othersRead},
		problems: []string{"flag --sealing-keyset-file: sealing.keyset_file: " + othersRead, "flag --tls-key-file: tls.key_file: " + othersRead},
	},
	"others can read the admin's password": {args: "--admin-password-file DIR/0604", warnings: []string{"flag --admin-password-file: admin_password_file: " + othersRead}},
	"others can change users":              {args: "--auth-users-file DIR/0602", problems: []string{"flag --auth-users-file: auth.users_file: " + othersWrite}},
	"others can change the certificate": {args: "--tls-cert-file DIR/0602 --tls-key-file DIR/tls.key", problems: []string{
		"flag --tls-cert-file: tls.cert_file: " + othersWrite}},
	"others can change settings": {args: "--config DIR/0602", problems: []string{"settings file: " + othersWrite}},
	"others can change what leads to a file": {args: "--auth-users-file DIR/open/../users.link", problems: []string{
		"flag --auth-users-file: auth.users_file: DIR/open is accessible to others (mode 0777): every user could change what is in it; run chmod o-w DIR/open"}},
	"in a volume of Kubernetes": {args: "--tls-cert-file DIR/volume/tls.crt --tls-key-file DIR/volume/tls.key", problems: []string{
		"flag --tls-key-file: tls.key_file: DIR/volume/..2026/tls.key is accessible to others (mode 0644): every user could read what is in it; in Kubernetes, set defaultMode: 0440 for the volume and fsGroup for the pod"}},
	"data_dir below one that others can change": {args: "--data-dir DIR/open/data", problems: []string{
		"flag --data-dir: data_dir: DIR/open is accessible to others (mode 0777): every user could change what is in it; run chmod o-w DIR/open; " +
			"allow_shared_data_dir: true starts in spite of it"}},
	"shared data_dir":               {args: "--data-dir DIR/open/data --allow-shared-data-dir=true"},
	"data_dir of the service's own": {args: "--data-dir DIR/open"},
	"certificate of another key": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/other/tls.key", problems: []string{
		"flag --tls-cert-file: tls.cert_file: DIR/tls.crt cannot be used with the key in DIR/other/tls.key: tls: private key does not match public key"}},
	"expired": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/tls.key", at: 400 * 24 * time.Hour, warnings: []string{
		"flag --tls-cert-file: tls.cert_file: the certificate expired at 2027-11-23T12:00:00Z"}},
	"not yet valid": {args: "--tls-cert-file DIR/tls.crt --tls-key-file DIR/tls.key", at: -400 * 24 * time.Hour, warnings: []string{
		"flag --tls-cert-file: tls.cert_file: the certificate is not valid before 2025-11-23T12:00:00Z"}},
	"data_dir is a file":    {args: "--data-dir DIR/0640", problems: []string{"flag --data-dir: data_dir: DIR/0640 is not a directory"}},
	"data_dir below a file": {args: "--data-dir DIR/0640/data", problems: []string{"flag --data-dir: data_dir: DIR/0640 is not a directory"}},
}

// loadSettings reads settings from a command line.
func loadSettings(t *testing.T, args ...string) *config.Config {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(config.Source{Flags: flags, SystemHostname: func() (string, error) { return "esx-01", nil }})
	if err != nil {
		t.Fatal(err)
	}
	return c
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
			warnings, err := checkFiles(loadSettings(t, args...), now.Add(tc.at))
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
	volume := filepath.Join(dir, "volume", "..2026")
	err = errors.Join(
		os.Mkdir(filepath.Join(dir, "open"), 0o700), os.Chmod(filepath.Join(dir, "open"), 0o777), os.MkdirAll(volume, 0o700),
		os.Symlink("..2026", filepath.Join(dir, "volume", "..data")),
		os.Symlink("..data/tls.crt", filepath.Join(dir, "volume", "tls.crt")), os.Symlink("..data/tls.key", filepath.Join(dir, "volume", "tls.key")),
		os.Symlink("0640", filepath.Join(dir, "users.link")))
	if err != nil {
		t.Fatal(err)
	}
	certificate(t, volume, now)
	if err := os.Chmod(filepath.Join(volume, "tls.key"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What is in a file of secrets is in no problem and in no warning.
func TestProblemsKeepSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var args []string
	for _, name := range []string{"tls-cert-file", "tls-key-file", "auth-users-file", "sealing-keyset-file"} {
		file := filepath.Join(dir, name)
		write(t, file, 0o600, []byte("hunter2 "+name))
		args = append(args, "--"+name, file)
	}
	warnings, err := CheckSettings(loadSettings(t, args...))
	if err == nil || strings.Contains(fmt.Sprint(warnings, err), "hunter2") {
		t.Errorf("%q %v", warnings, err)
	}
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

// TestAdvised: a start that finds no room, or what it may not use, says what to do.
func TestAdvised(t *testing.T) {
	t.Parallel()
	at := func(path string, number error) error {
		return fmt.Errorf("users: %w", &fs.PathError{Op: "write", Path: path, Err: number})
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{at("/srv/data/x", unix.ENOSPC), "the volume of /srv/data is full"},
		{os.NewSyscallError("fsync", unix.ENOSPC), "the volume of DIR is full"},
		{at("/srv/data/x", unix.EDQUOT), "is over the quota of the volume of /srv/data"},
		{at("/srv/data/x", unix.EIO), ""},
	} {
		got := advised("DIR", test.err)
		if !errors.Is(got, test.err) || !strings.Contains(got.Error(), test.want) || (test.want == "") != (got.Error() == test.err.Error()) {
			t.Errorf("%v: %v", test.err, got)
		}
	}
	if advised("DIR", nil) != nil {
		t.Error("an error of nothing")
	}
}

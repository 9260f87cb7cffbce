package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Permission bits of everybody who is neither owner nor group.
const (
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
)

// CheckFiles checks what the settings name on disk, before anything is opened for
// use: given files are regular files that we can read (symbolic links are
// followed), others cannot read keys or change users, certificate and key belong
// together, and data_dir is a directory or can be made. It changes nothing. The
// certificate has to be valid at the time now.
//
// The error joins all problems, and warnings are as Load gives them. What passes
// here may still fail later: files change.
func (c *Config) CheckFiles(now time.Time) (warnings []string, err error) {
	l := &loader{config: c}
	l.dataDir()
	if c.TLS.CertFile != "" {
		certRead := l.given("tls.cert_file", c.TLS.CertFile, 0, 0)
		keyRead := l.given("tls.key_file", c.TLS.KeyFile, othersRead|othersWrite, 0)
		if certRead && keyRead {
			l.certificate(now)
		}
	}
	if c.Auth.UsersFile != "" {
		l.given("auth.users_file", c.Auth.UsersFile, othersWrite, othersRead)
	} else if c.AdminPasswordFile != "" {
		l.given("admin_password_file", c.AdminPasswordFile, othersWrite, othersRead)
	}
	if name := c.Sealing.KeysetFile; name != "" {
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			// The keyset is made at the first start, as data_dir is.
			if dir := filepath.Dir(name); dir != filepath.Clean(c.DataDir) {
				l.directory("sealing.keyset_file", dir)
			}
		} else {
			l.given("sealing.keyset_file", name, othersRead|othersWrite, 0)
		}
	}
	return l.warnings, errors.Join(l.problems...)
}

// given checks a file that the operator gives, and reports whether it is all right.
// Permissions of others that are in refused are a problem, in doubted a warning.
func (l *loader) given(key, name string, refused, doubted fs.FileMode) bool {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		// Opening a FIFO would wait for its writer.
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(name); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		l.problem(key, "%w", err)
		return false
	}
	mode := info.Mode().Perm()
	if mode&refused != 0 {
		l.problem(key, "every user can read or change %s, which has mode %04o; run chmod o-rwx on it", name, mode)
		return false
	}
	if mode&doubted != 0 {
		l.warn("%s: %s: every user can read %s, which has mode %04o; run chmod o-rwx on it", l.config.origins[key], key, name, mode)
	}
	return true
}

// certificate checks that certificate and key load and belong together.
func (l *loader) certificate(now time.Time) {
	c, origin := l.config, l.config.origins["tls.cert_file"]
	pair, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
	switch {
	case err != nil:
		l.problem("tls.cert_file", "%s cannot be used with the key in %s: %w", c.TLS.CertFile, c.TLS.KeyFile, err)
	case now.Before(pair.Leaf.NotBefore):
		l.warn("%s: tls.cert_file: the certificate is not valid before %s", origin, pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(pair.Leaf.NotAfter):
		l.warn("%s: tls.cert_file: the certificate expired at %s", origin, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
}

// dataDir checks that data_dir is a directory we can write to, or that the
// nearest directory above it that exists is one, so that it can be made.
func (l *loader) dataDir() {
	dir := filepath.Clean(l.config.DataDir)
	for {
		_, err := os.Stat(dir)
		if parent := filepath.Dir(dir); errors.Is(err, fs.ErrNotExist) && parent != dir {
			dir = parent
			continue
		}
		l.directory("data_dir", dir)
		return
	}
}

// directory checks that we can make files in dir.
func (l *loader) directory(key, dir string) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", dir)
	}
	if err == nil {
		if denied := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); denied != nil {
			err = fmt.Errorf("cannot make files in %s: %w", dir, denied)
		}
	}
	if err != nil {
		l.problem(key, "%w", err)
	}
}

package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/control"
)

// AdminName is the user that exists where no auth.users_file is set.
const AdminName = "admin"

const (
	maxOwnFile       = 64 << 10        // bytes; far more than a hash takes
	rememberPassword = 5 * time.Minute // how long a right password is not compared again
	maxFailures      = 20              // wrong passwords from one network at once, and then in a minute

	networksPurpose  = "known networks 1" // of the keys that hide networks in their file
	maxNetworksFile  = 512 << 10          // bytes
	networksInterval = time.Minute        // what a crash may forget
)

// Password says where people find the built-in admin's password.
type Password = control.Password

// loadUsers reads and parses a users file.
func loadUsers(path string) (*auth.Users, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	users, err := auth.ParseUsers(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return users, nil
}

// prepareAdmin makes sure that the built-in admin has a password: the one of
// admin_password_file, the one it had before, or a random one.
func prepareAdmin(cfg *config.Config, log *slog.Logger, terminal bool) (Password, error) {
	hashFile := filepath.Join(cfg.DataDir, AdminHashFile)
	hash, err := readAdminHash(hashFile, log)
	if err != nil {
		return Password{}, err
	}
	if cfg.AdminPasswordFile != "" {
		return Password{File: cfg.AdminPasswordFile}, adoptPassword(cfg.AdminPasswordFile, hashFile, hash)
	}
	if hash == nil {
		return resetAdmin(cfg.DataDir, terminal)
	}
	waiting := filepath.Join(cfg.DataDir, InitialPasswordFile)
	if _, err := os.Stat(waiting); err == nil {
		return Password{File: waiting}, nil
	}
	return Password{}, nil
}

// readAdminHash returns the stored hash, or nil when there is none yet.
func readAdminHash(path string, log *slog.Logger) ([]byte, error) {
	data, err := ownfile.Read(path, maxOwnFile, log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	name, hash, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !ok || name != AdminName {
		return nil, fmt.Errorf("%s is damaged: attestcsr reset-password makes it anew", path)
	}
	return []byte(hash), nil
}

// adoptPassword stores the password of the operator's file, unless it is the one
// stored already.
func adoptPassword(file, hashFile string, hash []byte) error {
	if _, err := checkPasswordFile(file); err != nil {
		return err
	}
	secret, err := readPassword(file)
	if err != nil {
		return err
	}
	if hash != nil && bcrypt.CompareHashAndPassword(hash, secret) == nil {
		return nil
	}
	return storeAdminHash(hashFile, string(secret))
}

// checkPasswordFile says what is wrong with a password file.
func checkPasswordFile(file string) (warning string, err error) {
	secret, err := readPassword(file)
	if err != nil {
		return "", err
	}
	if warning, err = auth.CheckPassword(string(secret)); err != nil {
		return "", fmt.Errorf("admin_password_file: %s: %w", file, err)
	}
	if warning != "" {
		warning = fmt.Sprintf("admin_password_file: %s: %s", file, warning)
	}
	return warning, nil
}

// readPassword returns the first line of a password file.
func readPassword(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("admin_password_file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil, fmt.Errorf("admin_password_file: %w", err)
	}
	secret := bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(secret) == 0 || bytes.ContainsAny(secret, "\r\n\x00") {
		return nil, fmt.Errorf("admin_password_file: %s must hold the password in one line", file)
	}
	return secret, nil
}

func storeAdminHash(hashFile, secret string) error {
	hash, err := auth.Hash(secret)
	if err != nil {
		return err
	}
	return ownfile.Replace(hashFile, []byte(AdminName+":"+hash+"\n"))
}

// ownPassword refuses where the operator decides the password.
func ownPassword(cfg *config.Config) error {
	switch {
	case cfg.Auth.UsersFile != "":
		return fmt.Errorf("there is no built-in admin, since auth.users_file is set: change the user's line in %s (attestcsr hash-password makes the hash)", cfg.Auth.UsersFile)
	case cfg.AdminPasswordFile != "":
		return fmt.Errorf("admin_password_file decides the password: change %s and restart the service", cfg.AdminPasswordFile)
	}
	return nil
}

// HashPassword returns the bcrypt hash of a password, for auth.users_file, and a warning
// where some clients cannot send it.
func HashPassword(secret string) (hash, warning string, err error) {
	if warning, err = auth.CheckPassword(secret); err != nil {
		return "", "", err
	}
	hash, err = auth.Hash(secret)
	return hash, warning, err
}

// resetAdmin gives the admin a random password and makes it known: on a
// terminal, otherwise in a file whose path is printed. The file is written
// first: a crash after it leaves a password that does not open anything yet and
// is overwritten by the next start or reset.
func resetAdmin(dataDir string, terminal bool) (Password, error) {
	secret := rand.Text()
	file := filepath.Join(dataDir, InitialPasswordFile)
	known := Password{Shown: secret}
	if terminal {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Password{}, err
		}
	} else {
		known = Password{File: file}
		if err := ownfile.Replace(file, []byte(secret+"\n")); err != nil {
			return Password{}, err
		}
	}
	return known, storeAdminHash(filepath.Join(dataDir, AdminHashFile), secret)
}

// prepareUsers loads the users file, or makes sure of the built-in admin.
func (s *Server) prepareUsers(terminal bool, processors int) error {
	if s.cfg.Auth.UsersFile == "" {
		var err error
		if s.password, err = prepareAdmin(s.cfg, s.log, terminal); err != nil {
			return err
		}
	}
	users, err := s.readUsers()
	if err != nil {
		return err
	}
	s.privileges.Store(new(privilegesOf(s.cfg)))
	if err := s.openNetworks(); err != nil {
		return err
	}
	s.auth = auth.New(auth.Config{
		Networks:        s.networks,
		Users:           users,
		Privileges:      func(user string) []csr.Privilege { return (*s.privileges.Load())[user] },
		IdleTimeout:     s.cfg.Session.IdleTimeout,
		Lifetime:        s.cfg.Session.Lifetime,
		Sessions:        s.cfg.Limits.Sessions,
		SessionsPerUser: s.cfg.Limits.SessionsPerUser,
		OnPassword:      s.forgetInitialPassword,
		Refused:         s.audit.Refuse,
		LoggedIn:        func(r audit.Request) { s.audit.Login(audit.Event{Kind: audit.Login, Request: r}) },
		LoggedOut:       func(r audit.Request) { s.audit.Login(audit.Event{Kind: audit.Logout, Request: r}) },
		Now:             time.Now,
		RememberFor:     rememberPassword,
		Failures:        maxFailures,
		Comparisons:     max(1, processors/2),
	})
	return nil
}

// openNetworks reads from which networks right passwords came. Without the file all are
// new, which is no reason not to start.
func (s *Server) openNetworks() error {
	mac, err := s.custodian.MAC(networksPurpose)
	if err != nil {
		return err
	}
	code := func(network []byte) [sha256.Size]byte {
		sum, _ := mac.Sum(mac.Primary(), network) // there is always a primary key
		return sum
	}
	s.networks = auth.NewNetworks(code, time.Now)
	text, err := ownfile.Read(filepath.Join(s.cfg.DataDir, NetworksFile), maxNetworksFile, s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = s.networks.Load(text)
	}
	if err != nil {
		s.log.Warn("the networks that right passwords came from are not known: logins may have to wait while others guess", "err", err)
	}
	return nil
}

// keepNetworks writes these networks once a minute where there is something new, and at
// the end.
func (s *Server) keepNetworks(ctx context.Context) {
	save := func() {
		file := filepath.Join(s.cfg.DataDir, NetworksFile)
		if err := s.networks.Save(func(text []byte) error { return ownfile.Replace(file, text) }); err != nil {
			s.log.Warn("the networks that right passwords came from cannot be kept: it is tried again", "err", err)
		}
	}
	defer save()
	every(ctx, networksInterval, save)
}

// readUsers reads the users that may log in from now on.
func (s *Server) readUsers() (*auth.Users, error) {
	if err := stillTrusted(s.cfg, usersFile(s.cfg)); err != nil {
		return nil, err
	}
	return loadUsers(usersFile(s.cfg))
}

// forgetInitialPassword removes the file with the generated password at the first
// login with it: whoever read it has it now. The file may have a later password, which
// reset-password has just made.
func (s *Server) forgetInitialPassword(user, password string) {
	if s.cfg.Auth.UsersFile != "" || user != AdminName {
		return
	}
	file := filepath.Join(s.cfg.DataDir, InitialPasswordFile)
	known, err := ownfile.Read(file, maxOwnFile, s.log)
	if err == nil && string(known) != password+"\n" {
		return
	}
	if err == nil {
		err = os.Remove(file)
	}
	switch {
	case err == nil:
		s.log.Info("first login: the file with the initial password is removed")
	case !errors.Is(err, os.ErrNotExist):
		s.log.Error("the file with the initial password cannot be removed: remove it by hand", "err", err)
	}
}

// reloadUsers reads the users file again. On any error the users before stay.
func (s *Server) reloadUsers() {
	users, err := s.readUsers()
	if err != nil {
		s.log.Error("users not reloaded: the ones before stay", "err", err)
		return
	}
	if s.auth.SetUsers(users) {
		s.noteEvent(context.Background(), audit.Event{Operation: "users.reload"})
	}
	if len(users.Names()) == 0 {
		s.log.Warn("the users file holds no user any more: nobody can log in")
	}
	s.log.Debug("users loaded", "users", len(users.Names()))
}

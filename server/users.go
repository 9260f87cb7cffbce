package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/control"
	"attestcsr/server/users"
)

// AdminName is the user that exists where no auth.users_file is set.
const AdminName = users.Admin

const (
	rememberPassword = 5 * time.Minute // how long a right password is not compared again
	maxFailures      = 20              // wrong passwords from one network at once, and then in a minute

	networksPurpose  = "known networks 1" // of the keys that hide networks in their file
	maxNetworksFile  = 512 << 10          // bytes
	networksInterval = time.Minute        // what a crash may forget
)

// Password says where people find the built-in admin's password.
type Password = control.Password

// HashPassword returns the bcrypt hash of a password, for auth.users_file, and a warning
// where some clients cannot send it.
func HashPassword(secret string) (hash, warning string, err error) {
	if warning, err = auth.CheckPassword(secret); err != nil {
		return "", "", err
	}
	hash, err = auth.Hash(secret)
	return hash, warning, err
}

// prepareUsers reads the users, and makes sure of the built-in admin.
func (s *Server) prepareUsers(terminal bool, processors int) error {
	s.accounts.Lock()
	defer s.accounts.Unlock()
	files := s.userFiles()
	if s.cfg.Auth.UsersFile == "" {
		var err error
		if s.password, err = files.PrepareAdmin(terminal); err != nil {
			return err
		}
	}
	if err := s.takeUsers(); err != nil {
		return err
	}
	if err := s.openNetworks(); err != nil {
		return err
	}
	s.auth = auth.New(auth.Config{
		Networks:        s.networks,
		Users:           s.accounts.content.Users,
		Privileges:      func(user string) []csr.Privilege { return (*s.privileges.Load())[user] },
		IdleTimeout:     s.cfg.Session.IdleTimeout,
		Lifetime:        s.cfg.Session.Lifetime,
		Sessions:        s.cfg.Limits.Sessions,
		SessionsPerUser: s.cfg.Limits.SessionsPerUser,
		OnPassword:      files.ForgetInitialPassword,
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

// accounts are the files of users and privileges. The lock is held while one of them is
// changed, and from when they are read until what they say is in effect: what is older
// never comes after what is newer.
type accounts struct {
	sync.Mutex
	settings map[string][]string // auth.privileges, where a reload has taken others than those of the start
	content  *users.Content      // in effect; nil in a command
}

// userFiles says how the files of users are read. The caller holds the lock.
func (s *Server) userFiles() users.Files {
	files := userFiles(s.cfg, s.log)
	if s.accounts.settings != nil {
		files.Settings = s.accounts.settings
	}
	return files
}

func userFiles(cfg *config.Config, log *slog.Logger) users.Files {
	return users.Files{
		DataDir: cfg.DataDir, Operators: cfg.Auth.UsersFile, AdminPassword: cfg.AdminPasswordFile,
		Settings: cfg.Auth.Privileges, Privileges: PrivilegeNames(), Log: log,
	}
}

// setPrivileges puts those of the settings under those of the file.
func (s *Server) setPrivileges(settings map[string][]string) {
	s.accounts.Lock()
	defer s.accounts.Unlock()
	s.accounts.settings = settings
	s.accounts.content = s.accounts.content.Over(settings)
	s.privileges.Store(new(privilegesOf(s.accounts.content.Privileges)))
}

// takeUsers reads the files of users, and has what they say in effect when it returns. On
// any error what was in effect stays. The caller holds the lock.
func (s *Server) takeUsers() error {
	files := s.userFiles()
	if err := stillTrusted(s.cfg, files.Paths()...); err != nil {
		return err
	}
	content, err := files.Read()
	if err != nil {
		return err
	}
	before := s.accounts.content
	s.accounts.content = content
	s.privileges.Store(new(privilegesOf(content.Privileges)))
	if before == nil {
		return nil // the start, which has no Authenticator yet
	}
	if s.auth.SetUsers(content.Users) {
		s.noteEvent(context.Background(), audit.Event{Operation: "users.reload"})
	}
	if !content.SamePrivileges(before) {
		s.noteEvent(context.Background(), audit.Event{Operation: "privileges.reload"})
	}
	names := content.Users.Names()
	if len(names) == 0 {
		s.log.Warn("the users file holds no user any more: nobody can log in")
	}
	s.log.Debug("users loaded", "users", len(names))
	return nil
}

// reloadUsers takes what the files of users say now.
func (s *Server) reloadUsers() {
	s.accounts.Lock()
	defer s.accounts.Unlock()
	if err := s.takeUsers(); err != nil {
		s.log.Error("users not reloaded: the ones before stay", "err", err)
	}
}

// ListUsers implements control.Operations.
func (a admin) ListUsers(context.Context) ([]control.User, error) {
	a.accounts.Lock()
	defer a.accounts.Unlock()
	content, err := a.userFiles().Read()
	if err != nil {
		return nil, err
	}
	return content.List(), nil
}

// ListUsers returns all users, and changes nothing.
func ListUsers(ctx context.Context, cfg *config.Config, log *slog.Logger) (_ []control.User, err error) {
	o, end, err := administer(ctx, cfg, log, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	return o.ListUsers(ctx)
}

// ChangeUser implements control.Operations.
func (a admin) ChangeUser(ctx context.Context, c control.UserChange) (control.User, error) {
	a.accounts.Lock()
	defer a.accounts.Unlock()
	files := a.userFiles()
	if a.auth != nil { // a command has looked at them with the settings
		if err := stillTrusted(a.cfg, files.Paths()...); err != nil {
			return control.User{}, err
		}
	}
	err := files.Change(ctx, c, func(privileges []string) error {
		return a.record(ctx, a.who, audit.Event{Operation: "user." + string(c.Action), Account: c.Name, Privileges: privileges})
	})
	// Also after an error: one of two files may be another one.
	if a.auth != nil {
		err = errors.Join(err, a.takeUsers())
	}
	if err != nil {
		return control.User{}, err
	}
	content, err := files.Read()
	if err != nil {
		return control.User{}, err
	}
	return content.User(c.Name), nil
}

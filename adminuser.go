package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
)

// adminName is the user that exists where no auth.users_file is set.
const adminName = "admin"

const (
	// maxOwnFile is far more than a hash or a key takes, in bytes.
	maxOwnFile = 64 << 10
)

// password says how the built-in admin's password can be known. Only text that
// a terminal shows holds the password itself.
type password struct {
	shown string // the password, for a terminal
	file  string // the file that holds it
}

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
func prepareAdmin(cfg *config.Config, log *slog.Logger, terminal bool) (password, error) {
	hashFile := filepath.Join(cfg.DataDir, adminHashFile)
	hash, err := readAdminHash(hashFile, log)
	if err != nil {
		return password{}, err
	}
	if cfg.AdminPasswordFile != "" {
		return password{file: cfg.AdminPasswordFile}, adoptPassword(cfg.AdminPasswordFile, hashFile, hash)
	}
	if hash == nil {
		return resetAdmin(cfg.DataDir, terminal)
	}
	waiting := filepath.Join(cfg.DataDir, initialPasswordFile)
	if _, err := os.Stat(waiting); err == nil {
		return password{file: waiting}, nil
	}
	return password{}, nil
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
	if !ok || name != adminName {
		return nil, fmt.Errorf("%s is damaged: attestcsr reset-password makes it anew", path)
	}
	return []byte(hash), nil
}

// adoptPassword stores the password of the operator's file, unless it is the one
// stored already.
func adoptPassword(file, hashFile string, hash []byte) error {
	secret, err := readPassword(file)
	if err != nil {
		return err
	}
	if hash != nil && bcrypt.CompareHashAndPassword(hash, secret) == nil {
		return nil
	}
	return storeAdminHash(hashFile, string(secret))
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
	return ownfile.Replace(hashFile, []byte(adminName+":"+hash+"\n"))
}

// resetPassword gives the built-in admin a new random password. A running server
// takes it over by itself. On a terminal the caller shows the password, otherwise
// it is in a file.
func resetPassword(cfg *config.Config, terminal bool) (password, error) {
	switch {
	case cfg.Auth.UsersFile != "":
		return password{}, fmt.Errorf("there is no built-in admin, since auth.users_file is set: change the user's line in %s (attestcsr hash-password makes the hash)", cfg.Auth.UsersFile)
	case cfg.AdminPasswordFile != "":
		return password{}, fmt.Errorf("admin_password_file decides the password: change %s and restart the service", cfg.AdminPasswordFile)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return password{}, fmt.Errorf("data_dir: %w", err)
	}
	return resetAdmin(cfg.DataDir, terminal)
}

// hashPassword returns the bcrypt hash of a password, for auth.users_file.
func hashPassword(secret string) (string, error) { return auth.Hash(secret) }

// resetAdmin gives the admin a random password and makes it known: on a
// terminal, otherwise in a file whose path is printed. The file is written
// first: a crash after it leaves a password that does not open anything yet and
// is overwritten by the next start or reset.
func resetAdmin(dataDir string, terminal bool) (password, error) {
	secret := rand.Text()
	file := filepath.Join(dataDir, initialPasswordFile)
	known := password{shown: secret}
	if terminal {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return password{}, err
		}
	} else {
		known = password{file: file}
		if err := ownfile.Replace(file, []byte(secret+"\n")); err != nil {
			return password{}, err
		}
	}
	return known, storeAdminHash(filepath.Join(dataDir, adminHashFile), secret)
}

// privilegesOf returns what the settings grant each user. The built-in admin
// holds every privilege unless the settings give it an entry of its own.
func privilegesOf(cfg *config.Config) func(user string) []csr.Privilege {
	table := map[string][]csr.Privilege{}
	if cfg.Auth.UsersFile == "" {
		table[adminName] = csr.Privileges()
	}
	for user, names := range cfg.Auth.Privileges {
		granted := make([]csr.Privilege, len(names))
		for i, name := range names {
			granted[i] = csr.Privilege(name)
		}
		table[user] = granted
	}
	return func(user string) []csr.Privilege { return table[user] }
}

// checkSettings checks the files that settings name, and what package config
// cannot know: whether the users file parses and has the users that are given
// privileges.
func checkSettings(cfg *config.Config) (warnings []string, err error) {
	warnings, err = cfg.CheckFiles(time.Now())
	users := []string{adminName}
	if cfg.Auth.UsersFile != "" && err == nil {
		table, err := loadUsers(cfg.Auth.UsersFile)
		if err != nil {
			return warnings, fmt.Errorf("auth.users_file: %w", err)
		}
		if users = table.Names(); len(users) == 0 {
			return warnings, fmt.Errorf("auth.users_file: %s holds no user, so that nobody could log in: add one with htpasswd -B or attestcsr hash-password", cfg.Auth.UsersFile)
		}
		if cost := table.LowestCost(); cost < auth.Cost {
			warnings = append(warnings, fmt.Sprintf("auth.users_file: %s holds bcrypt hashes of cost %d, which are quick to guess: make them anew with htpasswd -B -C %d or attestcsr hash-password",
				cfg.Auth.UsersFile, cost, auth.Cost))
		}
	}
	for _, user := range slices.Sorted(maps.Keys(cfg.Auth.Privileges)) {
		if !slices.Contains(users, user) {
			warnings = append(warnings, fmt.Sprintf("auth.privileges: there is no user %q", user))
		}
	}
	return warnings, err
}

func privilegeNames() []string {
	var names []string
	for _, p := range csr.Privileges() {
		names = append(names, string(p))
	}
	return names
}

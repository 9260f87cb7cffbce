package users

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/control"
)

// PrepareAdmin makes sure that the built-in admin has a password: the one of
// admin_password_file, the one it had before, or a random one.
func (f Files) PrepareAdmin(terminal bool) (control.Password, error) {
	hash, err := f.readAdminHash()
	if err != nil {
		return control.Password{}, err
	}
	if f.AdminPassword != "" {
		return control.Password{File: f.AdminPassword}, f.adoptPassword(hash)
	}
	if hash == nil {
		return f.ResetAdmin(terminal)
	}
	waiting := f.path(InitialPasswordFile)
	if _, err := os.Stat(waiting); err == nil {
		return control.Password{File: waiting}, nil
	}
	return control.Password{}, nil
}

// readAdminHash returns the stored hash, or nil when there is none yet.
func (f Files) readAdminHash() ([]byte, error) {
	path := f.path(AdminHashFile)
	data, err := ownfile.Read(path, maxAdmin, f.Log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	name, hash, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !ok || name != Admin {
		return nil, fmt.Errorf("%s is damaged: attestcsr reset-password makes it anew", path)
	}
	return []byte(hash), nil
}

// adoptPassword stores the password of the operator's file, unless it is the one
// stored already.
func (f Files) adoptPassword(hash []byte) error {
	if _, err := CheckPasswordFile(f.AdminPassword); err != nil {
		return err
	}
	secret, err := readPassword(f.AdminPassword)
	if err != nil {
		return err
	}
	if hash != nil && bcrypt.CompareHashAndPassword(hash, secret) == nil {
		return nil
	}
	return f.storeAdminHash(string(secret))
}

// CheckPasswordFile says what is wrong with the file of admin_password_file.
func CheckPasswordFile(file string) (warning string, err error) {
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

func (f Files) storeAdminHash(secret string) error {
	hash, err := auth.Hash(secret)
	if err != nil {
		return err
	}
	return ownfile.Replace(f.path(AdminHashFile), []byte(Admin+":"+hash+"\n"))
}

// OwnPassword refuses where the operator decides the built-in admin's password.
func (f Files) OwnPassword() error {
	switch {
	case f.Operators != "":
		return fmt.Errorf("there is no built-in admin, since auth.users_file is set: attestcsr user password gives a user of %s another password", f.Operators)
	case f.AdminPassword != "":
		return fmt.Errorf("admin_password_file decides the password: change %s and restart the service", f.AdminPassword)
	}
	return nil
}

// ResetAdmin gives the admin a random password and makes it known: on a
// terminal, otherwise in a file whose path is printed. The file is written
// first: a crash after it leaves a password that does not open anything yet and
// is overwritten by the next start or reset.
func (f Files) ResetAdmin(terminal bool) (control.Password, error) {
	secret := rand.Text()
	known := control.Password{Shown: secret}
	if terminal {
		if err := f.removeInitialPassword(); err != nil {
			return control.Password{}, err
		}
	} else {
		known = control.Password{File: f.path(InitialPasswordFile)}
		if err := ownfile.Replace(known.File, []byte(secret+"\n")); err != nil {
			return control.Password{}, err
		}
	}
	return known, f.storeAdminHash(secret)
}

func (f Files) removeInitialPassword() error {
	if err := os.Remove(f.path(InitialPasswordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ForgetInitialPassword removes the file with the generated password at the first
// login with it: whoever read it has it now. The file may have a later password, which
// reset-password has just made.
func (f Files) ForgetInitialPassword(user, password string) {
	if !f.builtIn(user) {
		return
	}
	file := f.path(InitialPasswordFile)
	known, err := ownfile.Read(file, maxAdmin, f.Log)
	if err == nil && string(known) != password+"\n" {
		return
	}
	if err == nil {
		err = os.Remove(file)
	}
	switch {
	case err == nil:
		f.Log.Info("first login: the file with the initial password is removed")
	case !errors.Is(err, os.ErrNotExist):
		f.Log.Error("the file with the initial password cannot be removed: remove it by hand", "err", err)
	}
}

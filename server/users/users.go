// Package users keeps the files that say who may log in and what they may do: it reads
// them, and changes them for commands.
package users

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"attestcsr/config"
	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/control"
)

// The files of data_dir.
const (
	File                = "users"           // htpasswd lines; read beside the built-in admin
	PrivilegesFile      = "privileges.yaml" // laid over auth.privileges
	AdminHashFile       = "admin.htpasswd"
	InitialPasswordFile = "initial-admin-password"
)

// Admin is the user that exists where no auth.users_file is set.
const Admin = "admin"

const (
	maxUsers      = 1 << 20  // bytes; what package auth takes
	maxPrivileges = 1 << 20  // bytes
	maxAdmin      = 64 << 10 // bytes; far more than a hash takes
)

// Files says which files there are, and what they are read with.
type Files struct {
	DataDir       string
	Operators     string              // auth.users_file; empty: the built-in admin, and File
	AdminPassword string              // admin_password_file
	Settings      map[string][]string // auth.privileges
	Privileges    []string            // all that there are
	Log           *slog.Logger
}

func (f Files) path(name string) string { return filepath.Join(f.DataDir, name) }

// Users is the file that users are added to.
func (f Files) Users() string {
	if f.Operators != "" {
		return f.Operators
	}
	return f.path(File)
}

// Paths are all files that Read reads.
func (f Files) Paths() []string {
	if f.Operators != "" {
		return []string{f.Operators, f.path(PrivilegesFile)}
	}
	return []string{f.path(AdminHashFile), f.path(File), f.path(PrivilegesFile)}
}

func (f Files) builtIn(name string) bool { return f.Operators == "" && name == Admin }

// Content is what the files said at one moment. It never changes.
type Content struct {
	Users      *auth.Users
	Privileges map[string][]string // by user, with those of the settings
	files      Files
	text       []byte              // of the file that users are added to
	laid       map[string][]string // what PrivilegesFile says
}

// Read reads all files.
func (f Files) Read() (*Content, error) {
	c := &Content{files: f}
	var err error
	if f.Operators != "" {
		err = c.readOperators()
	} else {
		err = c.readOwn()
	}
	if err != nil {
		return nil, err
	}
	if c.laid, err = f.readPrivileges(); err != nil {
		return nil, err
	}
	c.Privileges = f.lay(c.laid)
	return c, nil
}

// ReadOperators reads the operator's users file alone.
func (f Files) ReadOperators() (*auth.Users, error) {
	c := &Content{files: f}
	err := c.readOperators()
	return c.Users, err
}

func (c *Content) readOperators() (err error) {
	path := c.files.Operators
	if c.text, err = readBounded(path, maxUsers); err == nil {
		c.Users, err = parse(path, c.text)
	}
	return err
}

// readOwn reads the built-in admin, and the users beside it.
func (c *Content) readOwn() error {
	admin, err := ownfile.Read(c.files.path(AdminHashFile), maxAdmin, c.files.Log)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: a start without auth.users_file makes it; are these the settings of the service?", err)
	}
	if err != nil {
		return err
	}
	if _, err := parse(c.files.path(AdminHashFile), admin); err != nil {
		return err
	}
	c.text, err = c.files.readOwnUsers()
	if err != nil {
		return err
	}
	path := c.files.path(File)
	others, err := parse(path, c.text)
	if err != nil {
		return err
	}
	if slices.Contains(others.Names(), Admin) {
		return fmt.Errorf("%s has a line of %s, who is built in: remove it", path, Admin)
	}
	c.Users, err = parse(path, slices.Concat(admin, []byte("\n"), c.text))
	return err
}

// readOwnUsers returns nothing where there is no file.
func (f Files) readOwnUsers() ([]byte, error) {
	text, err := ownfile.Read(f.path(File), maxUsers, f.Log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

func (f Files) readPrivileges() (map[string][]string, error) {
	path := f.path(PrivilegesFile)
	text, err := ownfile.Read(path, maxPrivileges, f.Log)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string][]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	return config.ParsePrivileges(path, text, f.Privileges)
}

// lay puts entries in the place of those of the settings. The built-in admin has what the
// settings say, and every privilege where they say nothing: no file can take them.
func (f Files) lay(entries map[string][]string) map[string][]string {
	table := maps.Clone(f.Settings)
	if table == nil {
		table = map[string][]string{}
	}
	for user, privileges := range entries {
		if !f.builtIn(user) {
			table[user] = privileges
		}
	}
	if _, set := f.Settings[Admin]; f.Operators == "" && !set {
		table[Admin] = f.Privileges
	}
	return table
}

// Over is the content with other settings under it.
func (c *Content) Over(settings map[string][]string) *Content {
	other := *c
	other.files.Settings = settings
	other.Privileges = other.files.lay(c.laid)
	return &other
}

// readBounded reads a file of the operator.
func readBounded(path string, limit int) (text []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	text, err = io.ReadAll(io.LimitReader(file, int64(limit)+1)) // one more, which parse refuses
	return text, errors.Join(err, file.Close())
}

func parse(path string, text []byte) (*auth.Users, error) {
	users, err := auth.ParseUsers(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return users, nil
}

// SamePrivileges reports whether two contents give everybody the same privileges.
func (c *Content) SamePrivileges(other *Content) bool {
	return maps.EqualFunc(c.laid, other.laid, slices.Equal)
}

// List has every user, in alphabetical order.
func (c *Content) List() []control.User {
	all := []control.User{}
	for _, name := range c.Users.Names() {
		all = append(all, c.User(name))
	}
	return all
}

// User describes a user, also one that is gone.
func (c *Content) User(name string) control.User {
	u := control.User{Name: name, Source: c.files.Users(), Privileges: c.Privileges[name]}
	_, set := c.files.Settings[name]
	_, laid := c.laid[name]
	switch builtIn := c.files.builtIn(name); {
	case builtIn:
		u.Source = "built in"
		if !set {
			u.PrivilegesFrom = "built in"
		}
	case laid:
		u.PrivilegesFrom = PrivilegesFile
	}
	if u.PrivilegesFrom == "" && set {
		u.PrivilegesFrom = "auth.privileges"
	}
	if u.Privileges == nil {
		u.Privileges = []string{}
	}
	return u
}

// Doubts says what in the files has no effect.
func (c *Content) Doubts() (warnings []string) {
	path := c.files.path(PrivilegesFile)
	for _, name := range slices.Sorted(maps.Keys(c.laid)) {
		switch {
		case c.files.builtIn(name):
			warnings = append(warnings, fmt.Sprintf("%s: the entry of %s is not read: the built-in admin has what auth.privileges says, or every privilege", path, name))
		case !slices.Contains(c.Users.Names(), name):
			warnings = append(warnings, fmt.Sprintf("%s: there is no user %q", path, name))
		}
	}
	if c.files.Operators != "" {
		if unread, err := c.files.readOwnUsers(); err == nil && len(bytes.TrimSpace(unread)) > 0 {
			warnings = append(warnings, fmt.Sprintf("%s is not read, since auth.users_file is set", c.files.path(File)))
		}
	}
	return warnings
}

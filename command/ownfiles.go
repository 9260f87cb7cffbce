package command

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/go-json-experiment/json"

	"attestcsr/handler/client"
)

// What commands keep for their user: named contexts, and sessions.

const maxOwnFile = 1 << 20

// ownFolder is the folder attestcsr below one of the user's folders, as the XDG Base
// Directory Specification names it.
func (p process) ownFolder(variable, fallback string) (string, error) {
	folder := p.getenv(variable)
	if !filepath.IsAbs(folder) {
		home := p.getenv("HOME")
		if home == "" {
			return "", fmt.Errorf("neither %s nor HOME is set", variable)
		}
		folder = filepath.Join(home, fallback)
	}
	return filepath.Join(folder, "attestcsr"), nil
}

// writeOwn writes a file that only its user can read, in one step.
func writeOwn(path string, value any) error {
	text, err := json.Marshal(value, json.Deterministic(true))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replaceFile(path, append(text, '\n'), 0o600)
}

// replaceFile writes a file in one step: a crash leaves the old one or the new one.
func replaceFile(path string, content []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

// errNotOwn: a file has another owner, or others may read it.
var errNotOwn = errors.New("it is not this user's alone (mode 0600)")

// readOwn reads a file of writeOwn. It believes no other.
func readOwn(path string, value any) (err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	owner, is := info.Sys().(*syscall.Stat_t)
	if !is || int64(owner.Uid) != int64(os.Geteuid()) || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s: %w", path, errNotOwn)
	}
	text, err := readBounded(f, maxOwnFile)
	if err == nil {
		err = json.Unmarshal(text, value, json.RejectUnknownMembers(true))
	}
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", path, err)
	}
	return nil
}

func readBounded(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	return text, err
}

// namedContext is a connection with a name.
type namedContext struct {
	Server       string `json:"server"`
	CAFile       string `json:"ca_file,omitzero"`
	Fingerprint  string `json:"fingerprint,omitzero"`
	User         string `json:"user,omitzero"`
	PasswordFile string `json:"password_file,omitzero"`
}

// contexts is the file of them.
type contexts struct {
	Current  string                  `json:"current,omitzero"`
	Contexts map[string]namedContext `json:"contexts"`
}

func (p process) contextsFile() (string, error) {
	folder, err := p.ownFolder("XDG_CONFIG_HOME", ".config")
	return filepath.Join(folder, "contexts.json"), err
}

func (p process) readContexts() (all contexts, err error) {
	path, err := p.contextsFile()
	if err == nil {
		err = readOwn(path, &all)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return all, err
}

// findContext returns a context by its name; "" is the current one, if any.
func (p process) findContext(name string) (namedContext, error) {
	all, err := p.readContexts()
	switch {
	case err != nil && name == "" && p.getenv("HOME") == "":
		return namedContext{}, nil // nobody's folder, and nobody's contexts
	case err != nil:
		return namedContext{}, err
	case name == "":
		return all.Contexts[all.Current], nil
	}
	found, is := all.Contexts[name]
	if !is {
		return found, &statusError{statusNotFound, fmt.Errorf("there is no context %q: \"attestcsr context list\" shows those that there are", name)}
	}
	return found, nil
}

// sessionCache is the folder where the sessions of a user wait for the next command. Each
// server, user and dialect has a file.
type sessionCache struct {
	folder string // "": there is none
	warn   func(string)
}

func (p process) sessionCache() sessionCache {
	folder, err := p.ownFolder("XDG_CACHE_HOME", ".cache")
	if err != nil {
		return sessionCache{}
	}
	return sessionCache{filepath.Join(folder, "sessions"), func(text string) { warn(p.stderr, []string{text}) }}
}

// cachedSession is the content of a file.
type cachedSession struct {
	Server  string         `json:"server"`
	User    string         `json:"user"`
	Dialect string         `json:"dialect"`
	Session client.Session `json:"session"`
}

func (s sessionCache) path(server, user, dialect string) string {
	short := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:16])
	}
	return filepath.Join(s.folder, short(server)+"-"+short(user)+"-"+dialect+".json")
}

func (s sessionCache) write(server, user, dialect string, session client.Session) error {
	if s.folder == "" {
		return nil
	}
	return writeOwn(s.path(server, user, dialect), cachedSession{server, user, dialect, session})
}

func (s sessionCache) read(server, user, dialect string) (_ client.Session, found bool) {
	if s.folder == "" || user == "" {
		return client.Session{}, false
	}
	var cached cachedSession
	err := readOwn(s.path(server, user, dialect), &cached)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.warn("the cached session is not used: " + err.Error())
	}
	if err != nil || cached.Server != server || cached.User != user || cached.Dialect != dialect {
		return client.Session{}, false
	}
	return cached.Session, true
}

func (s sessionCache) remove(server, user, dialect string) error {
	if err := os.Remove(s.path(server, user, dialect)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// onlyUser returns the user whose sessions with a server are cached, if it is one.
func (s sessionCache) onlyUser(server string) string {
	var users []string
	pattern := filepath.Base(s.path(server, "", ""))
	entries, _ := os.ReadDir(s.folder) // without the folder there is none
	for _, entry := range entries {
		var cached cachedSession
		name := entry.Name()
		if len(name) < 32 || name[:32] != pattern[:32] || readOwn(filepath.Join(s.folder, name), &cached) != nil || cached.Server != server {
			continue
		}
		if !slices.Contains(users, cached.User) {
			users = append(users, cached.User)
		}
	}
	if len(users) == 1 {
		return users[0]
	}
	return ""
}

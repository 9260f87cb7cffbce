package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/auth"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/users"
)

// privilegesOf is a table of privileges in the type of the core.
func privilegesOf(names map[string][]string) map[string][]csr.Privilege {
	table := map[string][]csr.Privilege{}
	for user, privileges := range names {
		granted := make([]csr.Privilege, len(privileges))
		for i, name := range privileges {
			granted[i] = csr.Privilege(name)
		}
		table[user] = granted
	}
	return table
}

// CheckSettings checks the files that settings name, and what package config
// cannot know: whether the users file parses and has the users that are given
// privileges.
func CheckSettings(cfg *config.Config) (warnings []string, err error) {
	warnings, err = checkFiles(cfg, time.Now())
	if cfg.Auth.UsersFile == "" && cfg.AdminPasswordFile != "" && err == nil {
		warning, err := users.CheckPasswordFile(cfg.AdminPasswordFile)
		if err != nil {
			return warnings, err
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	files := userFiles(cfg, slog.New(slog.DiscardHandler))
	content, readErr := files.Read()
	names := []string{AdminName}
	if cfg.Auth.UsersFile != "" && err == nil {
		table, err := files.ReadOperators()
		if err != nil {
			return warnings, fmt.Errorf("auth.users_file: %w", err)
		}
		if names = table.Names(); len(names) == 0 {
			return warnings, fmt.Errorf("auth.users_file: %s holds no user, so that nobody could log in: add one with htpasswd -B or attestcsr hash-password", cfg.Auth.UsersFile)
		}
		if cost := table.LowestCost(); cost < auth.Cost {
			warnings = append(warnings, fmt.Sprintf("auth.users_file: %s holds bcrypt hashes of cost %d, which are quick to guess: make them anew with htpasswd -B -C %d or attestcsr hash-password",
				cfg.Auth.UsersFile, cost, auth.Cost))
		}
	}
	if readErr == nil { // otherwise who opens the files says it
		names = content.Users.Names()
		warnings = append(warnings, content.Doubts()...)
	}
	for _, user := range slices.Sorted(maps.Keys(cfg.Auth.Privileges)) {
		if !slices.Contains(names, user) {
			warnings = append(warnings, fmt.Sprintf("auth.privileges: there is no user %q", user))
		}
	}
	return warnings, err
}

// PrivilegeNames are the privileges that the settings may give to users.
func PrivilegeNames() []string {
	var names []string
	for _, p := range csr.Privileges() {
		names = append(names, string(p))
	}
	return names
}

const maxSettingsFile = 64 << 10 // bytes; far more than digests take

// noteSettings records the names of settings that have another value than at the last
// start or reload, and keeps digests of the values. A crash before they are kept makes
// the next start record the same change.
func (s *Server) noteSettings(ctx context.Context, texts map[string]string) {
	path := filepath.Join(s.cfg.DataDir, SettingsFile)
	before, err := readDigests(path, s)
	if err != nil {
		s.log.Warn("the settings of the last start are not known: changes of settings since then are not recorded", "err", err)
	}
	now := map[string]string{}
	for name, value := range texts {
		sum := sha256.Sum256([]byte(value))
		now[name] = hex.EncodeToString(sum[:8])
	}
	if maps.Equal(before, now) {
		return
	}
	if changed := differing(before, now); before != nil && changed != nil {
		s.noteEvent(ctx, audit.Event{Operation: "settings.change", Settings: changed})
	}
	text, err := json.Marshal(now, json.Deterministic(true))
	if err == nil {
		err = ownfile.Replace(path, text)
	}
	if err != nil {
		s.log.Warn("the settings of this start cannot be kept", "err", err)
	}
}

// differing returns the names of settings that have another value now, in order.
func differing(before, now map[string]string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if before[name] != now[name] {
			names = append(names, name)
		}
	}
	return names
}

// readDigests returns the digests of the values of all settings at the last start, or
// nil where there was none.
func readDigests(path string, s *Server) (digests map[string]string, err error) {
	text, err := ownfile.Read(path, maxSettingsFile, s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &digests)
	}
	return digests, err
}

package server

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/handler/auth"
)

// privilegesOf returns what the settings grant each user. The built-in admin
// holds every privilege unless the settings give it an entry of its own.
func privilegesOf(cfg *config.Config) func(user string) []csr.Privilege {
	table := map[string][]csr.Privilege{}
	if cfg.Auth.UsersFile == "" {
		table[AdminName] = csr.Privileges()
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

// CheckSettings checks the files that settings name, and what package config
// cannot know: whether the users file parses and has the users that are given
// privileges.
func CheckSettings(cfg *config.Config) (warnings []string, err error) {
	warnings, err = checkFiles(cfg, time.Now())
	users := []string{AdminName}
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

// PrivilegeNames are the privileges that the settings may give to users.
func PrivilegeNames() []string {
	var names []string
	for _, p := range csr.Privileges() {
		names = append(names, string(p))
	}
	return names
}

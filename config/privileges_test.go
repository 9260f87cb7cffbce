package config_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"attestcsr/config"
)

// TestPrivilegesFile: what FormatPrivileges writes is read as the same.
func TestPrivilegesFile(t *testing.T) {
	t.Parallel()
	for _, table := range []map[string][]string{
		{},
		{"alice": {"SECURITY_MGMT"}, "bob": nil, `a "b" \ ü #`: privileges, "1": nil, "~": nil, "true": {"policy_certificate:read"}, "- x": nil},
	} {
		got, err := config.ParsePrivileges("f", config.FormatPrivileges(table), privileges)
		if err != nil || !reflect.DeepEqual(got, table) {
			t.Errorf("%v was written as\n%s\nand read as %v, %v", table, config.FormatPrivileges(table), got, err)
		}
	}
}

// FuzzPrivilegesFile reads any bytes: an error whose lines begin with the file, or a table
// of privileges that there are, which is written and read as the same.
func FuzzPrivilegesFile(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "null", "~", "# nothing\n", "alice: [SECURITY_MGMT]\nbob: []\n", "\"a\": [\"policy_certificate:read\"]", "alice:\n- SECURITY_MGMT\n", "alice: SECURITY_MGMT",
		"alice: [ROOT]", "alice: [SECURITY_MGMT, SECURITY_MGMT]", "a: []\na: []", "a:b: []", "1: []", "? a\n: []", "&a x: *a", "<<: {}", "a: []\n---\nb: []", "[", "\xff", "\x00: []", "a: [[]]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := config.ParsePrivileges("f", data, privileges)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "f:") {
					t.Errorf("a problem that does not name the file: %q", line)
				}
			}
			return
		}
		for user, granted := range table {
			for _, p := range granted {
				if user == "" || !slices.Contains(privileges, p) {
					t.Errorf("%q may %q", user, p)
				}
			}
		}
		again, err := config.ParsePrivileges("f", config.FormatPrivileges(table), privileges)
		if err != nil || !reflect.DeepEqual(again, table) {
			t.Errorf("%v was read again as %v, %v", table, again, err)
		}
	})
}

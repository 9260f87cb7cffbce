package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"attestcsr/config"
)

// FuzzFile loads any bytes as the settings file. Whatever they are: a config or
// an error and never both, every line of the error begins with the file, and a
// config that is accepted shows as a file that gives the same config.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "# nothing", "---\n...\n", "\ufefflisten: :1\r\n", "null", "{}", "[]", "a", "listen", "listen:", "listen: :1\nlisten: :2",
		"listen: '[::1]:0'\nops_listen: \":1\"", "hostname: \"\\x61\\u0062\\U00000063\"", "data_dir: \"\\\"#\\\\ \\u2028\"", "data_dir: é",
		"tls: {cert_file: a, key_file: b}", "tls:\n  cert_file: a", "tls.cert_file: a", "auth:\n  privileges:\n    ? a\n    : [SECURITY_MGMT]",
		"auth: {privileges: {\"a b\": [], 'c': [\"policy_certificate:read\"]}}", "key_sizes: [2048, 0x1000, 010, 1_0, +2048]", "key_sizes:\n- 2048\n-\n- ~",
		"trusted_proxies: [::1, fd00::/8, 10.0.0.1]", "session: {idle_timeout: 1ns, lifetime: 1.5h}", "listen: &a :1\nops_listen: *a", "<<: {listen: :1}",
		"listen: !!str 1", "data_dir: |\n  a\n  b", "data_dir: >-\n  a\n  b", "data_dir: 'a\n\n  b'", "a: 1\n---\nb: 2", "%YAML 1.2\n---\n{}", "a: \xff", "\x00", "\t", "? ", "- - - -",
		"key_sizes: [[[[[[[[[", "{{{{", "\"", "'", "@", "`", "a: b: c", ": ", "key_sizes: [2048] # c\n# d",
	} {
		f.Add([]byte(seed))
	}
	f.Add([]byte(everything))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := loadFile(t, data)
		if err != nil {
			if c != nil {
				t.Error("a config beside an error")
			}
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.Contains(line, "fuzzed.yaml") && !strings.HasPrefix(line, "and ") && !strings.HasPrefix(line, "default: session.idle_timeout: ") {
					t.Errorf("a problem that does not name the file: %q", line)
				}
			}
			return
		}
		shown := show(t, c)
		again, err := loadFile(t, []byte(shown))
		if err != nil {
			t.Fatalf("what is shown does not load: %v\n%s", err, shown)
		}
		if !reflect.DeepEqual(settings(again), settings(c)) {
			t.Errorf("shown and loaded again:\n%+v\n%+v", settings(again), settings(c))
		}
	})
}

func loadFile(t *testing.T, data []byte) (*config.Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fuzzed.yaml")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(config.Source{Env: []string{"ATTESTCSR_CONFIG=" + name}, Privileges: privileges, SystemHostname: func() (string, error) { return "esx-01", nil }})
	return c, err
}

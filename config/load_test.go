package config_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/config"
)

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := "listen: :1\nkey_sizes: [2048, 4096]\ntrusted_proxies: [10.0.0.1]\n"
	for name, tc := range map[string]struct {
		in      sources
		listen  string
		sizes   []int
		proxies int
	}{
		"default":                      {sources{}, ":8443", []int{2048, 3072, 4096}, 0},
		"file over default":            {sources{file: file}, ":1", []int{2048, 4096}, 1},
		"environment over file":        {sources{file: file, env: []string{"ATTESTCSR_LISTEN=:2", "ATTESTCSR_KEY_SIZES=2048"}}, ":2", []int{2048}, 1},
		"flag over environment":        {sources{file: file, env: []string{"ATTESTCSR_LISTEN=:2"}, args: []string{"--listen=:3", "--key-sizes=3072,2048"}}, ":3", []int{3072, 2048}, 1},
		"flag equal to the default":    {sources{file: file, args: []string{"--listen=:8443"}}, ":8443", []int{2048, 4096}, 1},
		"empty variable clears a list": {sources{file: file, env: []string{"ATTESTCSR_TRUSTED_PROXIES="}}, ":1", []int{2048, 4096}, 0},
		"repeated list flag adds":      {sources{args: []string{"--key-sizes=2048", "--key-sizes=8192"}}, ":8443", []int{2048, 8192}, 0},
		"repeated flag: the last":      {sources{args: []string{"--listen=:4", "--listen=:5"}}, ":5", []int{2048, 3072, 4096}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustLoad(t, tc.in)
			if c.Listen != tc.listen || !slices.Equal(c.KeySizes, tc.sizes) || len(c.TrustedProxies) != tc.proxies {
				t.Errorf("got %s %v %v", c.Listen, c.KeySizes, c.TrustedProxies)
			}
		})
	}
}

// The variable names the file of every other test.
func TestFlagNamesTheFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("hostname: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := mustLoad(t, sources{file: "hostname: b\n", args: []string{"--config", name}}); c.Hostname != "a" {
		t.Error(c.Hostname)
	}
}

func TestSystemHostname(t *testing.T) {
	t.Parallel()
	fails := func() (string, error) { return "", errors.New("no such thing") }
	if c := mustLoad(t, sources{file: "hostname: \"\"\n"}); c.Hostname != "esx-01" {
		t.Error(c.Hostname)
	}
	if c := mustLoad(t, sources{args: []string{"--hostname=a"}, hostname: fails}); c.Hostname != "a" {
		t.Error(c.Hostname)
	}
	_, _, problems := load(t, sources{hostname: func() (string, error) { return "my_host", nil }})
	want := []string{`system's host name: hostname: "my_host" is not a host name (RFC 1123): each part between dots must have 1 to 63 letters, digits and inner hyphens; set hostname`}
	if !slices.Equal(problems, want) {
		t.Error(problems)
	}
	_, _, problems = load(t, sources{hostname: fails})
	if want := []string{"system's host name: hostname: no such thing; set hostname"}; !slices.Equal(problems, want) {
		t.Error(problems)
	}
	if _, _, err := config.Load(config.Source{Flags: parsedFlags(t), SystemHostname: os.Hostname}); err != nil {
		t.Error("with the real host name:", err)
	}
}

func TestFlagHelp(t *testing.T) {
	t.Parallel()
	usage := parsedFlags(t).FlagUsages()
	for _, want := range []string{
		"--listen host:port", `(default :8443)`, "[$ATTESTCSR_LISTEN]", "[$ATTESTCSR_CONFIG]", "--key-sizes bits,...", "(default 2048,3072,4096)", "(default 30m)", "(default 24h)",
	} {
		if !strings.Contains(usage, want) {
			t.Errorf("%q is missing in\n%s", want, usage)
		}
	}
	if strings.Contains(usage, "privileges") {
		t.Error("a mapping has no flag")
	}
}

// A setting with another value has another text, and no other setting has.
func TestTexts(t *testing.T) {
	t.Parallel()
	before := mustLoad(t, sources{}).Texts()
	after := mustLoad(t, sources{
		file: "auth:\n  users_file: u\n  privileges:\n    bob: []\n    alice: [SECURITY_MGMT]\n", args: []string{"--shutdown-timeout=1m30s"},
	}).Texts()
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			changed = append(changed, name)
		}
	}
	if want := []string{"auth.privileges", "auth.users_file", "shutdown_timeout"}; !slices.Equal(changed, want) || len(before) != len(after) {
		t.Errorf("changed are %v of %d, want %v of %d", changed, len(after), want, len(before))
	}
}

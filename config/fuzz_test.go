package config_test

import (
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/pflag"

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
		c, _, problems := load(t, sources{file: string(data)})
		if problems == nil {
			showsTheSame(t, c)
		}
		for _, line := range problems {
			if !strings.HasPrefix(line, "f:") && !strings.HasPrefix(line, "settings file: f ") && !strings.HasPrefix(line, "default: session.idle_timeout: ") {
				t.Errorf("a problem that does not name the file: %q", line)
			}
		}
	})
}

// showsTheSame checks that a config is shown as a file that gives the same config.
func showsTheSame(t *testing.T, c *config.Config) {
	t.Helper()
	again, _, problems := load(t, sources{file: show(t, c)})
	if problems != nil {
		t.Fatalf("what is shown does not load: %v\n%s", problems, show(t, c))
	}
	if !reflect.DeepEqual(settings(again), settings(c)) {
		t.Errorf("shown and loaded again:\n%+v\n%+v", settings(again), settings(c))
	}
}

// FuzzVariable gives a setting any text as an environment variable or as a flag:
// an error that names where it came from, or a config that shows as a file that
// gives the same config, and the same one whichever way it came.
func FuzzVariable(f *testing.F) {
	var names []string
	parsedFlags(f).VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "config" {
			names = append(names, flag.Name)
		}
	})
	for i := range names {
		for _, seed := range []string{"", "x", "1", "2048,3072", "10.0.0.0/8, ::1", "30m", ":8443", "true", "debug", "\xff", "a\nb", " ", ",", "2048,2048", "99999999999999999999", "-1s", "0x10", "\x00", "a: b", "[::1]:1", "'", "\u2028"} {
			f.Add(uint8(i), seed)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		name := names[int(which)%len(names)]
		variable := "ATTESTCSR_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		c, _, problems := load(t, sources{env: []string{variable + "=" + value}})
		byFlag, _, flagProblems := load(t, sources{args: []string{"--" + name + "=" + value}})
		if (problems == nil) != (flagProblems == nil) {
			t.Fatalf("as a variable: %v; as a flag: %v", problems, flagProblems)
		}
		if problems != nil {
			text, flagText := strings.Join(problems, ""), strings.Join(flagProblems, "")
			if !strings.Contains(text, variable) || !strings.Contains(flagText, "--"+name) || strings.ContainsFunc(text, unicode.IsControl) {
				t.Fatalf("%q and %q", problems, flagProblems)
			}
			return
		}
		if !reflect.DeepEqual(settings(c), settings(byFlag)) {
			t.Fatalf("as a variable\n%+v\nas a flag\n%+v", settings(c), settings(byFlag))
		}
		showsTheSame(t, c)
	})
}

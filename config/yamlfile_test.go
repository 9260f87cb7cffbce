package config_test

import (
	"strings"
	"testing"
)

// What is wrong with the settings file.
func TestFileProblems(t *testing.T) {
	t.Parallel()
	checkProblems(t, map[string]problemCase{
		"unknown key":         {sources{file: "listen: :1\nlisen: hunter2\n"}, []string{"f:2:1: \"lisen\": " + topLevel}},
		"unknown key odd":     {sources{file: "\"a\\eb\": 1\n"}, []string{`f:1:1: "a\x1bb": ` + topLevel}},
		"unknown key inside":  {sources{file: "tls:\n  cert: c\n"}, []string{`f:2:3: "tls.cert": is not a setting; allowed here: cert_file, key_file`}},
		"dotted key":          {sources{file: "tls.cert_file: c\n"}, []string{"f:1:1: \"tls.cert_file\": " + topLevel}},
		"duplicate key":       {sources{file: "listen: :1\nlog: {}\nlisten: :2\n"}, []string{`f:3:1: "listen": is set twice, first at f:1:1; remove one`}},
		"section is a string": {sources{file: "tls: on\n"}, []string{`f:1:6: tls: must be a mapping of keys to values, not a string`}},
		"the file is a list":  {sources{file: "- a\n"}, []string{`f:1:1: the file: must be a mapping of keys to values, not a list`}},
		"key is a list":       {sources{file: "? [a]\n: b\n"}, []string{"f:2:1: not YAML: found an invalid key for this map"}},
		"value missing":       {sources{file: "listen:\n"}, []string{"f:1:9: listen: must be a string (host:port), not nothing"}},
		"value is a bool":     {sources{file: "hostname: true\n"}, []string{"f:1:11: hostname: must be a string (name), not true or false"}},
		"value is a list":     {sources{file: "hostname: [a]\n"}, []string{"f:1:11: hostname: must be a string (name), not a list"}},
		"value is a block":    {sources{file: "hostname: |\n  a\n"}, []string{"f:1:11: hostname: must be a string (name), not a block of text"}},
		"alias": {sources{file: "data_dir: &a b\nhostname: *a\n"}, []string{
			"f:1:11: data_dir: must be a string (directory), " + notUsed,
			"f:2:11: hostname: must be a string (name), " + notUsed}},
		"tag":                 {sources{file: "hostname: !!str b\n"}, []string{"f:1:11: hostname: must be a string (name), " + notUsed}},
		"merge key":           {sources{file: "log: {level: info}\n<<: {listen: ':1'}\n"}, []string{"f:2:1: the file: a key must be a plain word or a number, " + notUsed}},
		"second document":     {sources{file: "listen: :1\n---\nlisten: :2\n"}, []string{`f:2:1: a second YAML document begins here; put all settings into one`}},
		"not YAML":            {sources{file: "listen: :1\nlog: [hunter2\n"}, []string{"f:2:6: not YAML: sequence end token ']' not found"}},
		"tab":                 {sources{file: "log:\n\tlevel: hunter2\n"}, []string{"f:2:1: not YAML: found character '\t' that cannot start any token"}},
		"not UTF-8":           {sources{file: "listen: :1\nhostname: \"a\xff\"\n"}, []string{`f:2: is not valid UTF-8`}},
		"too large":           {sources{file: strings.Repeat("# 345678\n", 1<<20/9+1)}, []string{`settings file: f is larger than 1048576 bytes`}},
		"file name":           {sources{args: []string{"--config=a\nb"}}, []string{`settings file: "a\nb" has a control character`}},
		"no file":             {sources{args: []string{"--config=/nonexistent/f"}}, []string{`settings file: open /nonexistent/f: no such file or directory`}},
		"file is a directory": {sources{args: []string{"--config=/"}}, []string{`settings file: read /: is a directory`}},
		"several at once": {
			sources{
				file: "listen: x\nlisen: y\nlog:\n  level: 3\n",
				env:  []string{"ATTESTCSR_KEY_SIZES=1"}, args: []string{"--ops-listen=z"},
			},
			[]string{
				`f:1:9: listen: "x" ` + address,
				"f:2:1: \"lisen\": " + topLevel,
				`f:4:10: log.level: must be a string (level), not a number`,
				`environment variable ATTESTCSR_KEY_SIZES: key_sizes: "1" ` + keySize,
				`flag --ops-listen: ops_listen: "z" ` + address,
			},
		},
	})
}

package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Every rule, with the whole line an operator sees.
func TestProblems(t *testing.T) {
	t.Parallel()
	const (
		address  = "is not host:port such as :8443, 127.0.0.1:8443 or [::1]:8443, the port 0 to 65535"
		labels   = "is not a host name (RFC 1123): each part between dots must have 1 to 63 letters, digits and inner hyphens"
		size     = "is not an RSA key size: multiples of 256 from 2048 to 8192 are allowed"
		cidr     = "is not an address or CIDR prefix such as 192.0.2.7, 10.0.0.0/8 or fd00::/8"
		session  = "is not a duration such as 90s, 30m or 1h30m, over 0 and at most 720h"
		topLevel = "is not a setting; allowed here: listen, ops_listen, data_dir, hostname, tls, auth, admin_password_file, session, key_sizes, trusted_proxies, key_pool, key_queue, limits, sealing, audit, log, shutdown_timeout, allow_core_dumps"
		memory   = `is not auto, off, a size such as 512KiB, 64MiB or 1GiB, from 32MiB to 1024GiB`
	)
	long := strings.Repeat("a", 63)
	for name, tc := range map[string]struct {
		in   sources
		want []string
	}{
		"listen without port":  {sources{file: "listen: localhost\n"}, []string{`f:1:9: listen: "localhost" ` + address}},
		"listen empty":         {sources{env: []string{"ATTESTCSR_LISTEN="}}, []string{`environment variable ATTESTCSR_LISTEN: listen: "" ` + address}},
		"listen named port":    {sources{args: []string{"--listen=:https"}}, []string{`flag --listen: listen: ":https" ` + address}},
		"listen port range":    {sources{args: []string{"--listen=:65536"}}, []string{`flag --listen: listen: ":65536" ` + address}},
		"listen port sign":     {sources{args: []string{"--listen=:+1"}}, []string{`flag --listen: listen: ":+1" ` + address}},
		"listen port zeros":    {sources{args: []string{"--listen=:08443"}}, []string{`flag --listen: listen: ":08443" ` + address}},
		"listen bare IPv6":     {sources{args: []string{"--listen=::1:8443"}}, []string{`flag --listen: listen: "::1:8443" ` + address}},
		"listen odd host":      {sources{args: []string{"--listen=a_b:1"}}, []string{`flag --listen: listen: "a_b" ` + labels}},
		"listen mistyped IPv4": {sources{args: []string{"--listen=10.0.0.300:1"}}, []string{`flag --listen: listen: "10.0.0.300" is not a host name (RFC 1123): its last part must not be a number`}},
		"listen is a number":   {sources{file: "listen: 8443\n"}, []string{`f:1:9: listen: must be a string (host:port), not a number`}},

		"ops_listen is listen": {sources{args: []string{"--ops-listen=:8443"}}, []string{
			`flag --ops-listen: ops_listen: ":8443" takes the port of listen, ":8443" (default); give them different ports, or leave ops_listen empty`}},
		"ops_listen within listen": {sources{file: "listen: 0.0.0.0:1\nops_listen: 127.0.0.1:1\n"}, []string{
			`f:2:1: ops_listen: "127.0.0.1:1" takes the port of listen, "0.0.0.0:1" (f:1:1); give them different ports, or leave ops_listen empty`}},

		"data_dir empty":    {sources{args: []string{"--data-dir="}}, []string{`flag --data-dir: data_dir: "" is not a file name of 1 to 4096 bytes`}},
		"file name long":    {sources{args: []string{"--data-dir=" + strings.Repeat("x", 4097)}}, []string{`flag --data-dir: data_dir: "` + strings.Repeat("x", 64) + `" is not a file name of 1 to 4096 bytes`}},
		"file name control": {sources{file: "admin_password_file: \"a\\nb\"\n"}, []string{`f:1:22: admin_password_file: "a\nb" has a control character`}},
		"file name NUL":     {sources{file: "admin_password_file: \"a\\0\"\n"}, []string{`f:1:22: admin_password_file: "a\x00" has a control character`}},
		"file name UTF-8":   {sources{args: []string{"--data-dir=\xff"}}, []string{`flag --data-dir: data_dir: "\xff" is not valid UTF-8`}},

		"hostname long":       {sources{args: []string{"--hostname=" + long + ".a"}}, []string{`flag --hostname: hostname: "` + long + `.a" is not a host name (RFC 1123): it must have 1 to 64 characters`}},
		"hostname long label": {sources{args: []string{"--hostname=" + long + "a"}}, []string{`flag --hostname: hostname: "` + long + `a" ` + labels}},
		"hostname dot":        {sources{args: []string{"--hostname=a.b."}}, []string{`flag --hostname: hostname: "a.b." ` + labels}},
		"hostname hyphen":     {sources{args: []string{"--hostname=-a"}}, []string{`flag --hostname: hostname: "-a" ` + labels}},
		"hostname not ASCII":  {sources{args: []string{"--hostname=bücher"}}, []string{`flag --hostname: hostname: "bücher" ` + labels}},
		"hostname is IPv4":    {sources{args: []string{"--hostname=10.0.0.1"}}, []string{`flag --hostname: hostname: "10.0.0.1" is not a host name (RFC 1123): its last part must not be a number`}},
		"hostname is IPv6":    {sources{args: []string{"--hostname=::1"}}, []string{`flag --hostname: hostname: "::1" ` + labels}},

		"certificate alone": {sources{env: []string{"ATTESTCSR_TLS_CERT_FILE=c"}}, []string{`environment variable ATTESTCSR_TLS_CERT_FILE: tls.cert_file: is set without tls.key_file; set both or neither`}},
		"key alone":         {sources{file: "tls:\n  key_file: k\n"}, []string{`f:2:3: tls.key_file: is set without tls.cert_file; set both or neither`}},

		"idle timeout zero":     {sources{args: []string{"--session-idle-timeout=0s"}}, []string{`flag --session-idle-timeout: session.idle_timeout: "0s" ` + session}},
		"idle timeout negative": {sources{file: "session: {idle_timeout: -1m}\n"}, []string{`f:1:25: session.idle_timeout: "-1m" ` + session}},
		"idle timeout unitless": {sources{file: "session:\n  idle_timeout: 30\n"}, []string{`f:2:17: session.idle_timeout: must be a string (duration), not a number`}},
		"lifetime too long":     {sources{args: []string{"--session-lifetime=721h"}}, []string{`flag --session-lifetime: session.lifetime: "721h" ` + session}},
		"lifetime overflow":     {sources{args: []string{"--session-lifetime=99999999h"}}, []string{`flag --session-lifetime: session.lifetime: "99999999h" ` + session}},
		"shutdown too long":     {sources{args: []string{"--shutdown-timeout=11m"}}, []string{`flag --shutdown-timeout: shutdown_timeout: "11m" is not a duration such as 90s, 30m or 1h30m, over 0 and at most 10m`}},
		"idle over lifetime":    {sources{file: "session:\n  lifetime: 10m\n"}, []string{`default: session.idle_timeout: 30m is longer than session.lifetime, 10m (f:2:3)`}},

		"key size odd":       {sources{file: "key_sizes: [2048, 2049]\n"}, []string{`f:1:19: key_sizes: "2049" ` + size}},
		"key sizes small":    {sources{file: "key_sizes:\n- 1024\n- 2048\n"}, []string{`f:2:3: key_sizes: "1024" ` + size}},
		"key size large":     {sources{args: []string{"--key-sizes=2048,8448"}}, []string{`flag --key-sizes: key_sizes: "8448" ` + size}},
		"key size hex":       {sources{file: "key_sizes: [2048, 0x1000]\n"}, []string{`f:1:19: key_sizes: "0x1000" ` + size}},
		"key size fraction":  {sources{file: "key_sizes: [2048.0]\n"}, []string{`f:1:13: key_sizes: must be a whole number (bits,...), not a fraction`}},
		"key size quoted":    {sources{file: "key_sizes: [2048, '4096']\n"}, []string{`f:1:19: key_sizes: must be a whole number (bits,...), not a string`}},
		"key size twice":     {sources{args: []string{"--key-sizes=2048,2048"}}, []string{`flag --key-sizes: key_sizes: "2048" is there twice`}},
		"key size gap":       {sources{args: []string{"--key-sizes=2048,,4096"}}, []string{`flag --key-sizes: key_sizes: "" ` + size}},
		"key sizes no 2048":  {sources{args: []string{"--key-sizes=4096"}}, []string{`flag --key-sizes: key_sizes: 2048 is missing: it is the size of a request that names none`}},
		"key sizes none":     {sources{file: "key_sizes: []\n"}, []string{`f:1:1: key_sizes: 2048 is missing: it is the size of a request that names none`}},
		"key sizes a scalar": {sources{file: "key_sizes: 2048\n"}, []string{`f:1:12: key_sizes: must be a list in [ ] or with one - on each line (bits,...), not a number`}},

		"proxy name":      {sources{file: "trusted_proxies: [proxy.example.com]\n"}, []string{`f:1:19: trusted_proxies: "proxy.example.com" ` + cidr}},
		"proxy zone":      {sources{args: []string{"--trusted-proxies=fe80::1%eth0"}}, []string{`flag --trusted-proxies: trusted_proxies: "fe80::1%eth0" ` + cidr}},
		"proxy host bits": {sources{args: []string{"--trusted-proxies=10.1.2.3/8"}}, []string{`flag --trusted-proxies: trusted_proxies: "10.1.2.3/8" has bits beyond its prefix length; write 10.0.0.0/8`}},
		"proxy mapped":    {sources{args: []string{"--trusted-proxies=::ffff:10.0.0.1"}}, []string{`flag --trusted-proxies: trusted_proxies: "::ffff:10.0.0.1" is an IPv4-mapped address; write it as plain IPv4`}},
		"proxy twice":     {sources{args: []string{"--trusted-proxies=10.0.0.1,10.0.0.1/32"}}, []string{`flag --trusted-proxies: trusted_proxies: "10.0.0.1/32" is there twice`}},

		"log level case": {sources{args: []string{"--log-level=INFO"}}, []string{`flag --log-level: log.level: "INFO" is not one of debug, info, warn, error`}},
		"pool size":      {sources{file: "key_pool:\n  targets: {8192: 1}\n"}, []string{"f:2:3: key_pool.targets: 8192 is not among key_sizes (default): nobody could ask for such a key"}},
		"pool odd size":  {sources{file: "key_pool:\n  targets: {x: 1}\n"}, []string{`f:2:13: key_pool.targets: "x" is not an RSA key size: multiples of 256 from 2048 to 8192 are allowed`}},
		"pool keys":      {sources{file: "key_pool:\n  targets: {2048: 0}\n"}, []string{`f:2:19: key_pool.targets.2048: "0" is not a whole number from 1 to 10000`}},
		"pool no number": {sources{file: "key_pool:\n  targets: {2048: many}\n"}, []string{"f:2:19: key_pool.targets.2048: must be a whole number (keys), not a string"}},
		"pool over max":  {sources{file: "key_pool:\n  targets: {2048: 9}\n  max: 8\n"}, []string{"f:2:3: key_pool.targets: 9 keys of 2048 bits are more than key_pool.max, 8 (f:3:3); lower the target or raise key_pool.max"}},
		"boolean":        {sources{file: "key_pool: {ready_when_warm: yes}\n"}, []string{"f:1:29: key_pool.ready_when_warm: must be true or false (true|false), not a string"}},
		"boolean text":   {sources{args: []string{"--key-pool-ready-when-warm=1"}}, []string{`flag --key-pool-ready-when-warm: key_pool.ready_when_warm: "1" is not true or false`}},
		"queue bound":    {sources{args: []string{"--key-queue-bound=0"}}, []string{`flag --key-queue-bound: key_queue.bound: "0" is not a whole number from 1 to 100000`}},
		"limit":          {sources{env: []string{"ATTESTCSR_LIMITS_CSRS=-1"}}, []string{`environment variable ATTESTCSR_LIMITS_CSRS: limits.csrs: "-1" is not a whole number from 1 to 10000000`}},
		"size":           {sources{env: []string{"ATTESTCSR_AUDIT_MAX_FILE_SIZE=64"}}, []string{`environment variable ATTESTCSR_AUDIT_MAX_FILE_SIZE: audit.max_file_size: "64" is not a size such as 512KiB, 64MiB or 1GiB, from 1MiB to 16GiB`}},
		"small size":     {sources{env: []string{"ATTESTCSR_AUDIT_MAX_FILE_SIZE=1023KiB"}}, []string{`environment variable ATTESTCSR_AUDIT_MAX_FILE_SIZE: audit.max_file_size: "1023KiB" is not a size such as 512KiB, 64MiB or 1GiB, from 1MiB to 16GiB`}},
		"large size":     {sources{env: []string{"ATTESTCSR_AUDIT_REFUSALS_MAX_SIZE=17GiB"}}, []string{`environment variable ATTESTCSR_AUDIT_REFUSALS_MAX_SIZE: audit.refusals_max_size: "17GiB" is not a size such as 512KiB, 64MiB or 1GiB, from 1MiB to 16GiB`}},
		"body limit":     {sources{args: []string{"--limits-body-bytes=65537"}}, []string{`flag --limits-body-bytes: limits.body_bytes: "65537" is not a whole number from 1024 to 65536`}},
		"header timeout": {sources{args: []string{"--limits-read-header-timeout=31s"}}, []string{`flag --limits-read-header-timeout: limits.read_header_timeout: 31s is longer than limits.read_timeout, 30s (default), which counts header and body`}},
		"memory":         {sources{args: []string{"--limits-memory=512MB"}}, []string{`flag --limits-memory: limits.memory: "512MB" ` + memory}},
		"memory bytes":   {sources{args: []string{"--limits-memory=536870912"}}, []string{`flag --limits-memory: limits.memory: "536870912" ` + memory}},
		"memory small":   {sources{args: []string{"--limits-memory=31MiB"}}, []string{`flag --limits-memory: limits.memory: "31MiB" ` + memory}},
		"memory large":   {sources{args: []string{"--limits-memory=1025GiB"}}, []string{`flag --limits-memory: limits.memory: "1025GiB" ` + memory}},
		"memory sign":    {sources{args: []string{"--limits-memory=-512MiB"}}, []string{`flag --limits-memory: limits.memory: "-512MiB" ` + memory}},
		"log format":     {sources{env: []string{"ATTESTCSR_LOG_FORMAT=xml"}}, []string{`environment variable ATTESTCSR_LOG_FORMAT: log.format: "xml" is not one of json, text`}},

		"privilege unknown":     {sources{file: "auth:\n  privileges:\n    al: [ROOT]\n"}, []string{`f:3:10: auth.privileges.al: "ROOT" is not a privilege: SECURITY_MGMT, policy_certificate:read, policy_certificate:crud are allowed`}},
		"privilege twice":       {sources{file: "auth: {privileges: {al: [SECURITY_MGMT, SECURITY_MGMT]}}\n"}, []string{`f:1:41: auth.privileges.al: "SECURITY_MGMT" is there twice`}},
		"privileges scalar":     {sources{file: "auth: {privileges: {al: SECURITY_MGMT}}\n"}, []string{`f:1:25: auth.privileges.al: must be a list in [ ] or with one - on each line (privileges), not a string`}},
		"privileges nothing":    {sources{file: "auth:\n  privileges:\n"}, []string{`f:2:3: auth.privileges: must be a mapping of keys to values, not nothing`}},
		"privileges user twice": {sources{file: "auth:\n  privileges:\n    al: []\n    al: []\n"}, []string{`f:4:5: auth.privileges.al: is there twice; first at f:3:5`}},
		"privileges user colon": {sources{file: "auth:\n  privileges:\n    \"a:b\": []\n"}, []string{`f:3:5: auth.privileges: "a:b" is not a user name of 1 to 255 bytes without a colon`}},

		"unknown key":         {sources{file: "listen: :1\nlisen: hunter2\n"}, []string{"f:2:1: lisen: " + topLevel}},
		"unknown key odd":     {sources{file: "\"a\\eb\": 1\n"}, []string{`f:1:1: "a\x1bb": ` + topLevel}},
		"unknown key inside":  {sources{file: "tls:\n  cert: c\n"}, []string{`f:2:3: tls.cert: is not a setting; allowed here: cert_file, key_file`}},
		"dotted key":          {sources{file: "tls.cert_file: c\n"}, []string{"f:1:1: tls.cert_file: " + topLevel}},
		"duplicate key":       {sources{file: "listen: :1\nlog: {}\nlisten: :2\n"}, []string{`f:3:1: listen: is there twice; first at f:1:1`}},
		"duplicate section":   {sources{file: "log: {level: info}\nlog: {format: json}\n"}, []string{`f:2:1: log: is there twice; first at f:1:1`}},
		"section is a string": {sources{file: "tls: on\n"}, []string{`f:1:1: tls: must be a mapping of keys to values, not a string`}},
		"the file is a list":  {sources{file: "- a\n"}, []string{`f: the file: must be a mapping of keys to values, not a list`}},
		"key is a list":       {sources{file: "? [a]\n: b\n"}, []string{"f:2:1: not YAML: found an invalid key for this map"}},
		"value missing":       {sources{file: "listen:\n"}, []string{"f:1:9: listen: must be a string (host:port), not nothing"}},
		"value is a bool":     {sources{file: "hostname: true\n"}, []string{"f:1:11: hostname: must be a string (name), not true or false"}},
		"value is a list":     {sources{file: "hostname: [a]\n"}, []string{"f:1:11: hostname: must be a string (name), not a list"}},
		"value is a block":    {sources{file: "hostname: |\n  a\n"}, []string{"f:1:11: hostname: must be a string (name), not a block of text"}},
		"anchor":              {sources{file: "hostname: &a b\n"}, []string{"f:1:11: hostname: must be a string (name), not an anchor, alias, tag or merge key, which are not used here"}},
		"alias": {sources{file: "data_dir: &a b\nhostname: *a\n"}, []string{
			"f:1:11: data_dir: must be a string (directory), not an anchor, alias, tag or merge key, which are not used here",
			"f:2:11: hostname: must be a string (name), not an anchor, alias, tag or merge key, which are not used here"}},
		"tag":                 {sources{file: "hostname: !!str b\n"}, []string{"f:1:11: hostname: must be a string (name), not an anchor, alias, tag or merge key, which are not used here"}},
		"merge key":           {sources{file: "log: {level: info}\n<<: {listen: ':1'}\n"}, []string{"f:2:1: the file: a key must be a plain word or a number, not an anchor, alias, tag or merge key, which are not used here"}},
		"second document":     {sources{file: "listen: :1\n---\nlisten: :2\n"}, []string{`f:2:1: a second document begins here; all settings must be in one`}},
		"directive":           {sources{file: "%YAML 1.2\n---\nlisten: :1\n"}, []string{`f:1:1: directives (%) are not used here`}},
		"not YAML":            {sources{file: "listen: :1\nlog: [hunter2\n"}, []string{"f:2:6: not YAML: sequence end token ']' not found"}},
		"tab":                 {sources{file: "log:\n\tlevel: hunter2\n"}, []string{"f:2:1: not YAML: found character '\t' that cannot start any token"}},
		"not UTF-8":           {sources{file: "listen: :1\nhostname: \"a\xff\"\n"}, []string{`f:2: is not valid UTF-8`}},
		"too large":           {sources{file: strings.Repeat("# 345678\n", 1<<20/9+1)}, []string{`settings file: f is larger than 1048576 bytes`}},
		"too many tokens":     {sources{file: "key_sizes: [" + strings.Repeat("1,", 50_000) + "]\n"}, []string{`f: is too long for a settings file: more than 50000 words and signs`}},
		"too many brackets":   {sources{file: "key_sizes: " + strings.Repeat("[", 100_000)}, []string{"f: is too long for a settings file: more than 50000 words and signs"}},
		"too deep":            {sources{file: "key_sizes: " + strings.Repeat("[", 1000)}, []string{`f:1:20: brackets and braces are nested too deep, more than 8 levels`}},
		"deep block":          {sources{file: strings.Repeat("- ", 5_000) + "a"}, []string{`f: the file: must be a mapping of keys to values, not a list`}},
		"no file":             {sources{args: []string{"--config=/nonexistent/f"}}, []string{`settings file: open /nonexistent/f: no such file or directory`}},
		"file is a directory": {sources{args: []string{"--config=/"}}, []string{`settings file: read /: is a directory`}},
		"several at once": {
			sources{
				file: "listen: x\nlisen: y\nlog:\n  level: 3\nsession:\n  lifetime: 1m\n",
				env:  []string{"ATTESTCSR_KEY_SIZES=1"}, args: []string{"--ops-listen=z"},
			},
			[]string{
				`f:1:9: listen: "x" ` + address,
				"f:2:1: lisen: " + topLevel,
				`f:4:10: log.level: must be a string (level), not a number`,
				`environment variable ATTESTCSR_KEY_SIZES: key_sizes: "1" ` + size,
				`flag --ops-listen: ops_listen: "z" ` + address,
				`default: session.idle_timeout: 30m is longer than session.lifetime, 1m (f:6:3)`,
			},
		},
		"wrong though overridden": {sources{file: "listen: x\n", args: []string{"--listen=:1"}}, []string{`f:1:9: listen: "x" ` + address}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, problems := load(t, tc.in)
			if strings.Contains(fmt.Sprint(problems), "hunter2") {
				t.Error("a value that may be a secret in the wrong place is quoted")
			}
			if !slices.Equal(problems, tc.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(problems, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}

// What the rules must let through.
func TestAccepted(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"any port twice":          {"--listen=:0", "--ops-listen=:0"},
		"same port, other host":   {"--listen=127.0.0.1:1", "--ops-listen=127.0.0.2:1"},
		"IPv6 with zone":          {"--listen=[fe80::1%eth0]:1"},
		"container's host name":   {"--hostname=407219385516"},
		"longest host name":       {"--hostname=" + strings.Repeat("a", 62) + ".b"},
		"digits within":           {"--hostname=10.0.0.com"},
		"idle timeout = lifetime": {"--session-idle-timeout=1h", "--session-lifetime=1h"},
		"longest durations":       {"--session-lifetime=720h", "--shutdown-timeout=10m"},
		"shortest duration":       {"--shutdown-timeout=1ns"},
		"key size bounds":         {"--key-sizes=2048,2304,8192"},
		"file name with spaces":   {"--data-dir=/srv/my data/größe"},
		"single proxies":          {"--trusted-proxies=10.0.0.1,fd00::1,10.0.0.0/31"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, warnings, problems := load(t, sources{args: args})
			if problems != nil || len(warnings) > 0 {
				t.Fatal(problems, warnings)
			}
			again, _, problems := load(t, sources{file: show(t, c)})
			if problems != nil || show(t, again) == "" {
				t.Error("what is shown does not load:", problems)
			}
		})
	}
}

func TestLongReportsAreCut(t *testing.T) {
	t.Parallel()
	_, _, problems := load(t, sources{file: "key_sizes: [2048, " + strings.TrimSuffix(strings.Repeat("1, ", 500), ", ") + "]\n"})
	if len(problems) != 51 || problems[50] != "and 450 more problems" {
		t.Errorf("%d lines, the last %q", len(problems), problems[len(problems)-1])
	}
	var proxies []string
	for i := range 257 {
		proxies = append(proxies, fmt.Sprintf("10.0.%d.%d", i/256, i%256))
	}
	_, _, problems = load(t, sources{args: []string{"--trusted-proxies=" + strings.Join(proxies, ",")}})
	if want := []string{`flag --trusted-proxies: trusted_proxies: "10.0.1.0" is one too many: at most 256 are allowed`}; !slices.Equal(problems, want) {
		t.Error(problems)
	}
}

package config_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

const (
	address  = "is not host:port such as :8443, 127.0.0.1:8443 or [::1]:8443, the port 0 to 65535"
	labels   = "is not a host name (RFC 1123): each part between dots must have 1 to 63 letters, digits and inner hyphens"
	number   = "is not a host name (RFC 1123): its last part must not be a number"
	keySize  = "is not an RSA key size: multiples of 256 from 2048 to 8192 are allowed"
	cidr     = "is not an address or CIDR prefix such as 192.0.2.7, 10.0.0.0/8 or fd00::/8"
	site     = "is not an origin such as https://console.example.com or https://10.0.0.7:8443, in small letters and without a path"
	duration = "is not a duration such as 90s, 30m or 1h30m, over 0 and at most "
	fileSize = "is not a size such as 512KiB, 64MiB or 1GiB, from 1MiB to 16GiB"
	memory   = "is not auto, off or a size such as 512MiB or 1GiB, from 32MiB to 1024GiB"
	topLevel = "is not a setting; allowed here: listen, ops_listen, data_dir, allow_shared_data_dir, hostname, tls, auth, admin_password_file, session, key_sizes, trusted_proxies, allowed_origins, key_pool, key_queue, limits, trust, certificate, publish, console, signing, signer, sealing, audit, log, shutdown_timeout, lock_wait, allow_core_dumps"
	notUsed  = "not an anchor, alias, tag or merge key, which are not used here"
)

// What single settings refuse, with the whole line that an operator sees.
func TestRefusedValues(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	for _, tc := range []struct {
		key, problem string
		values       []string
	}{
		{"listen", address, []string{"", "localhost", ":https", ":65536", ":+1", ":08443", "::1:8443"}},
		{"data_dir", "is not a file name of 1 to 4096 bytes", []string{""}},
		{"data_dir", "has a control character", []string{"a\nb", "a\x00"}},
		{"data_dir", "is not valid UTF-8", []string{"\xff"}},
		{"hostname", labels, []string{long + "a", "a.b.", "-a", "bücher", "::1"}},
		{"hostname", "is not a host name (RFC 1123): it must have 1 to 64 characters", []string{long + ".a"}},
		{"hostname", number, []string{"10.0.0.1"}},
		{"session.idle_timeout", duration + "720h", []string{"0s", "-1m", "30", "721h", "99999999h"}},
		{"shutdown_timeout", duration + "10m", []string{"11m"}},
		{"lock_wait", "is not a duration such as 90s, 30m or 1h30m, not under 0 and at most 10m", []string{"-1s", "11m", "30"}},
		{"key_sizes", keySize, []string{"1024", "2049", "8448", "0x1000"}},
		{"trusted_proxies", cidr, []string{"proxy.example.com", "fe80::1%eth0"}},
		{"trusted_proxies", "has bits beyond its prefix length; write 10.0.0.0/8", []string{"10.1.2.3/8"}},
		{"trusted_proxies", "is an IPv4-mapped address; write it as plain IPv4", []string{"::ffff:10.0.0.1"}},
		{"allowed_origins", site, []string{"console.example.com", "https://", "https://a/", "https://A", "HTTPS://a", "https://u@a", "https://a?x", "https://a:", "https://a:x", "https://[::1", "null", "*", "ftp://a", "https://*.a b"}},
		{"allowed_origins", "has the port that https has anyway: browsers leave it out, and so does an origin", []string{"https://a:443"}},
		{"log.level", "is not one of debug, info, warn, error", []string{"INFO"}},
		{"log.format", "is not one of json, text", []string{"xml"}},
		{"certificate.names", "is not one of strict, warn, any", []string{"", "Strict"}},
		{"certificate.activate_after", "is not a duration such as 90s, 30m or 1h30m, not under 0 and at most 720h", []string{"-1s", "721h", "1d"}},
		{"publish.max_age", duration + "24h", []string{"0s", "25h"}},
		{"publish.retain", "is not a duration such as 90s, 30m or 1h30m, not under 0 and at most 8760h", []string{"-1s", "8761h"}},
		{"publish.issuer", "is not an issuer such as https://attest.example.com, without query and without a slash at its end",
			[]string{"attest.example.com", "http://a", "https://", "https://a/", "https://a?b", "https://a#", "https://u@a", "https://a/ b", "HTTPS://a"}},
		{"publish.alg", "is not one of RS256, RS384, RS512, PS256, PS384, PS512", []string{"ES256", "rs256", "none", "HS256"}},
		{"publish.nsx", "is not an id of 1 to 1024 bytes", []string{".", ".."}},
		{"signer.socket", "has a control character", []string{"a\nb"}},
		{"signing.rate", "is not a whole number from 1 to 1000000", []string{"0", "-1", "1000001", "0.5"}},
		{"key_pool.ready_when_warm", "is not true or false", []string{"1"}},
		{"key_queue.bound", "is not a whole number from 1 to 100000", []string{"0", "-1", "100001", "0x10"}},
		{"limits.body_bytes", "is not a whole number from 1024 to 65536", []string{"65537"}},
		{"audit.max_file_size", fileSize, []string{"64", "1023KiB", "17GiB", "9999999999999999GiB"}},
		{"limits.memory", memory, []string{"512MB", "536870912", "31MiB", "1025GiB", "-512MiB"}},
	} {
		for _, value := range tc.values {
			t.Run(tc.key+"="+value, func(t *testing.T) {
				t.Parallel()
				flag := "--" + strings.NewReplacer(".", "-", "_", "-").Replace(tc.key)
				_, _, problems := load(t, sources{args: []string{flag + "=" + value}})
				if want := fmt.Sprintf("flag %s: %s: %q %s", flag, tc.key, value, tc.problem); !slices.Equal(problems, []string{want}) {
					t.Errorf("got  %q\nwant %q", problems, want)
				}
			})
		}
	}
}

// What is wrong with files, lists and mappings, and what rules between settings
// refuse, with the whole lines that an operator sees.
func TestProblems(t *testing.T) {
	t.Parallel()
	proxies := "10.1.0.0"
	for i := range 256 {
		proxies += fmt.Sprintf(",10.0.0.%d", i)
	}
	checkProblems(t, map[string]problemCase{
		"listen odd host":      {sources{args: []string{"--listen=a_b:1"}}, []string{`flag --listen: listen: "a_b" ` + labels}},
		"listen mistyped IPv4": {sources{args: []string{"--listen=10.0.0.300:1"}}, []string{`flag --listen: listen: "10.0.0.300" ` + number}},
		"ops_listen is listen": {sources{args: []string{"--ops-listen=:8443"}}, []string{
			`flag --ops-listen: ops_listen: ":8443" needs the same port as listen, ":8443" (default); give them different ports, or leave ops_listen empty`}},
		"ops_listen within listen": {sources{file: "listen: 0.0.0.0:1\nops_listen: 127.0.0.1:1\n"}, []string{
			`f:2:1: ops_listen: "127.0.0.1:1" needs the same port as listen, "0.0.0.0:1" (f:1:1); give them different ports, or leave ops_listen empty`}},
		"file name long":    {sources{args: []string{"--data-dir=" + strings.Repeat("x", 4097)}}, []string{`flag --data-dir: data_dir: "` + strings.Repeat("x", 64) + `" is not a file name of 1 to 4096 bytes`}},
		"file name control": {sources{file: "admin_password_file: \"a\\0\"\n"}, []string{`f:1:22: admin_password_file: "a\x00" has a control character`}},
		"certificate alone": {sources{env: []string{"ATTESTCSR_TLS_CERT_FILE=c"}}, []string{`environment variable ATTESTCSR_TLS_CERT_FILE: tls.cert_file: is set without tls.key_file; set both or neither`}},
		"key alone":         {sources{file: "tls:\n  key_file: k\n"}, []string{`f:2:3: tls.key_file: is set without tls.cert_file; set both or neither`}},
		"idle over lifetime": {sources{file: "session:\n  lifetime: 10m\n"}, []string{
			`default: session.idle_timeout: 30m is longer than session.lifetime, 10m (f:2:3); make it at most as long`}},
		"header timeout": {sources{args: []string{"--limits-read-header-timeout=31s"}}, []string{
			`flag --limits-read-header-timeout: limits.read_header_timeout: 31s is longer than limits.read_timeout, 30s (default); make it at most as long`}},

		"activation unpublished": {sources{file: "certificate: {activate_after: 1h}\n", args: []string{"--publish-enabled=false"}}, []string{
			`f:1:15: certificate.activate_after: 1h is for keys that are published before they sign, and publish.enabled is false (flag --publish-enabled); set that to true, or this to 0s`}},
		"activation too soon": {sources{args: []string{"--certificate-activate-after=4m59s"}}, []string{
			`flag --certificate-activate-after: certificate.activate_after: 4m59s is shorter than publish.max_age, 5m (default), for which verifiers may not know a new key; make it at least as long, or 0s`}},

		"key sizes in a list": {sources{file: "key_sizes:\n- 1024\n- 2048\n- 2049\n"}, []string{`f:2:3: key_sizes: "1024" ` + keySize, `f:4:3: key_sizes: "2049" ` + keySize}},
		"key size fraction":   {sources{file: "key_sizes: [2048.0]\n"}, []string{`f:1:13: key_sizes: must be a whole number (bits,...), not a fraction`}},
		"key size quoted":     {sources{file: "key_sizes: [2048, '4096']\n"}, []string{`f:1:19: key_sizes: must be a whole number (bits,...), not a string`}},
		"key size twice":      {sources{args: []string{"--key-sizes=2048,2048"}}, []string{`flag --key-sizes: key_sizes: "2048" is listed twice`}},
		"key size gap":        {sources{args: []string{"--key-sizes=2048,,4096"}}, []string{`flag --key-sizes: key_sizes: "" ` + keySize}},
		"key sizes none":      {sources{file: "key_sizes: []\n"}, []string{`f:1:1: key_sizes: 2048 is missing; add it, since requests that name no size get it`}},
		"key sizes a number":  {sources{file: "key_sizes: 2048\n"}, []string{`f:1:12: key_sizes: must be a list in [ ] or with one - on each line (bits,...), not a number`}},
		"proxy twice":         {sources{args: []string{"--trusted-proxies=10.0.0.1,10.0.0.1/32"}}, []string{`flag --trusted-proxies: trusted_proxies: "10.0.0.1/32" is listed twice`}},
		"too many proxies":    {sources{args: []string{"--trusted-proxies=" + proxies}}, []string{`flag --trusted-proxies: trusted_proxies: "10.0.0.255" is one too many: at most 256 are allowed`}},

		"pool size": {sources{file: "key_pool:\n  targets: {8192: 1}\n"}, []string{
			"f:2:3: key_pool.targets: 8192 is not among key_sizes (default), so that nobody can ask for such a key; add it there or remove it here"}},
		"pool odd size":  {sources{file: "key_pool:\n  targets: {x: 1}\n"}, []string{`f:2:13: key_pool.targets: "x" ` + keySize}},
		"pool keys":      {sources{file: "key_pool:\n  targets: {2048: 0}\n"}, []string{`f:2:19: key_pool.targets.2048: "0" is not a whole number from 1 to 10000`}},
		"pool no number": {sources{file: "key_pool:\n  targets: {2048: many}\n"}, []string{"f:2:19: key_pool.targets.2048: must be a whole number (keys), not a string"}},
		"pool over max": {sources{file: "key_pool:\n  targets: {2048: 9}\n  max: 8\n"}, []string{
			"f:2:3: key_pool.targets: 9 keys of 2048 bits are more than key_pool.max, 8 (f:3:3); lower the target or raise key_pool.max"}},
		"boolean": {sources{file: "key_pool: {ready_when_warm: yes}\n"}, []string{"f:1:29: key_pool.ready_when_warm: must be true or false (true|false), not a string"}},

		"privilege unknown":     {sources{file: "auth:\n  privileges:\n    al: [ROOT]\n"}, []string{`f:3:10: auth.privileges.al: "ROOT" is not a privilege: SECURITY_MGMT, SECURITY_READ, policy_certificate:read, policy_certificate:crud are allowed`}},
		"privilege twice":       {sources{file: "auth: {privileges: {al: [SECURITY_MGMT, SECURITY_MGMT]}}\n"}, []string{`f:1:41: auth.privileges.al: "SECURITY_MGMT" is listed twice`}},
		"privileges scalar":     {sources{file: "auth: {privileges: {al: SECURITY_MGMT}}\n"}, []string{`f:1:25: auth.privileges.al: must be a list in [ ] or with one - on each line (privileges), not a string`}},
		"privileges nothing":    {sources{file: "auth:\n  privileges:\n"}, []string{`f:2:15: auth.privileges: must be a mapping of keys to values, not nothing`}},
		"privileges user twice": {sources{file: "auth:\n  privileges:\n    al: []\n    al: []\n"}, []string{`f:4:5: "auth.privileges.al": is set twice, first at f:3:5; remove one`}},
		"privileges user colon": {sources{file: "auth:\n  privileges:\n    \"a:b\": []\n"}, []string{`f:3:5: auth.privileges: "a:b" is not a user name of 1 to 255 bytes without a colon`}},
		"signer path long":      {sources{args: []string{"--signer-socket=" + strings.Repeat("x", 108)}}, []string{`flag --signer-socket: signer.socket: "` + strings.Repeat("x", 64) + `" is not a file name of 1 to 107 bytes, which is what the path of a socket may have`}},
		"signer nobody":         {sources{file: "signer: {allow: {alice: [attestation]}}\n"}, []string{`f:1:18: signer.allow: "alice" is not uid:N or gid:N with the number of a user or group (id NAME shows them)`}},
		"signer no user": {sources{file: "signer:\n  allow:\n    uid:4294967295: []\n    uid:-1: []\n    gid:01: []\n"}, []string{
			`f:3:5: signer.allow: "uid:4294967295" is not uid:N or gid:N with the number of a user or group (id NAME shows them)`,
			`f:4:5: signer.allow: "uid:-1" is not uid:N or gid:N with the number of a user or group (id NAME shows them)`,
			`f:5:5: signer.allow: "gid:01" is not uid:N or gid:N with the number of a user or group (id NAME shows them)`}},
		"signer keys": {sources{file: "signer: {allow: {'uid:1': [nsx-, pending]}}\n"}, []string{
			`f:1:28: signer.allow.uid:1: "nsx-" is not a key: attestation and nsx-ID, with the id of an NSX certificate, are allowed`,
			`f:1:34: signer.allow.uid:1: "pending" is not a key: attestation and nsx-ID, with the id of an NSX certificate, are allowed`}},
		"wrong though overridden": {sources{file: "listen: x\n", args: []string{"--listen=:1"}}, []string{`f:1:9: listen: "x" ` + address}},
	})
}

type problemCase struct {
	in   sources
	want []string
}

func checkProblems(t *testing.T, cases map[string]problemCase) {
	t.Helper()
	for name, tc := range cases {
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
			showsTheSame(t, c)
		})
	}
}

// The default targets follow key_sizes and key_pool.max; an empty mapping turns
// the pool off.
func TestPoolTargets(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   sources
		want map[int]int
	}{
		"fewer sizes":  {sources{args: []string{"--key-sizes=2048,4096"}}, map[int]int{2048: 32, 4096: 4}},
		"other sizes":  {sources{args: []string{"--key-sizes=2048,8192"}}, map[int]int{2048: 32}},
		"smaller pool": {sources{args: []string{"--key-pool-max=8"}}, map[int]int{2048: 8, 3072: 4, 4096: 4}},
		"by variable":  {sources{env: []string{"ATTESTCSR_KEY_POOL_MAX=1"}}, map[int]int{2048: 1, 3072: 1, 4096: 1}},
		"off":          {sources{file: "key_pool:\n  targets: {}\n"}, map[int]int{}},
		"one size":     {sources{file: "key_pool:\n  targets: {4096: 2}\n"}, map[int]int{4096: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := mustLoad(t, tc.in).KeyPool.Targets; !maps.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

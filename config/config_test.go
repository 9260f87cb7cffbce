package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"attestcsr/config"
)

// privileges are the names these tests allow in auth.privileges.
var privileges = []string{"SECURITY_MGMT", "SECURITY_READ", "policy_certificate:read", "policy_certificate:crud"}

// sources is what one test case gives to Load: the text of a file (none when
// empty), the environment and the command line.
type sources struct {
	file     string
	env      []string
	args     []string
	hostname func() (string, error) // nil: "esx-01"
}

// load runs Load and cuts the directory of the file, whose name is f, out of the
// problems and warnings.
func load(t *testing.T, in sources) (c *config.Config, warnings, problems []string) {
	t.Helper()
	src := config.Source{Env: in.env, Flags: parsedFlags(t, in.args...), Privileges: privileges, SystemHostname: in.hostname}
	if in.hostname == nil {
		src.SystemHostname = func() (string, error) { return "esx-01", nil }
	}
	dir := t.TempDir()
	if in.file != "" {
		name := filepath.Join(dir, "f")
		src.Env = append(slices.Clone(in.env), "ATTESTCSR_CONFIG="+name)
		if err := os.WriteFile(name, []byte(in.file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, warnings, err := config.Load(src)
	if (err == nil) != (c != nil) {
		t.Fatalf("config %v with error %v: exactly one must be there", c, err)
	}
	if err != nil {
		problems = strings.Split(strings.ReplaceAll(err.Error(), dir+"/", ""), "\n")
	}
	for i := range warnings {
		warnings[i] = strings.ReplaceAll(warnings[i], dir+"/", "")
	}
	return c, warnings, problems
}

// mustLoad is for settings that are right.
func mustLoad(t *testing.T, in sources) *config.Config {
	t.Helper()
	c, _, problems := load(t, in)
	if problems != nil {
		t.Fatal(problems)
	}
	return c
}

func parsedFlags(t testing.TB, args ...string) *pflag.FlagSet {
	t.Helper()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	config.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

// settings strips what is no setting, so that two configurations compare by value.
func settings(c *config.Config) config.Config {
	var out config.Config
	from, to := reflect.ValueOf(c).Elem(), reflect.ValueOf(&out).Elem()
	for i := range from.NumField() {
		if from.Type().Field(i).IsExported() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return out
}

const everything = `---
# every setting, none at its default
listen: "[::1]:9443"
ops_listen: localhost:9100
data_dir: /srv/attestcsr
allow_shared_data_dir: true
hostname: ESX-02.example.com
tls:
  cert_file: tls.crt
  key_file: 'tls.key'
auth:
  users_file: users
  privileges:
    alice: [SECURITY_MGMT]
    bob:
    - policy_certificate:read
    - "policy_certificate:crud"
    carol: []
admin_password_file: admin password
session: {idle_timeout: 90s, lifetime: 1h30m}
key_sizes: [3072, 2048, 8192]
trusted_proxies:
  - 10.0.0.0/8
  - 192.0.2.7
  - fd00::/8
allowed_origins: [https://console.example.com, "http://[::1]:8080"]
key_pool:
  targets: {2048: 512, 8192: 1}
  max: 600
  ready_when_warm: true
key_queue: {bound: 8, deadline: 5s}
limits:
  csrs: 7
  certificates: 8
  connections: 100
  connections_per_address: 10
  header_bytes: 8192
  body_bytes: 4096
  read_header_timeout: 3s
  read_timeout: 4s
  write_timeout: 10s
  idle_timeout: 20s
  sessions: 9
  sessions_per_user: 6
  memory: 512MiB
audit: {max_file_size: 1536KiB, refusals_max_size: 2GiB, signatures_max_size: 3GiB, outbox_bound: 12, copy_to_log: true}
trust: {anchors_file: anchors.pem}
certificate: {names: strict, activate_after: 2h}
publish: {max_age: 10m, retain: 48h, issuer: https://attest.example.com/a, alg: PS256, nsx: [a b, "ü"]}
console: {enabled: false}
signing: {rate: 7}
signer: {socket: /run/attestcsr/signer.sock, allow: {"uid:1000": [attestation, nsx-a b], "gid:50": []}}
sealing:
  keyset_file: /run/secrets/keyset
log:
  level: debug
  format: text
shutdown_timeout: 1m
lock_wait: 30s
allow_core_dumps: true
`

func everythingSettings() config.Config {
	return config.Config{
		Listen: "[::1]:9443", OpsListen: "localhost:9100", DataDir: "/srv/attestcsr", AllowSharedDataDir: true, Hostname: "ESX-02.example.com",
		TLS: config.TLS{CertFile: "tls.crt", KeyFile: "tls.key"},
		Auth: config.Auth{UsersFile: "users", Privileges: map[string][]string{
			"alice": {"SECURITY_MGMT"},
			"bob":   {"policy_certificate:read", "policy_certificate:crud"},
			"carol": nil,
		}},
		AdminPasswordFile: "admin password",
		Session:           config.Session{IdleTimeout: 90 * time.Second, Lifetime: 90 * time.Minute},
		KeySizes:          []int{3072, 2048, 8192},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"),
			netip.MustParsePrefix("fd00::/8")},
		AllowedOrigins: []string{"https://console.example.com", "http://[::1]:8080"},
		KeyPool:        config.KeyPool{Targets: map[int]int{2048: 512, 8192: 1}, Max: 600, ReadyWhenWarm: true},
		KeyQueue:       config.KeyQueue{Bound: 8, Deadline: 5 * time.Second},
		Limits: config.Limits{CSRs: 7, Certificates: 8, Connections: 100, ConnectionsPerAddress: 10, HeaderBytes: 8192, BodyBytes: 4096,
			ReadHeaderTimeout: 3 * time.Second, ReadTimeout: 4 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 20 * time.Second,
			Sessions: 9, SessionsPerUser: 6, Memory: 512 << 20},
		Audit:       config.Audit{MaxFileSize: 1536 << 10, MaxRefusalsSize: 2 << 30, MaxSignaturesSize: 3 << 30, OutboxBound: 12, CopyToLog: true},
		Trust:       config.Trust{AnchorsFile: "anchors.pem"},
		Certificate: config.Certificate{Names: "strict", ActivateAfter: 2 * time.Hour},
		Publish: config.Publish{Enabled: true, MaxAge: 10 * time.Minute, Retain: 48 * time.Hour, Issuer: "https://attest.example.com/a", Alg: "PS256",
			NSX: []string{"a b", "ü"}},
		Signing:         config.Signing{Rate: 7},
		Signer:          config.Signer{Socket: "/run/attestcsr/signer.sock", Allow: map[string][]string{"uid:1000": {"attestation", "nsx-a b"}, "gid:50": nil}},
		Sealing:         config.Sealing{KeysetFile: "/run/secrets/keyset"},
		Log:             config.Log{Level: "debug", Format: "text"},
		ShutdownTimeout: time.Minute,
		LockWait:        30 * time.Second,
		AllowCoreDumps:  true,
	}
}

// Every setting can be set from every source that can hold it.
func TestSources(t *testing.T) {
	t.Parallel()
	flat := []struct{ name, value string }{
		{"listen", "[::1]:9443"}, {"ops-listen", "localhost:9100"}, {"data-dir", "/srv/attestcsr"},
		{"hostname", "ESX-02.example.com"}, {"tls-cert-file", "tls.crt"}, {"tls-key-file", "tls.key"},
		{"auth-users-file", "users"}, {"admin-password-file", "admin password"}, {"session-idle-timeout", "90s"},
		{"session-lifetime", "1h30m"}, {"key-sizes", "3072, 2048,8192"}, {"trusted-proxies", "10.0.0.0/8,192.0.2.7,fd00::/8"},
		{"allowed-origins", "https://console.example.com,http://[::1]:8080"},
		{"sealing-keyset-file", "/run/secrets/keyset"}, {"log-level", "debug"}, {"log-format", "text"}, {"shutdown-timeout", "1m"}, {"lock-wait", "30s"},
		{"key-pool-max", "600"}, {"key-pool-ready-when-warm", "true"}, {"key-queue-bound", "8"}, {"key-queue-deadline", "5s"}, {"limits-csrs", "7"},
		{"trust-anchors-file", "anchors.pem"}, {"certificate-names", "strict"}, {"certificate-activate-after", "2h"},
		{"publish-enabled", "true"}, {"publish-max-age", "10m"}, {"publish-retain", "48h"}, {"publish-issuer", "https://attest.example.com/a"},
		{"publish-alg", "PS256"}, {"publish-nsx", "a b, ü"}, {"console-enabled", "false"}, {"signing-rate", "7"}, {"signer-socket", "/run/attestcsr/signer.sock"},
		{"allow-core-dumps", "true"}, {"allow-shared-data-dir", "true"},
		{"audit-max-file-size", "1536KiB"}, {"audit-refusals-max-size", "2GiB"}, {"audit-signatures-max-size", "3GiB"}, {"audit-outbox-bound", "12"}, {"audit-copy-to-log", "true"},
		{"limits-certificates", "8"}, {"limits-connections", "100"}, {"limits-connections-per-address", "10"},
		{"limits-header-bytes", "8192"}, {"limits-body-bytes", "4096"}, {"limits-read-header-timeout", "3s"}, {"limits-read-timeout", "4s"},
		{"limits-write-timeout", "10s"}, {"limits-idle-timeout", "20s"}, {"limits-sessions", "9"}, {"limits-sessions-per-user", "6"}, {"limits-memory", "512MiB"},
	}
	var env, args []string
	for _, s := range flat {
		env = append(env, "ATTESTCSR_"+strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))+"="+s.value)
		args = append(args, "--"+s.name+"="+s.value)
	}
	const onlyFile = "auth:\n  privileges:\n    alice: [SECURITY_MGMT]\n    bob: [\"policy_certificate:read\", policy_certificate:crud]\n    carol: []\n" +
		"key_pool:\n  targets:\n    2048: 512\n    8192: 1\n" + "signer:\n  allow:\n    uid:1000: [attestation, nsx-a b]\n    gid:50: []\n"
	defaults := settings(mustLoad(t, sources{})) // TestShow has them one by one
	for name, tc := range map[string]struct {
		in   sources
		want config.Config
	}{
		"empty file":      {sources{file: "# nothing\n"}, defaults},
		"empty sections":  {sources{file: "tls:\nlog:\n  # level: debug\nauth: {}\n"}, defaults},
		"byte order mark": {sources{file: "\ufefflisten: :8443\r\n\r\nlog:\r\n  level: info\r\n"}, defaults},
		"file":            {sources{file: everything}, everythingSettings()},
		"environment":     {sources{file: onlyFile, env: env}, everythingSettings()},
		"flags":           {sources{file: onlyFile, args: args}, everythingSettings()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := settings(mustLoad(t, tc.in)); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
	t.Run("every flag is in this test and has a good name", func(t *testing.T) {
		t.Parallel()
		parsedFlags(t).VisitAll(func(f *pflag.Flag) {
			if f.Name != "config" && !slices.ContainsFunc(flat, func(s struct{ name, value string }) bool { return s.name == f.Name }) {
				t.Errorf("--%s is not tried", f.Name)
			}
			// Beside a Service named attestcsr, Kubernetes sets ATTESTCSR_PORT… and
			// ATTESTCSR_SERVICE_… in pods: a setting of such a name would take them.
			if strings.HasPrefix(f.Name, "port") || strings.HasPrefix(f.Name, "service-") {
				t.Errorf("--%s is a reserved name", f.Name)
			}
		})
	})
}

const anyMember = ": X-Forwarded-For is believed, so any member of that network can name any client, " +
	"and throttling, limits and the audit trail name whom it likes; list the addresses of the proxies"

func TestWarnings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   sources
		want []string
	}{
		"unknown variables, one line, no values": {
			sources{env: []string{"ATTESTCSR_SERVICE_HOST=10.0.0.1", "ATTESTCSR_PASSWORD=hunter2", "OTHER=1", "ATTESTCSR_CONFIG=", "ATTESTCSR_X\x1b[1m=1"}},
			[]string{"environment variables that are no settings are ignored: ATTESTCSR_PASSWORD, ATTESTCSR_SERVICE_HOST"},
		},
		"mapping in a variable": {
			sources{env: []string{"ATTESTCSR_AUTH_PRIVILEGES=x"}},
			[]string{"environment variable ATTESTCSR_AUTH_PRIVILEGES is ignored: auth.privileges is a mapping of users to lists of privileges, which only the file can hold"},
		},
		"nobody may use the signer": {
			sources{args: []string{"--signer-socket=s"}},
			[]string{"flag --signer-socket: signer.socket: nobody may use it, since signer.allow (default) is empty"},
		},
		"admin password with users": {
			sources{file: "auth:\n  users_file: u\n", args: []string{"--admin-password-file=p"}},
			[]string{"flag --admin-password-file: admin_password_file: is ignored, since auth.users_file (f:2:3) replaces the built-in admin"},
		},
		"audit lines below the level of the log": {
			sources{file: "audit:\n  copy_to_log: true\n", args: []string{"--log-level=warn"}},
			[]string{"f:2:3: audit.copy_to_log: has no effect: lines are logged at level info, and log.level is warn (flag --log-level)"},
		},
		"wide networks of proxies": {
			sources{env: []string{"ATTESTCSR_TRUSTED_PROXIES=192.0.2.0/24,10.0.0.0/23,192.0.2.7,2001:db8::/64,::/0"}},
			[]string{
				"environment variable ATTESTCSR_TRUSTED_PROXIES: trusted_proxies: 10.0.0.0/23 is wider than a /24" + anyMember,
				"environment variable ATTESTCSR_TRUSTED_PROXIES: trusted_proxies: ::/0 is wider than a /64" + anyMember,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, warnings, problems := load(t, tc.in)
			if problems != nil || c == nil {
				t.Fatal(problems)
			}
			if !slices.Equal(warnings, tc.want) {
				t.Errorf("got %q", warnings)
			}
		})
	}
}

const shownDefaults = `listen: ":8443" # default
ops_listen: "" # default
data_dir: "./data" # default
allow_shared_data_dir: false # default
hostname: "esx-01" # system's host name
tls:
  cert_file: "" # default
  key_file: "" # default
auth:
  users_file: "" # default
  privileges: {} # default
admin_password_file: "" # default
session:
  idle_timeout: "30m" # default
  lifetime: "24h" # default
key_sizes: [2048, 3072, 4096] # default
trusted_proxies: [] # default
allowed_origins: [] # default
key_pool:
  targets: # default
    2048: 32
    3072: 4
    4096: 4
  max: 256 # default
  ready_when_warm: false # default
key_queue:
  bound: 256 # default
  deadline: "30s" # default
limits:
  csrs: 100000 # default
  certificates: 100000 # default
  connections: 2000 # default
  connections_per_address: 256 # default
  header_bytes: 32768 # default
  body_bytes: 65536 # default
  read_header_timeout: "10s" # default
  read_timeout: "30s" # default
  write_timeout: "30s" # default
  idle_timeout: "2m" # default
  sessions: 10000 # default
  sessions_per_user: 1000 # default
  memory: "auto" # default
trust:
  anchors_file: "" # default
certificate:
  names: "warn" # default
  activate_after: "0s" # default
publish:
  enabled: true # default
  max_age: "5m" # default
  retain: "24h" # default
  issuer: "" # default
  alg: "" # default
  nsx: [] # default
console:
  enabled: true # default
signing:
  rate: 50 # default
signer:
  socket: "" # default
  allow: {} # default
sealing:
  keyset_file: "" # default
audit:
  max_file_size: "64MiB" # default
  refusals_max_size: "64MiB" # default
  signatures_max_size: "1GiB" # default
  outbox_bound: 10000 # default
  copy_to_log: false # default
log:
  level: "info" # default
  format: "json" # default
shutdown_timeout: "20s" # default
lock_wait: "0s" # default
allow_core_dumps: false # default
`

func TestShow(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, sources{})
	if got := show(t, c); got != shownDefaults {
		t.Errorf("got\n%s", got)
	}
	if err := c.Show(failingWriter{}); !errors.Is(err, errWrite) {
		t.Error("a failed write is not returned:", err)
	}
}

// Each setting is shown with where it came from, as a file that loads as the same.
func TestShowOrigins(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, sources{
		file: "listen: :1\nauth:\n  users_file: \"\\\"u\\\" #1\"\n  privileges:\n    bob: []\n    alice: [SECURITY_MGMT]\n",
		env:  []string{"ATTESTCSR_LOG_LEVEL=warn"}, args: []string{"--shutdown-timeout=1m30s"},
	})
	shown := regexp.MustCompile(`/[^ ]*/f:`).ReplaceAllString(show(t, c), "FILE:")
	for _, want := range []string{
		"listen: \":1\" # FILE:1:1\n",
		"  users_file: \"\\\"u\\\" #1\" # FILE:3:3\n",
		"  privileges: # FILE:4:3\n    \"alice\": [\"SECURITY_MGMT\"]\n    \"bob\": []\n",
		"  level: \"warn\" # environment variable ATTESTCSR_LOG_LEVEL\n",
		"shutdown_timeout: \"1m30s\" # flag --shutdown-timeout\n",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is missing in\n%s", want, shown)
		}
	}
	showsTheSame(t, c)
}

// Nothing that a setting's file holds is shown.
func TestShowKeepsSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var args []string
	for _, name := range []string{"tls-cert-file", "tls-key-file", "auth-users-file", "admin-password-file", "sealing-keyset-file"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("hunter2 "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+name, file)
	}
	c := mustLoad(t, sources{args: args})
	for _, text := range []string{show(t, c), fmt.Sprintf("%+v", c)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a secret is shown:\n%s", text)
		}
	}
	if !strings.Contains(show(t, c), filepath.Join(dir, "tls-key-file")) {
		t.Error("the names of the files are not shown")
	}
}

func show(t *testing.T, c *config.Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := c.Show(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var errWrite = errors.New("disk full")

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errWrite }

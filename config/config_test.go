package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
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
var privileges = []string{"SECURITY_MGMT", "policy_certificate:read", "policy_certificate:crud"}

// sources is what one test case gives to Load: the text of a file (none when
// empty), the environment and the command line.
type sources struct {
	file     string
	env      []string
	args     []string
	hostname func() (string, error) // nil: "esx-01"
}

// load runs Load and cuts the name of the file out of its errors and warnings.
func load(t *testing.T, in sources) (*config.Config, []string, []string) {
	t.Helper()
	src := config.Source{Env: in.env, Privileges: privileges, SystemHostname: in.hostname}
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
	src.Flags = parsedFlags(t, in.args...)
	c, warnings, err := config.Load(src)
	if (err == nil) != (c != nil) {
		t.Fatalf("config %v with error %v: exactly one must be there", c, err)
	}
	var problems []string
	if err != nil {
		problems = strings.Split(strings.ReplaceAll(err.Error(), dir+"/", ""), "\n")
	}
	for i := range warnings {
		warnings[i] = strings.ReplaceAll(warnings[i], dir+"/", "")
	}
	return c, warnings, problems
}

func parsedFlags(t *testing.T, args ...string) *pflag.FlagSet {
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

func defaultSettings() config.Config {
	return config.Config{
		Listen:   ":8443",
		DataDir:  "./data",
		Hostname: "esx-01",
		Auth:     config.Auth{Privileges: map[string][]string{}},
		Session:  config.Session{IdleTimeout: 30 * time.Minute, Lifetime: 24 * time.Hour},
		KeySizes: []int{2048, 3072, 4096},
		KeyPool:  config.KeyPool{Targets: map[int]int{2048: 32, 3072: 4, 4096: 4}, Max: 256},
		KeyQueue: config.KeyQueue{Bound: 256, Deadline: 30 * time.Second},
		Limits: config.Limits{CSRs: 100_000, Certificates: 100_000, Connections: 2000, ConnectionsPerAddress: 256,
			HeaderBytes: 32768, BodyBytes: 65536, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
			WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, Sessions: 10_000, SessionsPerUser: 1_000, Memory: config.MemoryAuto},
		Audit:           config.Audit{MaxFileSize: 64 << 20, MaxRefusalsSize: 64 << 20, OutboxBound: 10_000},
		Log:             config.Log{Level: "info", Format: "json"},
		ShutdownTimeout: 20 * time.Second,
	}
}

const everything = `---
# every setting, none at its default
listen: "[::1]:9443"
ops_listen: localhost:9100
data_dir: /srv/attestcsr
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
audit: {max_file_size: 1536KiB, refusals_max_size: 2GiB, outbox_bound: 12, copy_to_log: true}
sealing:
  keyset_file: /run/secrets/keyset
log:
  level: debug
  format: text
shutdown_timeout: 1m
allow_core_dumps: true
`

func everythingSettings() config.Config {
	return config.Config{
		Listen: "[::1]:9443", OpsListen: "localhost:9100", DataDir: "/srv/attestcsr", Hostname: "ESX-02.example.com",
		TLS: config.TLS{CertFile: "tls.crt", KeyFile: "tls.key"},
		Auth: config.Auth{UsersFile: "users", Privileges: map[string][]string{
			"alice": {"SECURITY_MGMT"},
			"bob":   {"policy_certificate:read", "policy_certificate:crud"},
			"carol": {},
		}},
		AdminPasswordFile: "admin password",
		Session:           config.Session{IdleTimeout: 90 * time.Second, Lifetime: 90 * time.Minute},
		KeySizes:          []int{3072, 2048, 8192},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"),
			netip.MustParsePrefix("fd00::/8")},
		KeyPool:  config.KeyPool{Targets: map[int]int{2048: 512, 8192: 1}, Max: 600, ReadyWhenWarm: true},
		KeyQueue: config.KeyQueue{Bound: 8, Deadline: 5 * time.Second},
		Limits: config.Limits{CSRs: 7, Certificates: 8, Connections: 100, ConnectionsPerAddress: 10, HeaderBytes: 8192, BodyBytes: 4096,
			ReadHeaderTimeout: 3 * time.Second, ReadTimeout: 4 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 20 * time.Second,
			Sessions: 9, SessionsPerUser: 6, Memory: 512 << 20},
		Audit:           config.Audit{MaxFileSize: 1536 << 10, MaxRefusalsSize: 2 << 30, OutboxBound: 12, CopyToLog: true},
		Sealing:         config.Sealing{KeysetFile: "/run/secrets/keyset"},
		Log:             config.Log{Level: "debug", Format: "text"},
		ShutdownTimeout: time.Minute,
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
		{"sealing-keyset-file", "/run/secrets/keyset"}, {"log-level", "debug"}, {"log-format", "text"}, {"shutdown-timeout", "1m"},
		{"key-pool-max", "600"}, {"key-pool-ready-when-warm", "true"}, {"key-queue-bound", "8"}, {"key-queue-deadline", "5s"}, {"limits-csrs", "7"},
		{"allow-core-dumps", "true"},
		{"audit-max-file-size", "1536KiB"}, {"audit-refusals-max-size", "2GiB"}, {"audit-outbox-bound", "12"}, {"audit-copy-to-log", "true"},
		{"limits-certificates", "8"}, {"limits-connections", "100"}, {"limits-connections-per-address", "10"}, {"limits-header-bytes", "8192"}, {"limits-body-bytes", "4096"}, {"limits-read-header-timeout", "3s"}, {"limits-read-timeout", "4s"}, {"limits-write-timeout", "10s"}, {"limits-idle-timeout", "20s"}, {"limits-sessions", "9"}, {"limits-sessions-per-user", "6"}, {"limits-memory", "512MiB"},
	}
	var env, args []string
	for _, s := range flat {
		env = append(env, "ATTESTCSR_"+strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))+"="+s.value)
		args = append(args, "--"+s.name+"="+s.value)
	}
	const onlyFile = "auth:\n  privileges:\n    alice: [SECURITY_MGMT]\n    bob: [\"policy_certificate:read\", policy_certificate:crud]\n    carol: []\n" +
		"key_pool:\n  targets:\n    2048: 512\n    8192: 1\n"
	for name, tc := range map[string]struct {
		in   sources
		want config.Config
	}{
		"nothing":           {sources{}, defaultSettings()},
		"empty file":        {sources{file: "# nothing\n"}, defaultSettings()},
		"empty sections":    {sources{file: "tls:\nlog:\n  # level: debug\nauth: {}\n"}, defaultSettings()},
		"byte order mark":   {sources{file: "\ufefflisten: :8443\r\n\r\nlog:\r\n  level: info\r\n"}, defaultSettings()},
		"file":              {sources{file: everything}, everythingSettings()},
		"environment":       {sources{file: onlyFile, env: env}, everythingSettings()},
		"flags":             {sources{file: onlyFile, args: args}, everythingSettings()},
		"memory off":        {sources{file: "limits: {memory: \"off\"}\n"}, with(defaultSettings(), func(c *config.Config) { c.Limits.Memory = config.MemoryOff })},
		"memory":            {sources{args: []string{"--limits-memory=3072MiB"}}, with(defaultSettings(), func(c *config.Config) { c.Limits.Memory = 3 << 30 })},
		"memory odd":        {sources{args: []string{"--limits-memory=1025MiB"}}, with(defaultSettings(), func(c *config.Config) { c.Limits.Memory = 1025 << 20 })},
		"flags of defaults": {sources{file: everything, env: []string{"ATTESTCSR_HOSTNAME=a"}, args: []string{"--hostname=b"}}, with(everythingSettings(), func(c *config.Config) { c.Hostname = "b" })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, _, problems := load(t, tc.in)
			if problems != nil {
				t.Fatal(problems)
			}
			if got := settings(c); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
	t.Run("every flag is in this test", func(t *testing.T) {
		t.Parallel()
		parsedFlags(t).VisitAll(func(f *pflag.Flag) {
			if f.Name != "config" && !slices.ContainsFunc(flat, func(s struct{ name, value string }) bool { return s.name == f.Name }) {
				t.Errorf("--%s is not tried", f.Name)
			}
		})
	})
}

func with(c config.Config, change func(*config.Config)) config.Config {
	change(&c)
	return c
}

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
			c, _, problems := load(t, tc.in)
			if problems != nil {
				t.Fatal(problems)
			}
			if c.Listen != tc.listen || !slices.Equal(c.KeySizes, tc.sizes) || len(c.TrustedProxies) != tc.proxies {
				t.Errorf("got %s %v %v", c.Listen, c.KeySizes, c.TrustedProxies)
			}
		})
	}
}

func TestConfigFileFrom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"flag", "env"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("hostname: "+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"ATTESTCSR_CONFIG=" + filepath.Join(dir, "env")}
	for want, src := range map[string]config.Source{
		"flag": {Flags: parsedFlags(t, "--config", filepath.Join(dir, "flag")), Env: env},
		"env":  {Flags: parsedFlags(t), Env: env},
	} {
		c, warnings, err := config.Load(src)
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		if c.Hostname != want {
			t.Errorf("read %s, want %s", c.Hostname, want)
		}
	}
}

func TestSystemHostname(t *testing.T) {
	t.Parallel()
	c, _, problems := load(t, sources{file: "hostname: \"\"\n"})
	if problems != nil || c.Hostname != "esx-01" {
		t.Error(c, problems)
	}
	_, _, problems = load(t, sources{hostname: func() (string, error) { return "my_host", nil }})
	want := []string{`system's host name: hostname: "my_host" is not a host name (RFC 1123): each part between dots must have 1 to 63 letters, digits and inner hyphens; set hostname`}
	if !slices.Equal(problems, want) {
		t.Error(problems)
	}
	_, _, problems = load(t, sources{hostname: func() (string, error) { return "", errors.New("no such thing") }})
	if want := []string{"system's host name: hostname: no such thing; set hostname"}; !slices.Equal(problems, want) {
		t.Error(problems)
	}
	if c, _, problems := load(t, sources{args: []string{"--hostname=a"}, hostname: func() (string, error) { return "", errors.New("asked") }}); problems != nil || c.Hostname != "a" {
		t.Error("the system is asked although hostname is set", problems)
	}
	if _, _, err := config.Load(config.Source{}); err != nil {
		t.Error("with the real host name:", err)
	}
}

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
		"admin password with users": {
			sources{file: "auth:\n  users_file: u\n", args: []string{"--admin-password-file=p"}},
			[]string{"flag --admin-password-file: admin_password_file: is ignored, since auth.users_file (f:2:3) replaces the built-in admin"},
		},
		"audit lines below the level of the log": {
			sources{file: "audit:\n  copy_to_log: true\n", args: []string{"--log-level=warn"}},
			[]string{"f:2:3: audit.copy_to_log: has no effect: lines are logged at level info, and log.level is warn (flag --log-level)"},
		},
		"everybody is a proxy": {
			sources{env: []string{"ATTESTCSR_TRUSTED_PROXIES=10.0.0.0/8,::/0"}},
			[]string{"environment variable ATTESTCSR_TRUSTED_PROXIES: trusted_proxies: ::/0 lets every client choose the address it is logged and throttled under"},
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

// Kubernetes sets ATTESTCSR_PORT… and ATTESTCSR_SERVICE_… in pods beside a
// Service named attestcsr: a setting of such a name would take its value from there.
func TestNoSettingHasANameThatKubernetesInjects(t *testing.T) {
	t.Parallel()
	n := 0
	parsedFlags(t).VisitAll(func(f *pflag.Flag) {
		n++
		if strings.HasPrefix(f.Name, "port") || strings.HasPrefix(f.Name, "service-") {
			t.Errorf("--%s is a reserved name", f.Name)
		}
	})
	if n == 0 {
		t.Error("no flags")
	}
}

func TestShow(t *testing.T) {
	t.Parallel()
	c, _, problems := load(t, sources{
		file: "listen: :1\nauth:\n  users_file: \"\\\"u\\\" #1\"\n  privileges:\n    bob: []\n    alice: [SECURITY_MGMT]\n",
		env:  []string{"ATTESTCSR_LOG_LEVEL=warn"}, args: []string{"--shutdown-timeout=90m60s", "--shutdown-timeout=90s"},
	})
	if problems != nil {
		t.Fatal(problems)
	}
	const want = `listen: ":1" # FILE:1:1
ops_listen: "" # default
data_dir: "./data" # default
hostname: "esx-01" # system's host name
tls:
  cert_file: "" # default
  key_file: "" # default
auth:
  users_file: "\"u\" #1" # FILE:3:3
  privileges: # FILE:4:3
    "alice": ["SECURITY_MGMT"]
    "bob": []
admin_password_file: "" # default
session:
  idle_timeout: "30m" # default
  lifetime: "24h" # default
key_sizes: [2048, 3072, 4096] # default
trusted_proxies: [] # default
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
sealing:
  keyset_file: "" # default
audit:
  max_file_size: "64MiB" # default
  refusals_max_size: "64MiB" # default
  outbox_bound: 10000 # default
  copy_to_log: false # default
log:
  level: "warn" # environment variable ATTESTCSR_LOG_LEVEL
  format: "json" # default
shutdown_timeout: "1m30s" # flag --shutdown-timeout
allow_core_dumps: false # default
`
	if got := show(t, c); regexpFile.ReplaceAllString(got, "FILE:") != want {
		t.Errorf("got\n%s", got)
	}
	again, _, problems := load(t, sources{file: show(t, c)})
	if problems != nil || !reflect.DeepEqual(settings(again), settings(c)) {
		t.Errorf("shown and loaded: %+v %v", again, problems)
	}
	if err := c.Show(failingWriter{}); !errors.Is(err, errWrite) {
		t.Error("a failed write is not returned:", err)
	}
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
	c, warnings, problems := load(t, sources{args: args})
	if problems != nil {
		t.Fatal(problems)
	}
	checked, err := c.CheckFiles(time.Now())
	for _, text := range []string{show(t, c), fmt.Sprintf("%+v", c), fmt.Sprint(warnings, checked, err)} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a secret is shown:\n%s", text)
		}
	}
	if !strings.Contains(show(t, c), filepath.Join(dir, "tls-key-file")) {
		t.Error("the names of the files are not shown")
	}
}

// regexpFile finds the temporary file in the origins that Show writes.
var regexpFile = regexp.MustCompile(`/[^ ]*/f:`)

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
			c, _, problems := load(t, tc.in)
			if problems != nil {
				t.Fatal(problems)
			}
			if !maps.Equal(c.KeyPool.Targets, tc.want) {
				t.Errorf("got %v, want %v", c.KeyPool.Targets, tc.want)
			}
		})
	}
}

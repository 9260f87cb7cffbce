package config

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// setting is one row of the table.
type setting struct {
	key   string // in the file, with a dot after the section
	wants string // what a value looks like, for help and messages
	usage string
	value value // nil: a mapping, which only the file can hold
	mapping
}

// mapping adapts a field that holds a mapping.
type mapping interface {
	// assign applies what the file says, and reports what is wrong with it.
	assign(d document, s setting, e entry)
	// entries returns each key with its value as lines of YAML.
	entries() []string
}

// settings is the table, bound to the fields of c. Settings of one section
// stand together. No key begins with port or service_: beside a Service named
// attestcsr, Kubernetes sets ATTESTCSR_PORT and ATTESTCSR_SERVICE_… in every pod.
func (c *Config) settings() []setting {
	return slices.Concat(c.serving(), c.limits(), c.keeping())
}

func (c *Config) serving() []setting {
	return []setting{
		{"listen", "host:port", "where to serve HTTPS; no host means all addresses, port 0 a free port",
			&text{&c.Listen, listenAddress}, nil},
		{"ops_listen", "host:port", "separate address for health and metrics; empty serves them on listen",
			&text{&c.OpsListen, optional(listenAddress)}, nil},
		{"data_dir", "directory", "where everything is kept that the service makes; made when missing",
			&text{&c.DataDir, fileName}, nil},
		{"hostname", "name", "name of this host in certificates, 1 to 64 characters; empty takes the system's",
			&text{&c.Hostname, optional(hostname)}, nil},
		{"tls.cert_file", "file", "server certificate chain (PEM, leaf first); empty makes a self-signed one",
			&text{&c.TLS.CertFile, optional(fileName)}, nil},
		{"tls.key_file", "file", "private key of the server certificate (PEM)",
			&text{&c.TLS.KeyFile, optional(fileName)}, nil},
		{"auth.users_file", "file", "users, as htpasswd -B writes them; empty leaves the built-in admin",
			&text{&c.Auth.UsersFile, optional(fileName)}, nil},
		{"auth.privileges", "a mapping of users to lists of privileges", "what each user of the users file may do", nil, grants{&c.Auth.Privileges}},
		{"admin_password_file", "file", "password of the built-in admin, read at every start; ignored with a users file",
			&text{&c.AdminPasswordFile, optional(fileName)}, nil},
		{"session.idle_timeout", "duration", "end a session after this long without a request, at most 720h",
			&duration{&c.Session.IdleTimeout, maxSession}, nil},
		{"session.lifetime", "duration", "end a session after this long in any case, at most 720h",
			&duration{&c.Session.Lifetime, maxSession}, nil},
		{"key_sizes", "bits,...", "RSA key sizes that may be asked for: multiples of 256, 2048 to 8192, 2048 among them",
			&list[int]{field: &c.KeySizes, parse: keySize, kind: aNumber}, nil},
		{"trusted_proxies", "address,...", "proxies whose X-Forwarded-For is believed: addresses or CIDR prefixes",
			&list[netip.Prefix]{field: &c.TrustedProxies, parse: proxy, kind: aString}, nil},
		{"key_pool.targets", "a mapping of key sizes to numbers of keys", "how many RSA keys of each size are kept ready; {} turns the pool off", nil, targets{&c.KeyPool.Targets}},
		{"key_pool.max", "keys", "how many keys of one size may be kept ready; lowers default targets that are larger, and makes larger ones in the file an error",
			&number{&c.KeyPool.Max, 1, maxPool}, nil},
		{"key_pool.ready_when_warm", "true|false", "whether /readyz waits until the pool has been filled once",
			&boolean{&c.KeyPool.ReadyWhenWarm}, nil},
		{"key_queue.bound", "requests", "how many requests may wait for a key; more get 503",
			&number{&c.KeyQueue.Bound, 1, 100_000}, nil},
		{"key_queue.deadline", "duration", "how long a request may wait for a key, at most 2m",
			&duration{&c.KeyQueue.Deadline, maxKeyWait}, nil},
	}
}

func (c *Config) limits() []setting {
	return []setting{
		{"limits.csrs", "number", "how many CSRs of the NSX dialect there may be at a time",
			&number{&c.Limits.CSRs, 1, 10_000_000}, nil},
		{"limits.certificates", "number", "how many certificates of the NSX dialect there may be at a time",
			&number{&c.Limits.Certificates, 1, 10_000_000}, nil},
		{"limits.connections", "number", "how many connections may be open on listen; when full, the address with the most loses its longest idle one",
			&number{&c.Limits.Connections, 16, 100_000}, nil},
		{"limits.connections_per_address", "number", "how many connections one address (IPv6: /64) may have, and how many requests at a time a client behind a trusted proxy",
			&number{&c.Limits.ConnectionsPerAddress, 1, 100_000}, nil},
		{"limits.header_bytes", "bytes", "how long the header of a request may be, give or take 8192; more get 431",
			&number{&c.Limits.HeaderBytes, 4 << 10, 1 << 20}, nil},
		{"limits.body_bytes", "bytes", "how long the body of a request may be; more get 413",
			&number{&c.Limits.BodyBytes, 1 << 10, maxBody}, nil},
		{"limits.read_header_timeout", "duration", "how long the header of a request may take, at most 10m",
			&duration{&c.Limits.ReadHeaderTimeout, maxTimeout}, nil},
		{"limits.read_timeout", "duration", "how long header and body of a request may take, at most 10m",
			&duration{&c.Limits.ReadTimeout, maxTimeout}, nil},
		{"limits.write_timeout", "duration", "how long a client may take to receive an answer that is ready, at most 10m",
			&duration{&c.Limits.WriteTimeout, maxTimeout}, nil},
		{"limits.idle_timeout", "duration", "how long a connection may be without a request, at most 1h",
			&duration{&c.Limits.IdleTimeout, maxIdle}, nil},
		{"limits.sessions", "number", "how many sessions there may be at a time; more logins get 503",
			&number{&c.Limits.Sessions, 1, 1_000_000}, nil},
		{"limits.sessions_per_user", "number", "how many sessions one user may have at a time; more logins get 503",
			&number{&c.Limits.SessionsPerUser, 1, 1_000_000}, nil},
		{"limits.memory", "size", "memory that the garbage collector tries to stay under: such as 512MiB, auto for 160 MiB or 90 % of the cgroup's limit if that is less, or off; GOMEMLIMIT beats it",
			&size{&c.Limits.Memory, minMemory, maxMemory, map[string]int64{"auto": MemoryAuto, "off": MemoryOff}}, nil},
	}
}

func (c *Config) keeping() []setting {
	return []setting{
		{"sealing.keyset_file", "file", "keyset that seals private keys; made when missing, empty keeps it in the data directory",
			&text{&c.Sealing.KeysetFile, optional(fileName)}, nil},
		{"audit.max_file_size", "size", "how large a file of changes gets before the next one, 1MiB to 16GiB",
			&size{&c.Audit.MaxFileSize, minAuditSize, maxAuditSize, nil}, nil},
		{"audit.refusals_max_size", "size", "how much is kept of refused requests before the oldest goes, 1MiB to 16GiB",
			&size{&c.Audit.MaxRefusalsSize, minAuditSize, maxAuditSize, nil}, nil},
		{"audit.outbox_bound", "changes", "how many changes may wait to be written to the audit trail; more get 503",
			&number{&c.Audit.OutboxBound, 1, 1_000_000}, nil},
		{"audit.copy_to_log", "true|false", "whether to log a copy of each line, as the member \"line\" of an event \"audit\" at level info; copies may be missing after a crash or while the log is slow",
			&boolean{&c.Audit.CopyToLog}, nil},
		{"log.level", "level", "least severe level to log: debug, info, warn or error",
			&text{&c.Log.Level, oneOf("debug", "info", "warn", "error")}, nil},
		{"log.format", "format", "json or text",
			&text{&c.Log.Format, oneOf("json", "text")}, nil},
		{"shutdown_timeout", "duration", "how long requests in flight may take when the service stops, at most 10m",
			&duration{&c.ShutdownTimeout, maxShutdown}, nil},
		{"allow_core_dumps", "true|false", "whether core dumps and debuggers, which see private keys, are let in; for hunting a bug, with throw-away keys",
			&boolean{&c.AllowCoreDumps}, nil},
	}
}

func (s setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

func (s setting) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.key) }

// split takes the text of a variable or flag apart: elements of a list are
// separated by commas and optional spaces, and the empty text is the empty list.
func (s setting) split(value, origin string) []item {
	if many, _ := s.value.shape(); !many {
		return []item{{value, origin}}
	}
	var items []item
	if value == "" {
		return items
	}
	for element := range strings.SplitSeq(value, ",") {
		items = append(items, item{strings.TrimSpace(element), origin})
	}
	return items
}

// value adapts a field of Config to text.
type value interface {
	// shape tells a list from a single value, and how YAML writes the value, or
	// each element.
	shape() (many bool, kind scalar)
	// reset forgets the elements of a list; a single value is replaced by add.
	reset()
	// add sets the value or appends to the list, or says what is wrong with text.
	add(text string) error
	// items returns what reset and add would make the same value from.
	items() []string
}

// scalar is a kind of YAML scalar.
type scalar string

const (
	aString  scalar = "a string"
	aNumber  scalar = "a whole number"
	aBoolean scalar = "true or false"
)

// text is a string that check accepts.
type text struct {
	field *string
	check func(string) error
}

func (v *text) shape() (bool, scalar) { return false, aString }
func (v *text) reset()                {}
func (v *text) items() []string       { return []string{*v.field} }

func (v *text) add(s string) error {
	*v.field = s
	return v.check(s)
}

// duration is over 0 and at most max.
type duration struct {
	field *time.Duration
	max   time.Duration
}

func (v *duration) shape() (bool, scalar) { return false, aString }
func (v *duration) reset()                {}
func (v *duration) items() []string       { return []string{shortDuration(*v.field)} }

func (v *duration) add(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > v.max {
		return fmt.Errorf("%.64q is not a duration such as 90s, 30m or 1h30m, over 0 and at most %s", s, shortDuration(v.max))
	}
	*v.field = d
	return nil
}

// shortDuration writes 30m where Duration.String writes 30m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// number is a whole number from min to max.
type number struct {
	field    *int
	min, max int
}

func (v *number) shape() (bool, scalar) { return false, aNumber }
func (v *number) reset()                {}
func (v *number) items() []string       { return []string{strconv.Itoa(*v.field)} }

func (v *number) add(s string) error {
	n, ok := decimal(s)
	if !ok || n < v.min || n > v.max {
		return fmt.Errorf("%.64q is not a whole number from %d to %d", s, v.min, v.max)
	}
	*v.field = n
	return nil
}

// size is a number of bytes, written in whole KiB, MiB or GiB, or a word.
type size struct {
	field    *int64
	min, max int64
	words    map[string]int64 // below min
}

func (v *size) shape() (bool, scalar) { return false, aString }
func (v *size) reset()                {}

func (v *size) items() []string {
	for word, n := range v.words {
		if n == *v.field {
			return []string{word}
		}
	}
	return []string{sizeText(*v.field)}
}

func (v *size) add(s string) error {
	if n, is := v.words[s]; is {
		*v.field = n
		return nil
	}
	for _, unit := range sizeUnits() {
		digits, is := strings.CutSuffix(s, unit.name)
		n, ok := decimal(digits)
		if is && ok && int64(n) <= v.max/unit.bytes && int64(n)*unit.bytes >= v.min {
			*v.field = int64(n) * unit.bytes
			return nil
		}
	}
	var words strings.Builder
	for _, word := range slices.Sorted(maps.Keys(v.words)) {
		words.WriteString(word + ", ")
	}
	return fmt.Errorf("%.64q is not %sa size such as 512KiB, 64MiB or 1GiB, from %s to %s", s, words.String(), sizeText(v.min), sizeText(v.max))
}

// sizeText writes a size in the largest unit that leaves no fraction.
func sizeText(n int64) string {
	for _, unit := range sizeUnits() {
		if n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	panic("config: a size that no text makes")
}

type sizeUnit struct {
	name  string
	bytes int64
}

// sizeUnits are the units from the largest on.
func sizeUnits() []sizeUnit { return []sizeUnit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} }

// boolean is true or false and nothing that only looks like it.
type boolean struct{ field *bool }

func (v *boolean) shape() (bool, scalar) { return false, aBoolean }
func (v *boolean) reset()                {}
func (v *boolean) items() []string       { return []string{strconv.FormatBool(*v.field)} }

func (v *boolean) add(s string) error {
	if s != "true" && s != "false" {
		return fmt.Errorf("%.64q is not true or false", s)
	}
	*v.field = s == "true"
	return nil
}

// list holds different elements, at most maxElements.
type list[T comparable] struct {
	field *[]T
	parse func(string) (T, error)
	kind  scalar
}

func (v *list[T]) shape() (bool, scalar) { return true, v.kind }
func (v *list[T]) reset()                { *v.field = nil }

func (v *list[T]) add(s string) error {
	element, err := v.parse(s)
	switch {
	case err != nil:
		return err
	case slices.Contains(*v.field, element):
		return fmt.Errorf("%.64q is there twice", s)
	case len(*v.field) == maxElements:
		return fmt.Errorf("%.64q is one too many: at most %d are allowed", s, maxElements)
	}
	*v.field = append(*v.field, element)
	return nil
}

func (v *list[T]) items() []string {
	items := make([]string, len(*v.field))
	for i, element := range *v.field {
		items[i] = fmt.Sprint(element)
	}
	return items
}

// AddFlags adds --config and a flag for each setting that is not a mapping, with
// help that shows its default and its environment variable. The flags hold text:
// only Load judges it, together with the other sources.
func AddFlags(flags *pflag.FlagSet) {
	flags.Var(&flagValue{kind: "file"}, configFlag, "settings file (YAML) [$"+configEnv+"]")
	for _, s := range defaults().settings() {
		if s.value == nil {
			continue
		}
		many, _ := s.value.shape()
		flags.Var(&flagValue{kind: s.wants, text: strings.Join(s.value.items(), ","), list: many},
			s.flag(), s.usage+" [$"+s.env()+"]")
	}
}

// flagValue is a pflag.Value that keeps the text. A list given twice is one list.
type flagValue struct {
	kind, text string
	list, set  bool
}

func (v *flagValue) Type() string   { return v.kind }
func (v *flagValue) String() string { return v.text }

func (v *flagValue) Set(s string) error {
	if v.list && v.set {
		s = v.text + "," + s
	}
	v.text, v.set = s, true
	return nil
}

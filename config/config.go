// Package config is the shape of the service's settings, their defaults, where
// they come from and which values they may have.
//
// Settings are taken from the defaults, one YAML file, the environment and
// command-line flags, each beating those before it. One table (Config.settings)
// names each setting once; file keys, flags, variables, help and the output of
// Show are derived from it.
package config

import (
	"fmt"
	"net/netip"
	"time"
)

// Config is a complete set of settings that passed every rule. File names are
// as the operator wrote them: relative ones count from the working directory.
type Config struct {
	Listen             string // host:port for HTTPS; port 0 takes a free one
	OpsListen          string // host:port for health and metrics; empty = on Listen
	DataDir            string
	AllowSharedDataDir bool   // others may write to DataDir and above it
	Hostname           string // host name of RFC 1123 section 2.1, 1 to 64 characters
	TLS                TLS
	Auth               Auth
	AdminPasswordFile  string // empty = none
	Session            Session
	KeySizes           []int          // RSA modulus lengths in bits, in the operator's order; 2048 is among them
	TrustedProxies     []netip.Prefix // masked; no zones, no IPv4-mapped addresses
	AllowedOrigins     []string       // as browsers write them: scheme://host[:port]
	Trust              Trust
	Certificate        Certificate
	Publish            Publish
	Console            Console
	Signing            Signing
	Signer             Signer
	Sealing            Sealing
	KeyPool            KeyPool
	KeyQueue           KeyQueue
	Limits             Limits
	Audit              Audit
	Log                Log
	ShutdownTimeout    time.Duration
	LockWait           time.Duration // for another process to leave DataDir; 0: none
	AllowCoreDumps     bool          // also lets debuggers of the same user attach

	file    string            // of the settings; empty = none
	origins map[string]string // setting key → where its value came from
}

// File is the name of the settings file, or empty.
func (c *Config) File() string { return c.file }

// IsDefault reports whether no source sets the setting.
func (c *Config) IsDefault(key string) bool { return c.origins[key] == "default" }

// Problem says of a setting what is wrong with it, as the errors of Load do.
func (c *Config) Problem(key string, err error) error {
	return fmt.Errorf("%s: %s: %w", c.origins[key], key, err)
}

// TLS names the server's certificate chain and key. Both are set or neither is;
// without them the service makes its own.
type TLS struct{ CertFile, KeyFile string }

// Auth says who may log in and what they may do.
type Auth struct {
	UsersFile  string              // htpasswd file with bcrypt hashes; empty = the built-in admin
	Privileges map[string][]string // user → privileges, each one of Source.Privileges
}

// Session bounds the life of a session. IdleTimeout is at most Lifetime.
type Session struct{ IdleTimeout, Lifetime time.Duration }

// Trust says which CAs certificates may come from.
type Trust struct {
	AnchorsFile string // PEM; empty = any CA
}

// Certificate says what certificates must be like.
type Certificate struct {
	Names string // strict, warn or any
	// ActivateAfter is how long after its CSR a certificate becomes active, at the
	// earliest; 0: at once.
	ActivateAfter time.Duration
}

// Publish says which public keys are published, and how.
type Publish struct {
	Enabled bool
	MaxAge  time.Duration // for which who has read the keys may keep them
	Retain  time.Duration // of a key that was replaced
	Issuer  string        // as tokens name it; empty = no discovery document
	Alg     string        // that RSA keys are used with only, a name of RFC 7518 section 3.1; empty = any
	NSX     []string      // ids of NSX certificates whose keys are published too
}

// Console says whether the service has pages for browsers.
type Console struct{ Enabled bool }

// Signing bounds what the keys sign.
type Signing struct{ Rate int } // signatures of one caller in a second

// Signer says who on this host may sign over a socket.
type Signer struct {
	Socket string // empty = none
	// Allow has the names of keys by who may use them: "uid:N", or "gid:N" for processes
	// with that primary group.
	Allow map[string][]string
}

// Sealing says with what stored private keys are sealed.
type Sealing struct {
	KeysetFile string // empty = in DataDir
}

// KeyPool says how many RSA keys are made before anyone asks.
type KeyPool struct {
	// Targets is how many keys are kept ready, by modulus length in bits; each
	// one is among Config.KeySizes. Empty turns the pool off.
	Targets map[int]int
	// Max is the largest number that a target may have. Load has applied it to
	// Targets, so that nobody else needs it. It exists because Targets have no flag
	// or variable: on a small machine, Max bounds the pool without a file.
	Max int
	// ReadyWhenWarm makes readiness wait until every target is reached once.
	ReadyWhenWarm bool
}

// KeyQueue bounds the wait for a key that is not ready.
type KeyQueue struct {
	Bound    int // waiters
	Deadline time.Duration
}

// Limits bounds what is stored and what clients can make the service hold.
type Limits struct {
	CSRs         int // of the NSX dialect, at a time
	Certificates int // of the NSX dialect, at a time

	Connections           int // at a time
	ConnectionsPerAddress int // at a time; also bounds the requests of one client behind a proxy

	HeaderBytes, BodyBytes int // of one request

	ReadHeaderTimeout time.Duration // from the first byte, at most ReadTimeout
	ReadTimeout       time.Duration // for header and body
	WriteTimeout      time.Duration // for the client to take an answer, from when it is ready
	IdleTimeout       time.Duration // of a connection without a request

	Sessions, SessionsPerUser int

	Memory int64 // bytes, MemoryAuto or MemoryOff
}

// Audit says how much of the audit trail is kept, and who else gets it.
type Audit struct {
	MaxFileSize       int64 // bytes of a file of changes
	MaxRefusalsSize   int64 // bytes of all files of refusals
	MaxSignaturesSize int64 // bytes of all files of signatures
	OutboxBound       int   // changes that may wait to be written
	CopyToLog         bool  // each line goes to the log as well
}

// What Limits.Memory can be beside a number of bytes.
const (
	MemoryAuto int64 = -1 // 160 MiB, or less where the cgroup's limit is lower
	MemoryOff  int64 = 0
)

// Log says what is logged and in which form.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // json or text
}

func defaults() *Config {
	return &Config{
		Listen:          ":8443",
		DataDir:         "./data",
		Auth:            Auth{Privileges: map[string][]string{}},
		Session:         Session{IdleTimeout: 30 * time.Minute, Lifetime: 24 * time.Hour},
		KeySizes:        []int{2048, 3072, 4096},
		KeyPool:         KeyPool{Targets: map[int]int{2048: 32, 3072: 4, 4096: 4}, Max: 256},
		KeyQueue:        KeyQueue{Bound: 256, Deadline: 30 * time.Second},
		Limits:          defaultLimits(),
		Audit:           Audit{MaxFileSize: 64 << 20, MaxRefusalsSize: 64 << 20, MaxSignaturesSize: 1 << 30, OutboxBound: 10_000},
		Certificate:     Certificate{Names: "warn"},
		Publish:         Publish{Enabled: true, MaxAge: 5 * time.Minute, Retain: 24 * time.Hour},
		Console:         Console{Enabled: true},
		Signing:         Signing{Rate: 50},
		Signer:          Signer{Allow: map[string][]string{}},
		Log:             Log{Level: "info", Format: "json"},
		ShutdownTimeout: 20 * time.Second,
		origins:         map[string]string{},
	}
}

func defaultLimits() Limits {
	return Limits{
		CSRs: 100_000, Certificates: 100_000,
		Connections: 2000, ConnectionsPerAddress: 256,
		HeaderBytes: 32 << 10, BodyBytes: maxBody,
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		Sessions: 10_000, SessionsPerUser: 1_000,
		Memory: MemoryAuto,
	}
}

package config

import (
	"slices"
	"strings"
)

// setting is one row of the table.
type setting struct {
	key   string // in the file, with a dot after the section
	wants string // what a value looks like, for help and messages
	usage string
	value value
}

// settings is the table, bound to the fields of c. Reading a file needs the names of
// the privileges. Settings of one section stand together. No key begins with port or
// service_: beside a Service named attestcsr, Kubernetes sets ATTESTCSR_PORT and
// ATTESTCSR_SERVICE_… in every pod.
func (c *Config) settings(privileges ...string) []setting {
	return slices.Concat(c.serverSettings(privileges), c.limitSettings(), c.certificateSettings(), c.operatingSettings())
}

func (c *Config) serverSettings(privileges []string) []setting {
	return []setting{
		{"listen", "host:port", "where to serve HTTPS; no host means all addresses, port 0 a free port",
			text(&c.Listen, listenAddress)},
		{"ops_listen", "host:port", "separate address for health and metrics; empty serves them on listen",
			text(&c.OpsListen, optional(listenAddress))},
		{"data_dir", "directory", "where the service keeps everything it makes; created when missing",
			text(&c.DataDir, fileName)},
		{"allow_shared_data_dir", "true|false", "start also where others can write to data_dir or to a directory above it: they could take over the service",
			boolean(&c.AllowSharedDataDir)},
		{"hostname", "name", "name of this host in certificates, 1 to 64 characters; empty takes the system's name",
			text(&c.Hostname, optional(hostname))},
		{"tls.cert_file", "file", "server certificate chain (PEM, leaf first); empty makes a self-signed one",
			text(&c.TLS.CertFile, optional(fileName))},
		{"tls.key_file", "file", "private key of the server certificate (PEM)",
			text(&c.TLS.KeyFile, optional(fileName))},
		{"auth.users_file", "file", "users, as htpasswd -B writes them; empty leaves the built-in admin",
			text(&c.Auth.UsersFile, optional(fileName))},
		{"auth.privileges", "a mapping of users to lists of privileges", "what each user of the users file may do",
			userPrivileges(&c.Auth.Privileges, privileges)},
		{"admin_password_file", "file", "password of the built-in admin, read at every start; ignored with a users file",
			text(&c.AdminPasswordFile, optional(fileName))},
		{"session.idle_timeout", "duration", "end a session after this long without a request, at most 720h",
			duration(&c.Session.IdleTimeout, maxSession)},
		{"session.lifetime", "duration", "end a session after this long in any case, at most 720h",
			duration(&c.Session.Lifetime, maxSession)},
		{"key_sizes", "bits,...", "RSA key sizes that may be asked for: multiples of 256, 2048 to 8192, 2048 among them",
			list(&c.KeySizes, aNumber, keySize)},
		{"trusted_proxies", "address,...", "proxies whose X-Forwarded-For is believed: addresses or CIDR prefixes",
			list(&c.TrustedProxies, aString, proxy)},
		{"allowed_origins", "origin,...", "sites whose pages may send changes through a browser, such as https://console.example.com; the service's own always may",
			list(&c.AllowedOrigins, aString, origin)},
		{"key_pool.targets", "a mapping of key sizes to numbers of keys", "how many RSA keys of each size are kept ready; {} turns the pool off",
			poolTargets(&c.KeyPool.Targets)},
		{"key_pool.max", "keys", "how many keys of one size may be kept ready; a larger default target is lowered to it, a larger target in the file is an error",
			number(&c.KeyPool.Max, 1, maxPool)},
		{"key_pool.ready_when_warm", "true|false", "whether /readyz waits until the pool has been filled once",
			boolean(&c.KeyPool.ReadyWhenWarm)},
		{"key_queue.bound", "requests", "how many requests may wait for a key; more get 503",
			number(&c.KeyQueue.Bound, 1, 100_000)},
		{"key_queue.deadline", "duration", "how long a request may wait for a key, at most 2m",
			duration(&c.KeyQueue.Deadline, maxKeyWait)},
	}
}

func (c *Config) limitSettings() []setting {
	return []setting{
		{"limits.csrs", "number", "how many CSRs of the NSX dialect there may be at a time",
			number(&c.Limits.CSRs, 1, 10_000_000)},
		{"limits.certificates", "number", "how many certificates of the NSX dialect there may be at a time",
			number(&c.Limits.Certificates, 1, 10_000_000)},
		{"limits.connections", "number", "how many connections may be open on listen; when full, the address with the most loses its longest idle one",
			number(&c.Limits.Connections, 16, 100_000)},
		{"limits.connections_per_address", "number", "how many connections one address (IPv6: /64) may have, and how many requests at a time a client behind a trusted proxy",
			number(&c.Limits.ConnectionsPerAddress, 1, 100_000)},
		{"limits.header_bytes", "bytes", "how long the header of a request may be, give or take 8192; more get 431",
			number(&c.Limits.HeaderBytes, 4<<10, 1<<20)},
		{"limits.body_bytes", "bytes", "how long the body of a request may be; more get 413",
			number(&c.Limits.BodyBytes, 1<<10, maxBody)},
		{"limits.read_header_timeout", "duration", "how long the header of a request may take, at most 10m",
			duration(&c.Limits.ReadHeaderTimeout, maxTimeout)},
		{"limits.read_timeout", "duration", "how long header and body of a request may take, at most 10m",
			duration(&c.Limits.ReadTimeout, maxTimeout)},
		{"limits.write_timeout", "duration", "how long a client may take to receive an answer that is ready, at most 10m",
			duration(&c.Limits.WriteTimeout, maxTimeout)},
		{"limits.idle_timeout", "duration", "how long a connection may be without a request, at most 1h",
			duration(&c.Limits.IdleTimeout, maxIdle)},
		{"limits.sessions", "number", "how many sessions there may be at a time; more logins get 503",
			number(&c.Limits.Sessions, 1, 1_000_000)},
		{"limits.sessions_per_user", "number", "how many sessions one user may have at a time; more logins get 503",
			number(&c.Limits.SessionsPerUser, 1, 1_000_000)},
		{"limits.memory", "size", "memory that the garbage collector tries to stay under: a size such as 512MiB, off, or auto (160 MiB, or 90 % of the cgroup's limit if that is less); GOMEMLIMIT takes precedence",
			memoryLimit(&c.Limits.Memory)},
	}
}

func (c *Config) certificateSettings() []setting {
	return []setting{
		{"trust.anchors_file", "file", "trust anchors (PEM) that every certificate must lead to; empty accepts a certificate of any CA",
			text(&c.Trust.AnchorsFile, optional(fileName))},
		{"certificate.names", "rule", "what to do with a certificate whose subject or alternative names are not those of its CSR: strict refuses it, warn accepts it with a warning, any does not compare",
			text(&c.Certificate.Names, oneOf("strict", "warn", "any"))},
		{"certificate.activate_after", "duration", "how long after its CSR a certificate becomes active at the earliest, so that those who verify signatures know its key before: 0s, or at least publish.max_age and at most 720h",
			durationOrNone(&c.Certificate.ActivateAfter, maxActivation)},
		{"publish.enabled", "true|false", "whether public keys are served at /.well-known/jwks.json, without credentials",
			boolean(&c.Publish.Enabled)},
		{"publish.max_age", "duration", "for how long those who have read the published keys may keep them, at most 24h",
			duration(&c.Publish.MaxAge, maxPublishedAge)},
		{"publish.retain", "duration", "how long a key that was replaced is still published, at most 8760h",
			durationOrNone(&c.Publish.Retain, maxRetention)},
		{"publish.issuer", "https://host", "issuer of the tokens that are signed, served at /.well-known/openid-configuration; empty serves none",
			text(&c.Publish.Issuer, optional(issuer))},
		{"publish.alg", "algorithm", "the one algorithm that published RSA keys are for: RS256, RS384, RS512, PS256, PS384 or PS512; empty names none",
			text(&c.Publish.Alg, optional(oneOf("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")))},
		{"publish.nsx", "id,...", "ids of NSX certificates whose keys are published too",
			list(&c.Publish.NSX, aString, objectID)},
		{"console.enabled", "true|false", "whether browsers get pages, and sessions for them: the paths /, /apiexplorer, /openapi.json, /openapi.yaml, /assets and /console",
			boolean(&c.Console.Enabled)},
		{"signing.rate", "number", "how many signatures one caller gets in a second; more get 429",
			number(&c.Signing.Rate, 1, 1_000_000)},
		{"signer.socket", "file", "socket of the ssh-agent protocol, over which processes on this host sign; empty makes none",
			text(&c.Signer.Socket, optional(socket))},
		{"signer.allow", "a mapping of uid:N and gid:N to lists of keys", "which keys, attestation or nsx-ID, processes of a user, or with a primary group, may use on the signer socket",
			signerKeys(&c.Signer.Allow)},
	}
}

func (c *Config) operatingSettings() []setting {
	return []setting{
		{"sealing.keyset_file", "file", "keyset that seals private keys; made when missing, empty keeps it in the data directory",
			text(&c.Sealing.KeysetFile, optional(fileName))},
		{"audit.max_file_size", "size", "size at which the audit trail of changes goes on in a new file, 1MiB to 16GiB",
			size(&c.Audit.MaxFileSize, minAuditSize, maxAuditSize)},
		{"audit.refusals_max_size", "size", "size of the audit trail of refused requests, whose oldest file is removed, 1MiB to 16GiB",
			size(&c.Audit.MaxRefusalsSize, minAuditSize, maxAuditSize)},
		{"audit.signatures_max_size", "size", "size of the audit trail of signatures, whose oldest file is removed, 1MiB to 16GiB",
			size(&c.Audit.MaxSignaturesSize, minAuditSize, maxAuditSize)},
		{"audit.outbox_bound", "changes", "how many changes may wait to be written to the audit trail; more get 503",
			number(&c.Audit.OutboxBound, 1, 1_000_000)},
		{"audit.copy_to_log", "true|false", "whether to log a copy of each line, as the member \"line\" of an event \"audit\" at level info; copies may be missing after a crash or while the log is slow",
			boolean(&c.Audit.CopyToLog)},
		{"log.level", "level", "least severe level to log: debug, info, warn or error",
			text(&c.Log.Level, oneOf("debug", "info", "warn", "error"))},
		{"log.format", "format", "json or text",
			text(&c.Log.Format, oneOf("json", "text"))},
		{"shutdown_timeout", "duration", "how long requests in flight may take when the service stops, at most 10m",
			duration(&c.ShutdownTimeout, maxShutdown)},
		{"lock_wait", "duration", "how long a start waits while another process uses data_dir, at most 10m; 0s ends it at once",
			durationOrNone(&c.LockWait, maxLockWait)},
		{"allow_core_dumps", "true|false", "allow core dumps and debuggers, which can read private keys; only for hunting a bug, with throw-away keys",
			boolean(&c.AllowCoreDumps)},
	}
}

func (s setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

func (s setting) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.key) }

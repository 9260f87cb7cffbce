package config

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// maxBody is the largest value of limits.body_bytes, and its default; bytes.
	// Clients are promised that longer bodies are refused.
	maxBody = 64 << 10

	maxSession   = 30 * 24 * time.Hour
	maxShutdown  = 10 * time.Minute
	maxKeyWait   = 2 * time.Minute
	maxLockWait  = 10 * time.Minute
	maxTimeout   = 10 * time.Minute // of one request
	maxIdle      = time.Hour        // of a connection
	maxPool      = 10_000           // keys of one size, about 70 MB of the largest
	maxElements  = 256              // of a list
	minAuditSize = 1 << 20          // of audit files
	maxAuditSize = 16 << 30
	minMemory    = 32 << 20
	maxMemory    = 1 << 40
	maxFileName  = 4096 // PATH_MAX of Linux
	maxHostname  = 64   // the upper bound of a common name (RFC 5280 appendix A.1, ub-common-name)
	maxUserName  = 255  // as htpasswd bounds it
	maxObjectID  = 1024 // of NSX certificates
	maxSocket    = 107  // UNIX_PATH_MAX of Linux, less the zero at its end

	maxActivation   = 30 * 24 * time.Hour
	maxPublishedAge = 24 * time.Hour
	maxRetention    = 365 * 24 * time.Hour
)

// rules checks settings against each other. Each of them is right by itself.
func (l *loader) rules() {
	c, from := l.config, l.config.origins

	if c.OpsListen != "" && samePort(c.Listen, c.OpsListen) {
		l.problem("ops_listen", "%q needs the same port as listen, %q (%s); give them different ports, or leave ops_listen empty",
			c.OpsListen, c.Listen, from["listen"])
	}
	switch {
	case c.TLS.CertFile != "" && c.TLS.KeyFile == "":
		l.problem("tls.cert_file", "is set without tls.key_file; set both or neither")
	case c.TLS.CertFile == "" && c.TLS.KeyFile != "":
		l.problem("tls.key_file", "is set without tls.cert_file; set both or neither")
	}
	if !slices.Contains(c.KeySizes, 2048) {
		l.problem("key_sizes", "2048 is missing; add it, since requests that name no size get it")
	}
	l.poolRules()
	if after := c.Certificate.ActivateAfter; after > 0 {
		const key = "certificate.activate_after"
		if !c.Publish.Enabled {
			l.problem(key, "%s is for keys that are published before they sign, and publish.enabled is false (%s); set that to true, or this to 0s",
				shortDuration(after), from["publish.enabled"])
		}
		if after < c.Publish.MaxAge {
			l.problem(key, "%s is shorter than publish.max_age, %s (%s), for which verifiers may not know a new key; make it at least as long, or 0s",
				shortDuration(after), shortDuration(c.Publish.MaxAge), from["publish.max_age"])
		}
	}
	l.notLonger("session.idle_timeout", c.Session.IdleTimeout, "session.lifetime", c.Session.Lifetime)
	l.notLonger("limits.read_header_timeout", c.Limits.ReadHeaderTimeout, "limits.read_timeout", c.Limits.ReadTimeout)

	if c.Auth.UsersFile != "" && c.AdminPasswordFile != "" {
		l.warn("%s: admin_password_file: is ignored, since auth.users_file (%s) replaces the built-in admin",
			from["admin_password_file"], from["auth.users_file"])
	}
	if c.Audit.CopyToLog && (c.Log.Level == "warn" || c.Log.Level == "error") {
		l.warn("%s: audit.copy_to_log: has no effect: lines are logged at level info, and log.level is %s (%s)",
			from["audit.copy_to_log"], c.Log.Level, from["log.level"])
	}
	if c.Signer.Socket != "" && len(c.Signer.Allow) == 0 {
		l.warn("%s: signer.socket: nobody may use it, since signer.allow (%s) is empty", from["signer.socket"], from["signer.allow"])
	}
	for _, p := range c.TrustedProxies {
		if bits := narrowestBits(p); p.Bits() < bits {
			l.warn("%s: trusted_proxies: %s is wider than a /%d: X-Forwarded-For is believed, so any member of that network can name any client, "+
				"and throttling, limits and the audit trail name whom it likes; list the addresses of the proxies",
				from["trusted_proxies"], p, bits)
		}
	}
}

// narrowestBits is the prefix of a network that may well hold proxies alone.
func narrowestBits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 24
	}
	return 64
}

// poolRules checks that the pool makes only keys that may be asked for, and of
// each size at most key_pool.max. Default targets are adapted instead.
func (l *loader) poolRules() {
	const key = "key_pool.targets"
	c, from := l.config, l.config.origins
	targets, isDefault := c.KeyPool.Targets, from[key] == "default"
	for _, bits := range slices.Sorted(maps.Keys(targets)) {
		allowed := slices.Contains(c.KeySizes, bits)
		switch {
		case isDefault && !allowed:
			delete(targets, bits)
		case isDefault:
			targets[bits] = min(targets[bits], c.KeyPool.Max)
		case !allowed:
			l.problem(key, "%d is not among key_sizes (%s), so that nobody can ask for such a key; add it there or remove it here", bits, from["key_sizes"])
		case targets[bits] > c.KeyPool.Max:
			l.problem(key, "%d keys of %d bits are more than key_pool.max, %d (%s); lower the target or raise key_pool.max",
				targets[bits], bits, c.KeyPool.Max, from["key_pool.max"])
		}
	}
}

// notLonger checks a duration that is a part of a whole.
func (l *loader) notLonger(key string, part time.Duration, wholeKey string, whole time.Duration) {
	if part > whole {
		l.problem(key, "%s is longer than %s, %s (%s); make it at most as long",
			shortDuration(part), wholeKey, shortDuration(whole), l.config.origins[wholeKey])
	}
}

// samePort reports whether two listen addresses cannot be open at the same time.
// It does not resolve names: listening fails where two names mean one address.
func samePort(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	everywhere := func(host string) bool {
		addr, err := netip.ParseAddr(host)
		return host == "" || err == nil && addr.IsUnspecified()
	}
	return errA == nil && errB == nil && portA == portB && portA != "0" &&
		(strings.EqualFold(hostA, hostB) || everywhere(hostA) || everywhere(hostB))
}

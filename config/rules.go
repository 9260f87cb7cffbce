package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// maxBody is the largest value of limits.body_bytes, and its default; bytes. Clients
	// are promised that longer bodies are refused: it can be less but not more.
	maxBody = 64 << 10

	maxSession   = 30 * 24 * time.Hour
	maxShutdown  = 10 * time.Minute
	maxKeyWait   = 2 * time.Minute
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
)

// rules checks settings against each other, once all sources are in.
func (l *loader) rules() {
	c, from := l.config, l.config.origins

	if l.right("listen", "ops_listen") && c.OpsListen != "" && clash(c.Listen, c.OpsListen) {
		l.problem(from["ops_listen"], "ops_listen", "%q takes the port of listen, %q (%s); give them different ports, or leave ops_listen empty",
			c.OpsListen, c.Listen, from["listen"])
	}
	if l.right("tls.cert_file", "tls.key_file") {
		switch {
		case c.TLS.CertFile != "" && c.TLS.KeyFile == "":
			l.problem(from["tls.cert_file"], "tls.cert_file", "is set without tls.key_file; set both or neither")
		case c.TLS.CertFile == "" && c.TLS.KeyFile != "":
			l.problem(from["tls.key_file"], "tls.key_file", "is set without tls.cert_file; set both or neither")
		}
	}
	if l.right("session.idle_timeout", "session.lifetime") && c.Session.IdleTimeout > c.Session.Lifetime {
		l.problem(from["session.idle_timeout"], "session.idle_timeout", "%s is longer than session.lifetime, %s (%s)",
			shortDuration(c.Session.IdleTimeout), shortDuration(c.Session.Lifetime), from["session.lifetime"])
	}
	if l.right("key_sizes") && !slices.Contains(c.KeySizes, 2048) {
		l.problem(from["key_sizes"], "key_sizes", "2048 is missing: it is the size of a request that names none")
	}

	l.poolRules()
	l.timeoutRules()

	if c.Auth.UsersFile != "" && c.AdminPasswordFile != "" {
		l.warn("%s: admin_password_file: is ignored, since auth.users_file (%s) replaces the built-in admin",
			from["admin_password_file"], from["auth.users_file"])
	}
	if c.Audit.CopyToLog && (c.Log.Level == "warn" || c.Log.Level == "error") {
		l.warn("%s: audit.copy_to_log: has no effect: lines are logged at level info, and log.level is %s (%s)",
			from["audit.copy_to_log"], c.Log.Level, from["log.level"])
	}
	for _, p := range c.TrustedProxies {
		if p.Bits() == 0 {
			l.warn("%s: trusted_proxies: %s lets every client choose the address it is logged and throttled under",
				from["trusted_proxies"], p)
		}
	}
}

// poolRules checks that the pool makes only keys that may be asked for, and of
// each size at most key_pool.max. Default targets are adapted instead.
func (l *loader) poolRules() {
	const key = "key_pool.targets"
	c, from := l.config, l.config.origins
	if !l.right("key_sizes", key, "key_pool.max") {
		return
	}
	for _, bits := range slices.Sorted(maps.Keys(c.KeyPool.Targets)) {
		keys := c.KeyPool.Targets[bits]
		switch {
		case slices.Contains(c.KeySizes, bits) && keys <= c.KeyPool.Max:
		case from[key] == "default":
			delete(c.KeyPool.Targets, bits)
			if slices.Contains(c.KeySizes, bits) {
				c.KeyPool.Targets[bits] = c.KeyPool.Max
			}
		case keys > c.KeyPool.Max:
			l.problem(from[key], key, "%d keys of %d bits are more than key_pool.max, %d (%s); lower the target or raise key_pool.max", keys, bits, c.KeyPool.Max, from["key_pool.max"])
		default:
			l.problem(from[key], key, "%d is not among key_sizes (%s): nobody could ask for such a key", bits, from["key_sizes"])
		}
	}
}

// timeoutRules checks that no timeout is beyond the one that it is a part of.
func (l *loader) timeoutRules() {
	c, from := l.config, l.config.origins
	if l.right("limits.read_header_timeout", "limits.read_timeout") && c.Limits.ReadHeaderTimeout > c.Limits.ReadTimeout {
		l.problem(from["limits.read_header_timeout"], "limits.read_header_timeout", "%s is longer than limits.read_timeout, %s (%s), which counts header and body",
			shortDuration(c.Limits.ReadHeaderTimeout), shortDuration(c.Limits.ReadTimeout), from["limits.read_timeout"])
	}
}

// clash reports whether two listen addresses cannot be open at the same time.
// Names are not resolved: that they mean the same address shows when listening.
func clash(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	everywhere := func(host string) bool {
		addr, err := netip.ParseAddr(host)
		return host == "" || err == nil && addr.IsUnspecified()
	}
	return errA == nil && errB == nil && portA == portB && portA != "0" &&
		(strings.EqualFold(hostA, hostB) || everywhere(hostA) || everywhere(hostB))
}

func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func oneOf(allowed ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(allowed, s) {
			return fmt.Errorf("%.64q is not one of %s", s, strings.Join(allowed, ", "))
		}
		return nil
	}
}

// printable refuses what no setting needs and what would garble a log line.
func printable(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%.64q is not valid UTF-8", s)
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("%.64q has a control character", s)
	}
	return nil
}

func fileName(s string) error {
	if s == "" || len(s) > maxFileName {
		return fmt.Errorf("%.64q is not a file name of 1 to %d bytes", s, maxFileName)
	}
	return printable(s)
}

func userName(s string) error {
	if s == "" || len(s) > maxUserName || strings.Contains(s, ":") {
		return fmt.Errorf("%.64q is not a user name of 1 to %d bytes without a colon", s, maxUserName)
	}
	return printable(s)
}

func listenAddress(s string) error {
	host, port, err := net.SplitHostPort(s)
	if n, ok := decimal(port); err != nil || !ok || n > 65535 {
		return fmt.Errorf("%.64q is not host:port such as :8443, 127.0.0.1:8443 or [::1]:8443, the port 0 to 65535", s)
	}
	if _, err := netip.ParseAddr(host); host == "" || err == nil {
		return nil
	}
	return hostname(host)
}

// hostname checks for a host name as RFC 1123 section 2.1 has it. Of names with
// dots the last label is not all digits, so that no mistyped address passes; a
// single label may be: container engines make names of 12 hexadecimal digits.
func hostname(s string) error {
	refuse := func(rule string) error { return fmt.Errorf("%.80q is not a host name (RFC 1123): %s", s, rule) }
	if s == "" || len(s) > maxHostname {
		return refuse(fmt.Sprintf("it must have 1 to %d characters", maxHostname))
	}
	labels := strings.Split(s, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, notLetterDigitHyphen) {
			return refuse("each part between dots must have 1 to 63 letters, digits and inner hyphens")
		}
	}
	if last := labels[len(labels)-1]; len(labels) > 1 && strings.Trim(last, "0123456789") == "" {
		return refuse("its last part must not be a number")
	}
	return nil
}

func notLetterDigitHyphen(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
}

// keySize takes multiples of 256 bits: the sizes that libraries and hardware
// support and that others can verify. Below 2048 bits RSA is no longer allowed
// (CA/Browser Forum Baseline Requirements, section 6.1.5); above 8192 many
// verifiers refuse.
func keySize(s string) (int, error) {
	bits, ok := decimal(s)
	if !ok || bits < 2048 || bits > 8192 || bits%256 != 0 {
		return 0, fmt.Errorf("%.64q is not an RSA key size: multiples of 256 from 2048 to 8192 are allowed", s)
	}
	return bits, nil
}

// decimal takes digits only: no sign, leading zero, underscore or 0x.
func decimal(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == s
}

// proxy takes an address or a CIDR prefix. What could silently never match, or
// match more than the operator sees, is refused: zones, IPv4-mapped addresses,
// bits beyond the prefix length.
func proxy(s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		addr, addrErr := netip.ParseAddr(s)
		if addrErr != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%.64q is not an address or CIDR prefix such as 192.0.2.7, 10.0.0.0/8 or fd00::/8", s)
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	switch {
	case prefix.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%.64q is an IPv4-mapped address; write it as plain IPv4", s)
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("%.64q has bits beyond its prefix length; write %s", s, prefix.Masked())
	}
	return prefix, nil
}

// grantable says what is wrong with one more privilege for a user who has some.
func (l *loader) grantable(granted []string, privilege string) error {
	if !slices.Contains(l.privileges, privilege) {
		if len(l.privileges) == 0 {
			return errors.New("no privileges can be given")
		}
		return fmt.Errorf("%.64q is not a privilege: %s are allowed", privilege, strings.Join(l.privileges, ", "))
	}
	if slices.Contains(granted, privilege) {
		return fmt.Errorf("%q is there twice", privilege)
	}
	return nil
}

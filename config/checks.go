package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

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

// printable refuses what would garble a log line. No setting needs it.
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

// socket takes what fits in the address of a UNIX socket (unix(7)).
func socket(s string) error {
	if len(s) > maxSocket {
		return fmt.Errorf("%.64q is not a file name of 1 to %d bytes, which is what the path of a socket may have", s, maxSocket)
	}
	return fileName(s)
}

// process takes the number of a user or group. The highest means none to the kernel.
func process(s string) error {
	kind, number, _ := strings.Cut(s, ":")
	if n, ok := decimal(number); kind != "uid" && kind != "gid" || !ok || n >= math.MaxUint32 {
		return fmt.Errorf("%.64q is not uid:N or gid:N with the number of a user or group (id NAME shows them)", s)
	}
	return nil
}

// keyName takes the name of a key that signs.
func keyName(s string) (string, error) {
	if s == "attestation" {
		return s, nil
	}
	id, is := strings.CutPrefix(s, "nsx-")
	if _, err := objectID(id); !is || err != nil {
		return "", fmt.Errorf("%.64q is not a key: attestation and nsx-ID, with the id of an NSX certificate, are allowed", s)
	}
	return s, nil
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

// hostname takes a host name of RFC 1123 section 2.1. In a name with dots, the last
// label must not be a number, so that a mistyped IPv4 address is refused. A single
// label may be a number: container engines make names of 12 hexadecimal digits.
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

// proxy takes an address or a CIDR prefix. It refuses zones and IPv4-mapped
// addresses, which would never match, and bits beyond the prefix length, since such
// a prefix matches more than it shows.
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

// origin takes what a browser sends in an Origin header (RFC 6454 section 6.2): small
// letters, and no port that is the scheme's own. Any other form would never match.
func origin(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > 512 || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" ||
		s != u.Scheme+"://"+u.Host || s != strings.ToLower(s) || strings.HasSuffix(s, ":") {
		return "", fmt.Errorf("%.64q is not an origin such as https://console.example.com or https://10.0.0.7:8443, in small letters and without a path", s)
	}
	if own := map[string]string{"https": "443", "http": "80"}[u.Scheme]; u.Port() == own {
		return "", fmt.Errorf("%.64q has the port that %s has anyway: browsers leave it out, and so does an origin", s, u.Scheme)
	}
	return s, nil
}

// issuer takes an issuer identifier as OpenID Connect Discovery 1.0 section 3 has it.
// Verifiers compare it letter by letter, and put /.well-known/… behind it.
func issuer(s string) error {
	u, err := url.Parse(s)
	if err != nil || len(s) > 512 || u.Scheme != "https" || u.Hostname() == "" || strings.HasSuffix(s, "/") || s != "https://"+u.Host+u.EscapedPath() {
		return fmt.Errorf("%.64q is not an issuer such as https://attest.example.com, without query and without a slash at its end", s)
	}
	return printable(s)
}

// objectID takes what the id of an NSX certificate may be.
func objectID(s string) (string, error) {
	if s == "" || len(s) > maxObjectID || s == "." || s == ".." {
		return "", fmt.Errorf("%.64q is not an id of 1 to %d bytes", s, maxObjectID)
	}
	return s, printable(s)
}

// parseBytes takes a whole number of KiB, MiB or GiB.
func parseBytes(s string) (n int64, ok bool) {
	for _, unit := range byteUnits() {
		if digits, is := strings.CutSuffix(s, unit.name); is {
			n, ok := decimal(digits)
			return int64(n) * unit.bytes, ok && int64(n) <= math.MaxInt64/unit.bytes
		}
	}
	return 0, false
}

// formatBytes writes n in the largest unit that leaves no fraction.
func formatBytes(n int64) string {
	for _, unit := range byteUnits() {
		if n%unit.bytes == 0 {
			return strconv.FormatInt(n/unit.bytes, 10) + unit.name
		}
	}
	return strconv.FormatInt(n, 10)
}

type byteUnit struct {
	name  string
	bytes int64
}

func byteUnits() []byteUnit { return []byteUnit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} }

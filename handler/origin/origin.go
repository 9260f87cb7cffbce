// Package origin says who a request counts for: the address of its client, and the
// part of the network that limits count together.
package origin

import (
	"net"
	"net/netip"

	"github.com/labstack/echo/v4"
)

// networkBits of an IPv6 address count together: one subscriber has at least a /64
// (RFC 6177 section 2).
const networkBits = 64

// NetworkOf is the part of the network that counts as one client: an IPv4 address, or
// a /64 of IPv6, whose owner can use any address in it. All text that is no address
// counts as one client.
func NetworkOf(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = networkBits
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// ClientAddress finds the address of a request's client. It believes
// X-Forwarded-For only where it comes from a trusted peer. Echo's own default
// trusts every private network.
func ClientAddress(trusted []netip.Prefix) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range trusted {
		p = p.Masked()
		options = append(options, echo.TrustIPRange(&net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}))
	}
	return echo.ExtractIPFromXFFHeader(options...)
}

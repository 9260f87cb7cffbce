package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/handler/auth"
)

// connections is a listener that bounds the connections it has open, in all and
// of each address (NetworkOf: of IPv6 a /64), and chooses which of them ends
// where there is no room for one more.
//
// At the bound of an address one of its own ends, in the order of how little is
// lost with it:
//
//  1. silent: nothing was asked over it, for longer than an honest handshake
//     takes. Slow headers and port scans are here.
//  2. idle: it has had an answer and may ask again. Its client connects anew.
//  3. fresh: nothing was asked over it yet. Whoever floods has to open as many
//     connections as the bound within one handshake to push an honest one out.
//  4. answered: idle for so short that the answer may be under way, and the next
//     request too. Both would be lost.
//
// Of one kind it is the longest in that state. Where all are active, with a
// request that is being answered, the new one ends.
//
// At the bound in all it is one of the address that has the most, in the same
// order, and nobody gives way to an address that holds as many: a flood from few
// addresses keeps nobody out and ends nobody's kept connection. Where all is active
// the longest ends of an address that would still have more than the newcomer:
// slow bodies and readers that never read must not pin every place.
//
// A trusted proxy brings the connections of everybody: each of its counts as that
// of an address of its own, so that the bound of an address does not hold for it.
type connections struct {
	net.Listener
	bounds
	now  func() time.Time
	shed *prometheus.CounterVec

	mu    sync.Mutex
	open  []place // in no order
	peers map[origin]*peer
}

// place is what decides about a connection that is open. Places lie side by side,
// since each newcomer to a full listener looks at all of them.
type place struct {
	taker *connection
	from  *peer
	phase http.ConnState // StateNew, StateIdle or StateActive
	since time.Time      // of the phase
}

// silentAfter is how long a connection may be open without a request before it
// loses against those that had one: a handshake over a bad line with a packet
// that is sent again (RFC 6298 section 2: after a second).
const silentAfter = 3 * time.Second

// answeredFor is how long an answer may be under way to a client that is busy, or
// behind a line where a packet is sent again (RFC 6298 section 2: after a second).
const answeredFor = time.Second

// origin is what connections are counted together by.
type origin struct {
	network netip.Prefix
	port    uint16 // of a trusted proxy, else 0
}

// peer is the one at an origin.
type peer struct {
	origin
	open int // connections
}

// connection is one that was accepted.
type connection struct {
	net.Conn
	of    *connections
	index int // of its place, or -1 when it has none any more
}

// kind says how little is lost with a connection; less comes first.
type kind int

const (
	silent kind = iota
	idle
	fresh
	answered
	active
)

func (k kind) String() string { return [...]string{"silent", "idle", "fresh", "answered", "active"}[k] }

// newcomer stands beside the kinds in the metric.
const newcomer = "newcomer"

// Bounds, as the metric names them.
const (
	ofAddress = "address"
	inAll     = "all"
)

// bounds is what connections are bounded by.
type bounds struct {
	listener     string // name in metrics
	all, address int    // connections
	// trusted peers bring connections of others.
	trusted []netip.Prefix
}

// newConnections makes the bound; its Listener is set before it is used.
func newConnections(b bounds) *connections {
	l := &connections{
		bounds: b, now: time.Now, peers: map[origin]*peer{},
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_connections_shed_total",
			Help: "Connections that were ended because there was no room: by the bound that was reached, and by what they were: " +
				"silent, idle, fresh, answered, active, or the newcomer itself.",
			ConstLabels: prometheus.Labels{"listener": b.listener},
		}, []string{"bound", "kind"}),
	}
	for _, k := range []string{silent.String(), idle.String(), fresh.String(), answered.String(), newcomer} {
		l.shed.WithLabelValues(ofAddress, k)
		l.shed.WithLabelValues(inAll, k)
	}
	l.shed.WithLabelValues(inAll, active.String())
	return l
}

// collectors returns the metrics, for the caller to register.
func (l *connections) collectors() []prometheus.Collector {
	return []prometheus.Collector{l.shed, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "attestcsr_connections",
		Help:        "Connections that are open.",
		ConstLabels: prometheus.Labels{"listener": l.listener},
	}, func() float64 { return float64(l.count()) })}
}

// Accept returns the next connection that there is room for.
func (l *connections) Accept() (net.Conn, error) {
	for {
		arrived, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c, victim := l.admit(arrived)
		if victim != nil {
			victim.abort()
		}
		if c != nil {
			boundBuffers(arrived)
			return c, nil
		}
		abort(arrived)
	}
}

// admit counts a connection and returns the one that has to end for it, if any;
// nil, nil is no room.
func (l *connections) admit(arrived net.Conn) (admitted, victim *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	at := originOf(arrived, l.trusted)
	from := l.peers[at]
	if from == nil {
		from = &peer{origin: at}
	}
	bound := ""
	loser := -1
	switch {
	case from.open >= l.address:
		bound = ofAddress
		loser = l.choose(now, func(p *place, k kind) bool { return p.from == from && k < active })
	case len(l.open) >= l.all:
		bound = inAll
		loser = l.choose(now, func(p *place, k kind) bool {
			if k == active {
				return p.from.open > from.open+1
			}
			return p.from.open > from.open || p.from == from
		})
	}
	switch {
	case bound == "":
	case loser < 0:
		l.shed.WithLabelValues(bound, newcomer).Inc()
		return nil, nil
	default:
		victim = l.open[loser].taker
		l.shed.WithLabelValues(bound, l.open[loser].kind(now).String()).Inc()
		l.forget(victim)
	}
	admitted = &connection{Conn: arrived, of: l, index: len(l.open)}
	l.open = append(l.open, place{taker: admitted, from: from, phase: http.StateNew, since: now})
	from.open++
	l.peers[at] = from
	return admitted, victim
}

// choose returns the index of the place to give to another, among those that may
// be given, or -1.
func (l *connections) choose(now time.Time, may func(*place, kind) bool) int {
	chosen, least := -1, active
	for i := range l.open {
		p := &l.open[i]
		k := p.kind(now)
		if chosen >= 0 && !p.losesTo(&l.open[chosen], k, least) || !may(p, k) {
			continue
		}
		chosen, least = i, k
	}
	return chosen
}

// losesTo compares with another place, whose connection is of the kind least.
func (p *place) losesTo(other *place, k, least kind) bool {
	switch {
	case (k == active) != (least == active):
		return least == active
	case p.from.open != other.from.open:
		return p.from.open > other.from.open
	case k != least:
		return k < least
	}
	return p.since.Before(other.since)
}

func (p *place) kind(now time.Time) kind {
	switch {
	case p.phase == http.StateActive:
		return active
	case p.phase == http.StateIdle && now.Sub(p.since) < answeredFor:
		return answered
	case p.phase == http.StateIdle:
		return idle
	case now.Sub(p.since) >= silentAfter:
		return silent
	}
	return fresh
}

func originOf(c net.Conn, trusted []netip.Prefix) origin {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return origin{}
	}
	address := at.Addr().Unmap()
	if slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(address) }) {
		return origin{netip.PrefixFrom(address, address.BitLen()), at.Port()}
	}
	return origin{network: auth.NetworkOf(address.String())}
}

// forget ends the counting of a connection. The lock is held.
func (l *connections) forget(c *connection) {
	if c.index < 0 {
		return
	}
	from, last := l.open[c.index].from, len(l.open)-1
	l.open[c.index] = l.open[last]
	l.open[c.index].taker.index = c.index
	l.open[last] = place{}
	l.open = l.open[:last]
	c.index = -1
	if from.open--; from.open == 0 {
		delete(l.peers, from.origin)
	}
}

func (l *connections) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// follow is the http.Server's ConnState. A request that arrives while its connection is being chosen is
// lost with it, as with every server that closes idle connections: clients send
// it again (RFC 9110 section 9.2.2, RFC 9112 section 9.3.1).
func (l *connections) follow(served net.Conn, state http.ConnState) {
	c := accepted(served)
	if c == nil || state != http.StateActive && state != http.StateIdle {
		return // new is what a connection begins as, and its end is its Close
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.index >= 0 {
		l.open[c.index].phase, l.open[c.index].since = state, l.now()
	}
}

// accepted is the connection under the one that is served, or nil.
func accepted(served net.Conn) *connection {
	if secured, is := served.(*tls.Conn); is {
		served = secured.NetConn()
	}
	c, _ := served.(*connection)
	return c
}

// Close gives the place back.
func (c *connection) Close() error {
	c.of.mu.Lock()
	c.of.forget(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// socketBuffer is what the kernel may keep of a connection in each direction, in
// bytes; it doubles it. Left alone it lets both grow to megabytes, which a client
// that reads nothing would fill: memory of ours, as cgroups count it.
const socketBuffer = 64 << 10

func boundBuffers(c net.Conn) {
	if tcp, is := c.(*net.TCPConn); is {
		_ = tcp.SetReadBuffer(socketBuffer)  // the connection may be closed already,
		_ = tcp.SetWriteBuffer(socketBuffer) // which its first read will tell
	}
}

func (c *connection) abort() { abort(c.Conn) }

// abort closes with a reset, so that the kernel keeps nothing of the connection:
// neither what its client does not read nor the wait after an orderly close.
func abort(c net.Conn) {
	if tcp, is := c.(*net.TCPConn); is {
		_ = tcp.SetLinger(0) // it may be closed already
	}
	_ = c.Close() // it is given up
}

// Package admit is the listener: it bounds the connections that are open, in all and
// of each client, and counts those whose handshake fails.
package admit

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/handler/origin"
)

// Listener bounds the connections that are open, in all and of each client. A client
// is an IPv4 address or an IPv6 /64 network (origin.NetworkOf).
//
// When it is full, it closes one connection of the client that has most: the longest
// idle one, or else the one whose request began first. A client at its own bound loses
// its own longest idle one. Two rules protect the rest:
//
//   - No connection is closed for a client that has as many as its owner. So a flood
//     from few addresses keeps nobody else out.
//   - A connection with a request in flight is closed only for a client that has fewer
//     connections, and no more afterwards. Otherwise the new connection is refused. So
//     a client cannot end its own requests by opening more connections.
//
// A trusted proxy carries the connections of many clients. Each of them counts as a
// client of its own, so the bound of one client does not apply to a proxy.
type Listener struct {
	net.Listener
	Bounds
	shed    *prometheus.CounterVec
	refused *prometheus.CounterVec // handshakes

	mu      sync.Mutex
	open    []*conn               // in no order
	clients map[clientKey]*client // those with open connections
}

// Bounds is what a listener is made from.
type Bounds struct {
	Name           string         // in metrics
	All, PerClient int            // connections
	Trusted        []netip.Prefix // proxies that carry connections of others
	Logger         *slog.Logger   // of refused handshakes
}

// clientKey identifies a client.
type clientKey struct {
	network netip.Prefix
	port    uint16 // of a trusted proxy, else 0
}

type client struct {
	clientKey
	open int // connections
}

// conn is a connection that was accepted.
type conn struct {
	net.Conn
	listener *Listener
	client   *client
	index    int       // in listener.open; -1 once it does not count any more
	active   bool      // a request is being answered
	since    time.Time // when it became active or idle
}

// Labels of the metric: the bound that was reached, and what was closed.
const (
	BoundOfAddress = "address"
	BoundInAll     = "all"

	closedIdle     = "idle"
	closedActive   = "active"
	closedNewcomer = "newcomer"
)

// NewListener sets the bounds; the Listener has to be set before it is used.
func NewListener(b Bounds) *Listener {
	l := &Listener{
		Bounds: b, clients: map[clientKey]*client{}, refused: newHandshakeFailures(b.Name),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name:        "attestcsr_connections_shed_total",
			Help:        "Connections that were closed for want of room, by the bound that was reached (address or all) and by what was closed: an idle or active connection, or the newcomer.",
			ConstLabels: prometheus.Labels{"listener": b.Name},
		}, []string{"bound", "closed"}),
	}
	for _, bound := range []string{BoundOfAddress, BoundInAll} {
		l.shed.WithLabelValues(bound, closedIdle)
		l.shed.WithLabelValues(bound, closedNewcomer)
	}
	l.shed.WithLabelValues(BoundInAll, closedActive)
	return l
}

// Collectors returns the metrics, for the caller to register.
func (l *Listener) Collectors() []prometheus.Collector {
	return []prometheus.Collector{l.shed, l.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "attestcsr_connections",
		Help:        "Connections that are open.",
		ConstLabels: prometheus.Labels{"listener": l.Name},
	}, func() float64 { return float64(l.count()) })}
}

// Accept returns the next connection that there is room for.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		arrived, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		admitted, evicted := l.admit(arrived)
		if evicted != nil {
			abort(evicted.Conn)
		}
		if admitted != nil {
			boundBuffers(arrived)
			return admitted, nil
		}
		abort(arrived)
	}
}

// admit counts a connection and returns the one to close for it, if any. It returns
// nil, nil if there is no room.
func (l *Listener) admit(arrived net.Conn) (admitted, evicted *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.clientOf(arrived)
	bound := ""
	switch {
	case from.open >= l.PerClient:
		bound = BoundOfAddress
		evicted = l.choose(from, true)
	case len(l.open) >= l.All:
		bound = BoundInAll
		evicted = l.choose(from, false)
	}
	switch {
	case bound == "":
	case evicted == nil:
		l.shed.WithLabelValues(bound, closedNewcomer).Inc()
		return nil, nil
	default:
		l.shed.WithLabelValues(bound, evicted.state()).Inc()
		l.remove(evicted)
	}
	admitted = &conn{Conn: arrived, listener: l, client: from, index: len(l.open), since: time.Now()}
	l.open = append(l.open, admitted)
	from.open++
	l.clients[from.clientKey] = from
	return admitted, evicted
}

// choose returns the connection to close for a new one of a client, or nil.
func (l *Listener) choose(newcomer *client, ownOnly bool) *conn {
	var chosen *conn
	for _, c := range l.open {
		if ownOnly && c.client != newcomer || !c.givesWayTo(newcomer) {
			continue
		}
		if chosen == nil || c.evictBefore(chosen) {
			chosen = c
		}
	}
	return chosen
}

// givesWayTo reports whether the connection may be closed for a new one of a client.
func (c *conn) givesWayTo(newcomer *client) bool {
	switch {
	case c.client == newcomer:
		return !c.active
	case c.active:
		return c.client.open > newcomer.open+1
	}
	return c.client.open > newcomer.open
}

// evictBefore reports whether the connection is closed rather than another one.
func (c *conn) evictBefore(other *conn) bool {
	switch {
	case c.client.open != other.client.open:
		return c.client.open > other.client.open
	case c.active != other.active:
		return !c.active
	}
	return c.since.Before(other.since)
}

func (c *conn) state() string {
	if c.active {
		return closedActive
	}
	return closedIdle
}

// clientOf returns the client of a connection: the one that has connections open, or
// a new one. The lock is held.
func (l *Listener) clientOf(arrived net.Conn) *client {
	var key clientKey // of connections without an address
	if remote, err := netip.ParseAddrPort(arrived.RemoteAddr().String()); err == nil {
		address := remote.Addr().Unmap()
		if slices.ContainsFunc(l.Trusted, func(p netip.Prefix) bool { return p.Contains(address) }) {
			key = clientKey{netip.PrefixFrom(address, address.BitLen()), remote.Port()}
		} else {
			key = clientKey{network: origin.NetworkOf(address.String())}
		}
	}
	if known := l.clients[key]; known != nil {
		return known
	}
	return &client{clientKey: key}
}

// remove ends the counting of a connection. The lock is held.
func (l *Listener) remove(c *conn) {
	if c.index < 0 {
		return
	}
	end := len(l.open) - 1
	last := l.open[end]
	l.open[c.index], last.index = last, c.index
	l.open[end] = nil
	l.open = l.open[:end]
	c.index = -1
	if c.client.open--; c.client.open == 0 {
		delete(l.clients, c.client.clientKey)
	}
}

func (l *Listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// Track is the http.Server's ConnState hook. A request that arrives while its idle
// connection is being closed is lost. Every server that closes idle connections has
// this race, and clients send such a request again (RFC 9112 section 9.3.1).
func (l *Listener) Track(served net.Conn, state http.ConnState) {
	secured, isTLS := served.(*tls.Conn)
	switch {
	case !isTLS:
		return
	case state == http.StateClosed:
		l.noteHandshake(secured)
		return
	case state != http.StateActive && state != http.StateIdle:
		return // a connection begins idle, and Close is its end
	}
	c, accepted := secured.NetConn().(*conn)
	if !accepted {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.active, c.since = state == http.StateActive, time.Now()
}

// Close ends the connection and its counting.
func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.remove(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// socketBuffer is what the kernel may keep of a connection in each direction, in
// bytes; it doubles it. Left alone it lets both grow to megabytes, which a client
// that reads nothing would fill. Cgroups count that as memory of the service.
const socketBuffer = 64 << 10

func boundBuffers(c net.Conn) {
	if tcp, is := c.(*net.TCPConn); is {
		_ = tcp.SetReadBuffer(socketBuffer)  // the connection may be closed already;
		_ = tcp.SetWriteBuffer(socketBuffer) // its first read will say so
	}
}

// abort closes with a reset. After an orderly close the kernel would keep what the
// client does not read, and the connection itself for a while.
func abort(c net.Conn) {
	if tcp, is := c.(*net.TCPConn); is {
		_ = tcp.SetLinger(0) // it may be closed already
	}
	_ = c.Close() // it is given up
}

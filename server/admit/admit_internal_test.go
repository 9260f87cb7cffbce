package admit

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/test/kit"
)

// oneConn is a listener with one connection.
type oneConn struct{ arrives net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if l.arrives == nil {
		return nil, net.ErrClosed
	}
	c := l.arrives
	l.arrives = nil
	return c, nil
}

func (*oneConn) Close() error { return nil }

func (*oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// fakeConn is the server's end of a connection from an address that the test chooses.
type fakeConn struct {
	net.Conn
	from   net.Addr
	closed atomic.Bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.from }

func (c *fakeConn) Close() error {
	c.closed.Store(true)
	return nil
}

// clients drives a listener as an http.Server does.
type clients struct {
	t        *testing.T
	listener *Listener
	port     uint16
	admitted map[string]net.Conn  // by name
	fakes    map[string]*fakeConn // those that have to be open
}

func newClients(t *testing.T, b Bounds) *clients {
	b.Name = "test"
	return &clients{t: t, listener: NewListener(b), admitted: map[string]net.Conn{}, fakes: map[string]*fakeConn{}}
}

// connect opens a connection and reports whether it was let in. Time passes
// afterwards, so that no two are equally long in a state.
func (c *clients) connect(name, address string) bool {
	c.t.Helper()
	c.port++
	fake := &fakeConn{from: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), c.port))}
	c.listener.Listener = &oneConn{fake}
	defer time.Sleep(time.Millisecond)
	accepted, err := c.listener.Accept()
	if err != nil {
		if !fake.closed.Load() {
			c.t.Errorf("%s was refused and left open", name)
		}
		return false
	}
	c.admitted[name], c.fakes[name] = accepted, fake
	c.listener.Track(accepted, http.StateNew)
	return true
}

// connectAll opens connections that are named by their numbers.
func (c *clients) connectAll(addresses ...string) {
	c.t.Helper()
	for i, address := range addresses {
		if !c.connect(fmt.Sprint(i), address) {
			c.t.Fatalf("no room for %s", address)
		}
	}
}

func (c *clients) become(state http.ConnState, names ...string) {
	for _, name := range names {
		c.listener.Track(tls.Server(c.admitted[name], nil), state)
		time.Sleep(time.Millisecond)
	}
}

// wantClosed fails unless just these connections were closed since the last call.
func (c *clients) wantClosed(names ...string) {
	c.t.Helper()
	for _, name := range names {
		if !c.fakes[name].closed.Load() {
			c.t.Errorf("%s is open", name)
		}
		delete(c.fakes, name)
	}
	for name, fake := range c.fakes {
		if fake.closed.Load() {
			c.t.Errorf("%s is closed", name)
		}
	}
	if got := c.listener.count(); got != len(c.fakes) {
		c.t.Errorf("%d connections are counted, %d are open", got, len(c.fakes))
	}
}

// A client at its bound gives up its longest idle connection, and none with a
// request in flight.
func TestBoundOfAnAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ours = "192.0.2.1"
		c := newClients(t, Bounds{All: 100, PerClient: 3})
		c.connect("of another", "192.0.2.9")
		c.connectAll(ours, ours, ours)
		c.become(http.StateActive, "0", "1")
		c.become(http.StateIdle, "1", "0")
		for _, closed := range []string{"2", "1", "0"} { // 2 never had a request
			if !c.connect("instead of "+closed, ours) {
				t.Fatalf("no room instead of %s", closed)
			}
			c.wantClosed(closed)
			c.become(http.StateActive, "instead of "+closed)
		}
		if c.connect("x", ours) {
			t.Error("let in although all connections of the address have requests in flight")
		}
		c.wantClosed()
		if !c.connect("of a third", "192.0.2.2") {
			t.Error("the bound of an address holds for another")
		}
		_ = c.admitted["instead of 1"].Close()
		c.wantClosed("instead of 1")
		if !c.connect("y", ours) {
			t.Error("no room although one was closed")
		}
		c.wantClosed()
		for closed, want := range map[string]float64{closedIdle: 3, closedNewcomer: 1} {
			if got := testutil.ToFloat64(c.listener.shed.WithLabelValues(BoundOfAddress, closed)); got != want {
				t.Errorf("%v %s ones are counted, not %v", got, closed, want)
			}
		}
	})
}

const (
	clientA = "192.0.2.1"
	clientB = "192.0.2.2"
	clientC = "192.0.2.3"
	clientD = "192.0.2.4"
)

// A full listener closes the longest idle connection of the address with the most.
func TestFullListenerClosesIdle(t *testing.T) {
	t.Parallel()
	tryFullListener(t, map[string]func(t *testing.T, c *clients){
		"the longest idle one of the address with the most": func(_ *testing.T, c *clients) {
			c.connectAll(clientA, clientA, clientA, clientB, clientB, clientC)
			c.become(http.StateIdle, "3", "1", "0", "2", "4", "5")
			c.connect("new", clientD)
			c.wantClosed("1")
		},
		"an idle one rather than an active one": func(_ *testing.T, c *clients) {
			c.connectAll(clientA, clientA, clientA, clientB, clientB, clientC)
			c.become(http.StateActive, "0", "1")
			c.connect("new", clientD)
			c.wantClosed("2")
		},
		"of two that have the most, the longest idle one": func(_ *testing.T, c *clients) {
			c.connectAll(clientA, clientA, clientB, clientB, clientC, clientD)
			c.become(http.StateIdle, "0", "1")
			c.connect("new", "192.0.2.5")
			c.wantClosed("2")
		},
		"the address with the most gives one of its own": func(t *testing.T, c *clients) {
			c.connectAll(clientA, clientA, clientA, clientA, clientB, clientB)
			c.become(http.StateIdle, "4", "5", "3")
			c.become(http.StateActive, "0", "1", "2")
			if !c.connect("new", clientA) {
				t.Error("kept out")
			}
			c.wantClosed("3")
		},
		"IPv6 networks": func(_ *testing.T, c *clients) {
			c.connectAll("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", clientA, clientC)
			c.become(http.StateIdle, "2", "3", "4", "5", "0", "1")
			c.connect("new", clientD)
			c.wantClosed("3") // two of the /64, two of the IPv4 address: the longer idle
		},
	})
}

// Where the address with the most has no idle connection, a full listener closes the
// one whose request began first, or refuses the new connection.
func TestFullListenerClosesActive(t *testing.T) {
	t.Parallel()
	tryFullListener(t, map[string]func(t *testing.T, c *clients){
		"a newcomer closes none of an address that has no more": func(t *testing.T, c *clients) {
			c.connectAll(clientA, clientA, clientA, clientB, clientB, clientB)
			c.become(http.StateActive, "0", "1", "2")
			c.become(http.StateIdle, "3", "4", "5")
			if c.connect("new", clientA) {
				t.Error("let in")
			}
			c.wantClosed()
			if !c.connect("new", clientC) {
				t.Error("kept out")
			}
			c.wantClosed("3")
		},
		"else the one whose request began first": func(t *testing.T, c *clients) {
			c.connectAll(clientA, clientA, clientA, clientA, clientB, clientC)
			c.become(http.StateActive, "4", "2", "1", "0", "3") // and clientC is idle
			if !c.connect("new", clientD) {
				t.Error("kept out")
			}
			c.wantClosed("2")
			c.become(http.StateActive, "new", "5")
			if !c.connect("of B", clientB) { // 3 + 1 against 1
				t.Error("kept out")
			}
			c.wantClosed("1")
			c.become(http.StateActive, "of B")
			if c.connect("of B too", clientB) { // 2 against 2
				t.Error("a request is ended for an address that would have more")
			}
			c.wantClosed()
		},
		"each connection of a trusted proxy counts by itself": func(t *testing.T, c *clients) {
			c.connectAll("10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", clientB, clientB)
			c.become(http.StateIdle, "0", "1", "2", "3", "4", "5")
			c.connect("new", clientC)
			c.wantClosed("4")
			c.become(http.StateActive, "0", "1", "2", "3", "5", "new")
			if c.connect("x", clientC) || c.connect("y", "10.0.0.1") {
				t.Error("let in although no client has more than one")
			}
			c.wantClosed()
		},
	})
}

// tryFullListener gives each case a listener with room for six.
func tryFullListener(t *testing.T, cases map[string]func(t *testing.T, c *clients)) {
	for name, try := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				try(t, newClients(t, Bounds{All: 6, PerClient: 5, Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}))
			})
		})
	}
}

// While connections come, change and go, the count is right, the bounds hold, and an
// address without a connection gets one whenever another has two.
func TestBoundsUnderConcurrency(t *testing.T) {
	t.Parallel()
	server, bounded := boundedServer(t, Bounds{All: 40, PerClient: 8}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") })
	address := server.Listener.Addr().String()
	stop := make(chan struct{})
	var attempts atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		dialer := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}, Config: &tls.Config{InsecureSkipVerify: true}}
		wg.Go(func() { flood(t, dialer, address, stop, &attempts) })
	}
	answered := 0
	client := server.Client()
	client.Transport.(*http.Transport).DisableKeepAlives = true
	for range kit.Effort(20, 2000) {
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Errorf("a newcomer was kept out: %v", err)
			continue
		}
		_ = resp.Body.Close()
		answered++
		checkCounts(t, bounded)
	}
	close(stop)
	wg.Wait()
	server.CloseClientConnections()
	kit.Eventually(t, "no connection is counted", func() bool {
		bounded.mu.Lock()
		defer bounded.mu.Unlock()
		return len(bounded.open) == 0 && len(bounded.clients) == 0
	})
	kit.Count(t, "newcomers let in among a flood", answered)
	kit.Count(t, "connection attempts", int(attempts.Load()))
}

// boundedServer is an HTTPS server behind a listener with bounds.
func boundedServer(t *testing.T, b Bounds, handle http.HandlerFunc) (*httptest.Server, *Listener) {
	b.Name, b.Logger = "test", slog.New(slog.DiscardHandler)
	server := httptest.NewUnstartedServer(handle)
	bounded := NewListener(b)
	bounded.Listener = server.Listener
	server.Listener = bounded
	server.Config.ConnState = bounded.Track
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, bounded
}

// flood opens connections until stop is closed. It sends a request over every other
// one, and keeps the last twelve open.
func flood(t *testing.T, dialer *tls.Dialer, address string, stop <-chan struct{}, attempts *atomic.Int64) {
	held := make([]net.Conn, 12)
	defer func() {
		for _, c := range held {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		attempts.Add(1)
		c, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			continue // there was no room
		}
		if n%2 == 0 {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // it may be closed already
		}
		if old := held[n%len(held)]; old != nil {
			_ = old.Close()
		}
		held[n%len(held)] = c
	}
}

// checkCounts compares the counts of a listener with its connections and bounds.
func checkCounts(t *testing.T, l *Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counted := 0
	for _, from := range l.clients {
		counted += from.open
		if from.open > l.PerClient {
			t.Errorf("%d connections of one address", from.open)
		}
	}
	if counted != len(l.open) || counted > l.All {
		t.Errorf("%d connections, %d counted", len(l.open), counted)
	}
}

// A connection is not closed for a newcomer while its request is in flight, and is
// afterwards.
func TestRequestInFlightKeepsItsConnection(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	server, _ := boundedServer(t, Bounds{All: 1, PerClient: 1}, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	})
	done := make(chan error, 1)
	go func() {
		resp, err := server.Client().Get(server.URL)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	connects := func() bool {
		c, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	<-entered
	if connects() {
		t.Error("a newcomer was let in beside the only connection there may be")
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	kit.Eventually(t, "the idle connection is closed for a newcomer", connects)
}

func TestConnectionMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	for _, name := range []string{"api", "ops"} {
		registry.MustRegister(NewListener(Bounds{Name: name, All: 1, PerClient: 1}).Collectors()...)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Error(err, problems)
	}
	n, err := testutil.GatherAndCount(registry)
	if err != nil || n != 2*(5+8+1) {
		t.Errorf("%d series, error %v", n, err)
	}
}

// BenchmarkAdmit measures a newcomer to a full listener, where each connection is of
// another address.
func BenchmarkAdmit(b *testing.B) {
	l := NewListener(Bounds{Name: "test", All: 2000, PerClient: 256})
	admit := func(i int) {
		l.admit(&fakeConn{from: &net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))}})
	}
	for i := range l.All {
		admit(i)
	}
	for i := l.All; b.Loop(); i++ {
		admit(i)
	}
}

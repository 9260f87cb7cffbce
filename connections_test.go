package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/keystore/keystoretest"
)

// queue is a listener whose connections come from addresses that the test chooses.
type queue struct{ arrive chan net.Conn }

func (q queue) Accept() (net.Conn, error) {
	c, open := <-q.arrive
	if !open {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (q queue) Close() error   { return nil }
func (q queue) Addr() net.Addr { return &net.TCPAddr{} }

// arrival is the server's end of a connection from an address.
type arrival struct {
	net.Conn
	from   net.Addr
	closed chan struct{}
	once   sync.Once
}

func (a *arrival) RemoteAddr() net.Addr { return a.from }
func (a *arrival) Close() error {
	a.once.Do(func() { close(a.closed) })
	return nil
}

// crowd drives connections as an http.Server does.
type crowd struct {
	t      *testing.T
	bound  *connections
	port   uint16
	names  map[string]*connection
	arrive map[string]*arrival
}

func newCrowd(t *testing.T, b bounds) *crowd {
	b.listener = "test"
	return &crowd{t: t, bound: newConnections(b), names: map[string]*connection{}, arrive: map[string]*arrival{}}
}

// come lets a connection arrive and reports whether it was let in. Time passes
// after it, so that no two are equally long in a state.
func (c *crowd) come(name, address string) bool {
	c.t.Helper()
	c.port++
	a := &arrival{from: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(address), c.port)), closed: make(chan struct{})}
	arrive := make(chan net.Conn, 1)
	arrive <- a
	close(arrive)
	c.bound.Listener = queue{arrive}
	defer time.Sleep(time.Millisecond)
	accepted, err := c.bound.Accept()
	if err != nil {
		select {
		case <-a.closed:
		default:
			c.t.Errorf("%s was refused and left open", name)
		}
		return false
	}
	c.names[name], c.arrive[name] = accepted.(*connection), a
	c.bound.follow(accepted, http.StateNew)
	return true
}

func (c *crowd) is(state http.ConnState, names ...string) {
	for _, name := range names {
		c.bound.follow(tls.Server(c.names[name], nil), state)
		time.Sleep(time.Millisecond)
	}
}

// open returns which of the connections were not ended.
func (c *crowd) open() map[string]bool {
	open := map[string]bool{}
	for name, a := range c.arrive {
		select {
		case <-a.closed:
		default:
			open[name] = true
		}
	}
	if got := c.bound.count(); got != len(open) {
		c.t.Errorf("%d connections are counted, %d are open", got, len(open))
	}
	return open
}

func (c *crowd) wantEnded(names ...string) {
	c.t.Helper()
	open := c.open()
	for _, name := range names {
		if open[name] {
			c.t.Errorf("%s was not ended", name)
		}
		delete(c.arrive, name)
	}
	if len(open) != len(c.arrive) {
		c.t.Errorf("open are %v of %d", open, len(c.arrive))
	}
}

// Who has to end at the bound of an address, in order.
func TestBoundOfAnAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, bounds{all: 100, address: 4})
		for _, name := range []string{"used first", "used later", "silent", "other"} {
			c.come(name, map[bool]string{true: "192.0.2.9", false: "192.0.2.1"}[name == "other"])
		}
		c.is(http.StateActive, "used later", "used first", "other")
		c.is(http.StateIdle, "used later", "used first", "other")
		time.Sleep(silentAfter)
		c.come("fresh", "192.0.2.1")
		c.wantEnded()
		for _, ended := range []string{"silent", "used later", "used first", "fresh"} { // "used later" was idle first
			if !c.come("instead of "+ended, "192.0.2.1") {
				t.Fatalf("no room instead of %s", ended)
			}
			c.wantEnded(ended)
			c.is(http.StateActive, "instead of "+ended)
		}
		if c.come("x", "192.0.2.1") {
			t.Error("let in although all of the address is active")
		}
		if !c.come("of another", "192.0.2.2") {
			t.Error("the bound of an address holds for another")
		}
		c.names["of another"].Close()
		c.wantEnded("of another")
		c.is(http.StateIdle, "instead of fresh", "instead of silent")
		c.come("y", "192.0.2.1")
		c.wantEnded("instead of fresh") // there is nothing else
		c.come("z", "192.0.2.1")
		c.wantEnded("y") // the answer of "instead of silent" may be under way
		time.Sleep(answeredFor)
		c.come("z2", "192.0.2.1")
		c.wantEnded("instead of silent")
		shed := func(kind string) float64 { return testutil.ToFloat64(c.bound.shed.WithLabelValues(ofAddress, kind)) }
		for kind, want := range map[string]float64{"silent": 1, "idle": 3, "fresh": 2, "answered": 1, "newcomer": 1} {
			if got := shed(kind); got != want {
				t.Errorf("%v are told to be %s, not %v", got, kind, want)
			}
		}
	})
}

// Who has to end at the bound in all.
func TestBoundInAll(t *testing.T) {
	t.Parallel()
	const big, small, third = "192.0.2.1", "192.0.2.2", "192.0.2.3"
	for name, try := range map[string]func(t *testing.T, c *crowd){
		"the longest idle of who has most": func(_ *testing.T, c *crowd) {
			fill(c, []string{big, big, big, small, small, third})
			c.is(http.StateIdle, "3", "1", "0", "2", "4", "5")
			c.come("new", "192.0.2.4")
			c.wantEnded("1")
		},
		"silence before idleness": func(_ *testing.T, c *crowd) {
			fill(c, []string{big, big, small, small, third, third})
			c.is(http.StateIdle, "0", "1", "4", "5")
			time.Sleep(silentAfter)
			c.come("new", "192.0.2.4")
			c.wantEnded("2")
		},
		"who has most before silence": func(_ *testing.T, c *crowd) {
			fill(c, []string{big, big, big, small, small, third})
			time.Sleep(silentAfter)
			c.is(http.StateIdle, "5", "3")
			c.names["0"].Close()
			c.come("fresh", big)
			c.is(http.StateIdle, "1", "2")
			delete(c.arrive, "0")
			time.Sleep(answeredFor)
			c.come("new", third)
			c.wantEnded("1")
			c.is(http.StateActive, "2", "new")
			c.come("another", "192.0.2.4")
			c.wantEnded("4") // of those with two the silent one
		},
		"nobody gives way to who has as many": func(t *testing.T, c *crowd) {
			fill(c, []string{big, big, big, small, small, small})
			c.is(http.StateActive, "0", "1", "2")
			c.is(http.StateIdle, "3", "4", "5")
			if c.come("new", big) {
				t.Error("let in")
			}
			c.wantEnded()
			if !c.come("new", third) {
				t.Error("kept out")
			}
			c.wantEnded("3")
		},
		"who has most ends one of its own": func(t *testing.T, c *crowd) {
			fill(c, []string{big, big, big, big, small, small})
			c.is(http.StateIdle, "4", "5", "3")
			c.is(http.StateActive, "0", "1", "2")
			if !c.come("new", big) {
				t.Error("kept out")
			}
			c.wantEnded("3")
		},
		"the longest active of who has most, where all is": func(t *testing.T, c *crowd) {
			fill(c, []string{big, big, big, big, small, third})
			c.is(http.StateActive, "4", "5", "2", "1", "0", "3")
			if !c.come("new", "192.0.2.4") {
				t.Error("kept out")
			}
			c.wantEnded("2")
			c.is(http.StateActive, "new")
			if !c.come("of the small", small) { // 3 + 1 against 1
				t.Error("kept out")
			}
			c.wantEnded("1")
			c.is(http.StateActive, "of the small")
			if c.come("of the small too", small) { // 2 against 2
				t.Error("active ones ended for who would have more")
			}
		},
		"IPv6 networks": func(_ *testing.T, c *crowd) {
			fill(c, []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", big, third})
			c.is(http.StateIdle, "2", "3", "4", "5", "0", "1")
			c.come("new", "192.0.2.4")
			c.wantEnded("3") // two of the /64, two of the IPv4 address: the longer idle
		},
		"a trusted proxy": func(t *testing.T, c *crowd) {
			fill(c, []string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", small, small})
			c.is(http.StateIdle, "0", "1", "2", "3", "4", "5")
			c.come("new", third)
			c.wantEnded("4") // each of the proxy's weighs as one address
			c.is(http.StateActive, "0", "1", "2", "3", "5", "new")
			if c.come("x", third) || c.come("y", "10.0.0.1") {
				t.Error("let in although nobody has more than one")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				try(t, newCrowd(t, bounds{all: 6, address: 5, trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}))
			})
		})
	}
}

// fill lets connections come, named by their numbers.
func fill(c *crowd, addresses []string) {
	for i, address := range addresses {
		if !c.come(fmt.Sprint(i), address) {
			c.t.Fatalf("no room for %s", address)
		}
	}
}

// However connections come, change and go, the count is right, the bounds hold,
// and the one of an address that has no other always gets in while some address
// holds two.
func TestBoundsUnderConcurrency(t *testing.T) {
	t.Parallel()
	const all, ofAddress = 40, 8
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }))
	bound := newConnections(bounds{listener: "test", all: all, address: ofAddress})
	bound.Listener = server.Listener
	server.Listener = bound
	server.Config.ConnState = bound.follow
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	address := server.Listener.Addr().String()

	stop, attempts := make(chan struct{}), 0
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for i := range 8 {
		dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}, Config: &tls.Config{InsecureSkipVerify: true}}
		wg.Go(func() {
			held := make([]net.Conn, 12)
			for n := 0; ; n++ {
				select {
				case <-stop:
					for _, c := range held {
						if c != nil {
							_ = c.Close()
						}
					}
					return
				default:
				}
				mu.Lock()
				attempts++
				mu.Unlock()
				c, err := dialer.DialContext(t.Context(), "tcp", address)
				if err != nil {
					continue // there was no room
				}
				if n%2 == 0 {
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") // it may be ended already
				}
				if old := held[n%len(held)]; old != nil {
					_ = old.Close()
				}
				held[n%len(held)] = c
			}
		})
	}
	answered := 0
	client := server.Client()
	client.Transport.(*http.Transport).DisableKeepAlives = true
	for range keystoretest.Effort(20, 2000) {
		resp, err := client.Get(server.URL)
		if err != nil {
			t.Errorf("a newcomer was kept out: %v", err)
			continue
		}
		_ = resp.Body.Close()
		answered++
		bound.mu.Lock()
		counted := 0
		for _, p := range bound.peers {
			counted += p.open
			if p.open > ofAddress {
				t.Errorf("%d connections of one address", p.open)
			}
		}
		if counted != len(bound.open) || counted > all {
			t.Errorf("%d connections, %d counted", len(bound.open), counted)
		}
		bound.mu.Unlock()
	}
	close(stop)
	wg.Wait()
	server.CloseClientConnections()
	eventually(t, "every place is given back", func() bool {
		bound.mu.Lock()
		defer bound.mu.Unlock()
		return len(bound.open) == 0 && len(bound.peers) == 0
	})
	keystoretest.Count(t, "newcomers let in among a flood", answered)
	keystoretest.Count(t, "connection attempts", attempts)
}

func TestConnectionMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	for _, listener := range []string{"api", "ops"} {
		registry.MustRegister(newConnections(bounds{listener: listener, all: 1, address: 1}).collectors()...)
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Error(err, problems)
	}
	n, err := testutil.GatherAndCount(registry)
	if err != nil || n != 2*(11+1) {
		t.Errorf("%d series, error %v", n, err)
	}
}

// BenchmarkChoose is what a newcomer costs at the bound, where each connection is
// of an address of its own: the most there is to look at.
func BenchmarkChoose(b *testing.B) {
	bound := newConnections(bounds{listener: "test", all: 2000, address: 256})
	for i := range 2000 + b.N {
		if i == 2000 {
			b.ResetTimer()
		}
		bound.admit(&arrival{from: &net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))}, closed: make(chan struct{})})
	}
}

package hostile_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// What has to hold while clients are hostile.
const (
	maxMemory = 200 << 20 // bytes of anonymous memory
	// maxMedian is that of honest reads, beside maxSlower times that of the reads before the
	// attack: other tests may make this machine busy.
	maxMedian = 100 * time.Millisecond
	maxSlower = 10
)

const shortTimeouts = "  read_header_timeout: 3s\n  read_timeout: 3s\n  write_timeout: 1s\n  idle_timeout: 3s\n"

// maxConnections is limits.connections of the servers that are attacked. The long run
// has the defaults. The short run has a quarter of everything: bounds and floods.
func maxConnections() int { return kit.Effort(500, 2000) }

// TestHostileClients runs one attack after the other. Meanwhile an honest client with
// a session reads, over a kept connection and over new ones. After each attack the
// server has to be as it was before.
//
// It does not run beside the other tests of this package: it measures.
func TestHostileClients(t *testing.T) { //nolint:paralleltest // see above
	// Slow clients meet short timeouts. Busy ones meet the default timeouts, since
	// they make this machine busy too.
	quick, patient := newVictim(t, shortTimeouts), newVictim(t, "")
	quick.seed(t, 500)
	patient.seed(t, 2)

	for _, attack := range []struct {
		name   string
		victim *victim
		run    func(t *testing.T, v *victim)
	}{
		{"connections", quick, floodConnections},
		{"slow headers", quick, slowHeaders},
		{"slow bodies", quick, slowBodies},
		{"readers that never read", quick, neverRead},
		{"huge headers", patient, hugeHeaders},
		{"deep JSON", patient, deepJSON},
		{"compressed bodies", patient, compressedBodies},
		{"creates of 4096 bits", patient, manyCreates},
	} {
		t.Run(attack.name, func(t *testing.T) { attack.victim.withstand(t, func() { attack.run(t, attack.victim) }) })
		attack.victim.T = t
	}
	for _, v := range []*victim{quick, patient} {
		if _, faults, is := strings.Cut(v.Stdout.String(), `"level":"ERROR"`); is {
			t.Errorf("the log has errors of the service: %.2000s", faults)
		}
	}
}

// newVictim starts a server without a key pool. limits are further lines of the
// section of that name.
func newVictim(t *testing.T, limits string) *victim {
	t.Helper()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: fmt.Sprintf("key_queue:\n  bound: %d\n  deadline: 2s\nlimits:\n  connections: %d\n  connections_per_address: %d\n",
		kit.Effort(64, 256), maxConnections(), kit.Effort(64, 256)) + limits})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	return &victim{Instance: s, session: start.Member(t, `{"id":`+s.Must(201, "POST", start.SessionPath, "")+`}`, "id")}
}

// victim is a server under attack.
type victim struct {
	*start.Instance
	session string // of the honest clients
}

// seed makes named CSRs with long descriptions, so that a list of them is long.
func (v *victim) seed(t *testing.T, n int) {
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				a, err := v.Do("POST", fmt.Sprintf("%s/seed-%d?action=create", start.NSXCSRs, i),
					strings.Replace(start.ECSpec("seed"), "{", `{"description":"`+strings.Repeat("x", 1000)+`",`, 1))
				if err != nil || a.Status != 201 {
					t.Errorf("%v %d %s", err, a.Status, a.Body)
				}
			}
		})
	}
	wg.Wait()
}

// state has to be the same before and after an attack.
type state struct{ connections, goroutines, files int }

func (v *victim) state(t *testing.T) state {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return state{v.metric(`attestcsr_connections{listener="api"}`), v.metric("go_goroutines"), len(files)}
}

// metric reads with the session, which costs the server no check of a password.
func (v *victim) metric(name string) int {
	v.T.Helper()
	return v.Metric(name, start.Session(v.session))
}

// withstand runs an attack and checks what has to hold meanwhile and afterwards.
func (v *victim) withstand(t *testing.T, attack func()) {
	v.T = t
	before := v.state(t)
	calm := &honest{fresh: true}
	calmly, end := context.WithTimeout(t.Context(), time.Second)
	calm.read(calmly, t, v)
	end()
	bound := maxMedian + maxSlower*calm.median()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var memory atomic.Int64
	wg.Go(func() { v.watchMemory(ctx, t, &memory) })
	kept, fresh := &honest{}, &honest{fresh: true}
	wg.Go(func() { kept.read(ctx, t, v) })
	wg.Go(func() { fresh.read(ctx, t, v) })
	begun := time.Now()
	attack()
	took := time.Since(begun)
	stop()
	wg.Wait()

	t.Logf("%.1fs, memory at most %d MiB, median of %d reads over a kept connection %v, of %d over new ones %v; bound %v",
		took.Seconds(), memory.Load()>>20, len(kept.took), kept.median(), len(fresh.took), fresh.median(), bound)
	if memory.Load() >= maxMemory || memory.Load() == 0 {
		t.Errorf("%d bytes of memory", memory.Load())
	}
	for _, h := range []*honest{kept, fresh} {
		if len(h.took) == 0 || h.median() >= bound {
			t.Errorf("median of %d reads: %v", len(h.took), h.median())
		}
	}
	kit.Count(t, "honest reads among hostile clients", len(kept.took)+len(fresh.took))

	v.recover(t, before)
}

// recover waits until the server is as it was before.
func (v *victim) recover(t *testing.T, before state) {
	t.Helper()
	v.Client.CloseIdleConnections()
	var after state
	recovered := kit.Until(func() bool {
		after = v.state(t)
		return after.connections <= before.connections && after.goroutines <= before.goroutines+4 && after.files <= before.files+2
	})
	if !recovered {
		t.Errorf("before %+v, afterwards %+v", before, after)
	}
	v.Must(200, "GET", "/readyz", "")
	// The keys that clients of the attack did not wait for are made to the end first.
	kit.Eventually(t, "a create that finds the processors free", func() bool {
		a, err := v.Do("POST", start.CSRPath, start.ValidSpec)
		return err == nil && a.Status == 201
	})
}

// slowest returns the longest duration that the log has of an answer.
func (v *victim) slowest(t *testing.T, route string, status int) (longest time.Duration) {
	t.Helper()
	for line := range strings.Lines(v.Stdout.String()) {
		var request struct {
			Route    string        `json:"route"`
			Status   int           `json:"status"`
			Duration time.Duration `json:"duration"`
		}
		if err := json.Unmarshal([]byte(line), &request); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if request.Route == route && request.Status == status {
			longest = max(longest, request.Duration)
		}
	}
	return longest
}

// watchMemory keeps the largest amount of anonymous memory that the server had.
func (v *victim) watchMemory(ctx context.Context, t *testing.T, most *atomic.Int64) {
	line := regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`)
	for ctx.Err() == nil {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.Cmd.Process.Pid))
		found := line.FindSubmatch(text)
		if err != nil || found == nil {
			t.Errorf("no memory: %v %s", err, text)
			return
		}
		kB, err := strconv.ParseInt(string(found[1]), 10, 64)
		if err != nil {
			t.Error(err)
		}
		most.Store(max(most.Load(), kB<<10))
		time.Sleep(10 * time.Millisecond)
	}
}

// honest is a client that reads with its session, from 127.0.0.1.
type honest struct {
	fresh bool // over a new connection each time
	took  []time.Duration
}

func (h *honest) read(ctx context.Context, t *testing.T, v *victim) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: h.fresh,
	}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		begun := time.Now()
		a, err := v.WithClient(client).Do("GET", start.CSRPath, "", start.Session(v.session))
		if err != nil || a.Status != 200 {
			t.Errorf("an honest read, new connection %t: %v %d", h.fresh, err, a.Status)
		} else {
			h.took = append(h.took, time.Since(begun))
		}
		time.Sleep(30 * time.Millisecond)
	}
}

func (h *honest) median() time.Duration {
	if len(h.took) == 0 {
		return 0
	}
	slices.Sort(h.took)
	return h.took[len(h.took)/2]
}

// hostileTLS makes handshakes as cheap as possible for a client that makes thousands.
func hostileTLS() *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, ServerName: "localhost",
		CurvePreferences: []tls.CurveID{tls.X25519}, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
}

// dial connects from 127.0.0.2 and up. The connection is closed when the test ends.
func (v *victim) dial(t *testing.T, source int) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte((source+2)>>8), byte(source+2))}, Timeout: 10 * time.Second}
	c, err := dialer.DialContext(t.Context(), "tcp", v.Address())
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// dialTLS is dial with a TLS handshake.
func (v *victim) dialTLS(t *testing.T, source int, settings *tls.Config) (*tls.Conn, error) {
	c, err := v.dial(t, source)
	if err != nil {
		return nil, err
	}
	secured := tls.Client(c, settings)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	return secured, nil
}

// each runs f for 0 to n-1, workers at a time.
func each(n, workers int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

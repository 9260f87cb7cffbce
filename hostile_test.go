package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/keystore/keystoretest"
)

// What has to hold while clients are hostile.
const (
	mostMemory    = 200 << 20 // bytes of anonymous memory
	mostMedian    = 100 * time.Millisecond
	shortTimeouts = "limits:\n  read_header_timeout: 3s\n  read_timeout: 3s\n  write_timeout: 3s\n  idle_timeout: 3s\n"
)

// TestHostileClients does to servers what hostile clients do, one thing after
// the other. Meanwhile an honest client with a session reads, over a kept
// connection and over new ones. After each the server has to be as it was before.
//
// It does not run beside the other tests of this package: it measures.
func TestHostileClients(t *testing.T) { //nolint:paralleltest // see above
	dir := t.TempDir()
	// Not the test binary: the race detector multiplies memory and time.
	binary := filepath.Join(dir, "attestcsr")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Slow clients are met by short timeouts, busy ones by those that there are by
	// default: this machine is as busy as they are.
	quick, patient := newVictim(t, binary, shortTimeouts), newVictim(t, binary, "")
	quick.seed(t, 1000)
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
		{"rapid reset", patient, rapidReset},
		{"control frames", patient, controlFrames},
		{"header blocks", quick, headerBlocks},
		{"streams that never read", quick, streamsThatNeverRead},
		{"streams with slow bodies", quick, streamsWithSlowBodies},
	} {
		t.Run(attack.name, func(t *testing.T) { attack.victim.endures(t, func() { attack.run(t, attack.victim) }) })
		attack.victim.t = t
	}
	for _, v := range []*victim{quick, patient} {
		if text := v.stdout.String(); strings.Contains(text, `"level":"ERROR"`) {
			t.Errorf("the log tells faults of the service: %.2000s", text[strings.Index(text, `"level":"ERROR"`):])
		}
	}
}

// newVictim starts a server without a key pool.
func newVictim(t *testing.T, binary, limits string) *victim {
	t.Helper()
	dir := t.TempDir()
	overwrite(t, dir, "password", "swordfish")
	overwrite(t, dir, "config.yaml", noPool+"key_queue:\n  deadline: 4s\n"+limits)
	s := launchBinary(t, binary, filepath.Join(dir, "data"), "--admin-password-file", filepath.Join(dir, "password"), "--config", filepath.Join(dir, "config.yaml"))
	if err := s.waitReady(); err != nil {
		t.Fatal(err)
	}
	s.password = "swordfish"
	s.must(201, "POST", csrPath, validSpec)
	return &victim{instance: s, address: strings.TrimPrefix(s.url, "https://"), session: member(t, `{"id":`+s.must(201, "POST", sessionPath, "")+`}`, "id")}
}

// victim is the server that is attacked.
type victim struct {
	*instance
	address string
	session string
}

// seed makes named CSRs, so that a list of them is long.
func (v *victim) seed(t *testing.T, n int) {
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				status, body, err := v.do("POST", fmt.Sprintf("%s/csrs/seed-%d?action=create", nsxPath, i),
					`{"subject":{"attributes":[{"key":"CN","value":"seed"}]},"algorithm":"EC","key_size":256}`, "")
				if err != nil || status != 201 {
					t.Errorf("%v %d %s", err, status, body)
				}
			}
		})
	}
	wg.Wait()
}

// state is what an attack must not change for good.
type state struct{ connections, goroutines, files int }

func (v *victim) state(t *testing.T) state {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return state{v.metric(t, `attestcsr_connections{listener="api"}`), v.metric(t, "go_goroutines"), len(files)}
}

// metric is the sum of what a metric says.
func (v *victim) metric(t *testing.T, name string) (sum int) {
	t.Helper()
	status, text, err := v.do("GET", "/metrics", "", v.session)
	if err != nil || status != 200 {
		t.Fatal(err, status)
	}
	found := regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(name)+`(?:\{.*\})? (\S+)$`).FindAllStringSubmatch(text, -1)
	if found == nil {
		t.Fatalf("no metric %s", name)
	}
	for _, line := range found {
		n, err := strconv.ParseFloat(line[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += int(n)
	}
	return sum
}

// endures runs an attack and checks what has to hold meanwhile and afterwards.
func (v *victim) endures(t *testing.T, attack func()) {
	v.t = t
	before := v.state(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var memory atomic.Int64
	wg.Go(func() { v.watchMemory(t, ctx, &memory) })
	kept, fresh := &honest{}, &honest{fresh: true}
	wg.Go(func() { kept.read(t, ctx, v) })
	wg.Go(func() { fresh.read(t, ctx, v) })
	start, processor := time.Now(), v.processor(t)
	attack()
	took := time.Since(start)
	stop()
	wg.Wait()

	t.Logf("%.1fs (processor: server %v), memory at most %d MiB, median of %d reads over a kept connection %v, of %d over new ones %v",
		took.Seconds(), (v.processor(t) - processor).Round(10*time.Millisecond), memory.Load()>>20, len(kept.took), kept.median(), len(fresh.took), fresh.median())
	if memory.Load() >= mostMemory || memory.Load() == 0 {
		t.Errorf("%d bytes of memory", memory.Load())
	}
	for _, h := range []*honest{kept, fresh} {
		if len(h.took) == 0 || h.median() >= mostMedian {
			t.Errorf("median of %d reads: %v", len(h.took), h.median())
		}
	}
	keystoretest.Count(t, "honest reads among hostile clients", len(kept.took)+len(fresh.took))

	v.client.CloseIdleConnections()
	var after state
	for range 400 {
		after = v.state(t)
		if after.connections <= before.connections && after.goroutines <= before.goroutines+4 && after.files <= before.files+2 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if after.connections > before.connections || after.goroutines > before.goroutines+4 || after.files > before.files+2 {
		t.Errorf("before %+v, afterwards %+v", before, after)
	}
	v.must(200, "GET", "/readyz", "")
	// Keys that were in the making when their clients went are made to the end.
	eventually(t, "a create that finds the processors free", func() bool {
		status, _, err := v.do("POST", csrPath, validSpec, "")
		return err == nil && status == 201
	})
}

// slowest is the longest that the log says an answer took.
func (v *victim) slowest(t *testing.T, route string, status int) (longest time.Duration) {
	t.Helper()
	for line := range strings.Lines(v.stdout.String()) {
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

// processor is the time that the server has had of processors, by proc(5).
func (v *victim) processor(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", v.cmd.Process.Pid))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if err != nil || len(fields) < 13 {
		t.Fatalf("%v %s", err, text)
	}
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime, in hundredths
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// watchMemory keeps the most anonymous memory that the server had.
func (v *victim) watchMemory(t *testing.T, ctx context.Context, most *atomic.Int64) {
	line := regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`)
	for ctx.Err() == nil {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
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

func (h *honest) read(t *testing.T, ctx context.Context, v *victim) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, DisableKeepAlives: h.fresh,
	}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		start := time.Now()
		req, err := http.NewRequestWithContext(context.Background(), "GET", v.url+csrPath, nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("vmware-api-session-id", v.session)
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("an honest read, new connection %t: %v", h.fresh, err)
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("an honest read, new connection %t: %v %d", h.fresh, err, resp.StatusCode)
		}
		h.took = append(h.took, time.Since(start))
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

// hostileTLS makes handshakes as cheap as they get for who makes thousands.
func hostileTLS(protocol string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{protocol}, ServerName: "localhost",
		CurvePreferences: []tls.CurveID{tls.X25519}, ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
}

// dial connects from 127.0.0.2 and up. What it returns is closed when the test ends.
func (v *victim) dial(t *testing.T, source int) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte((source+2)>>8), byte(source+2))}, Timeout: 10 * time.Second}
	c, err := dialer.DialContext(t.Context(), "tcp", v.address)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// secure is dial with a handshake for a protocol.
func (v *victim) secure(t *testing.T, source int, settings *tls.Config) (*tls.Conn, error) {
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

// floodConnections attempts 10,000 connections from 40 addresses and leaves every
// one open: most say nothing, some talk nonsense, some shake hands and are silent.
func floodConnections(t *testing.T, v *victim) {
	attempts := keystoretest.Effort(10_000, 100_000)
	settings := hostileTLS("h2")
	shed := v.metric(t, "attestcsr_connections_shed_total")
	var held atomic.Int64
	each(attempts, 16, func(i int) {
		time.Sleep(5 * time.Millisecond) // the honest clients run on the same processors
		if i%20 == 0 {
			if _, err := v.secure(t, i%40, settings); err == nil {
				held.Add(1)
			}
			return
		}
		c, err := v.dial(t, i%40)
		if err != nil {
			return // its place in the queue of the kernel is taken
		}
		held.Add(1)
		if i%3 == 0 {
			_, _ = io.WriteString(c, "nonsense, and nonsense, and nonsense\r\n") // it may be closed already
		}
		go func() {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}()
	})
	if n := v.state(t).connections; n > 2000 {
		t.Errorf("%d connections", n)
	}
	keystoretest.Count(t, "connection attempts", attempts)
	keystoretest.Count(t, "connections shed", v.metric(t, "attestcsr_connections_shed_total")-shed)
}

// slowHeaders has more connections than there is room for, each of which sends a
// header line now and then.
func slowHeaders(t *testing.T, v *victim) {
	settings := hostileTLS("http/1.1")
	var wg sync.WaitGroup
	var held atomic.Int64
	each(keystoretest.Effort(2300, 10_000), 32, func(i int) {
		c, err := v.secure(t, i%12, settings)
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, "POST "+csrPath+" HTTP/1.1\r\nHost: x\r\n"); err != nil {
			return
		}
		held.Add(1)
		wg.Go(func() {
			for range 20 {
				time.Sleep(500 * time.Millisecond)
				if _, err := io.WriteString(c, "X-A: b\r\n"); err != nil {
					return
				}
			}
			t.Error("a header may take ten seconds where three are allowed")
		})
	})
	wg.Wait()
	keystoretest.Count(t, "connections held with slow headers", int(held.Load()))
}

// slowBodies sends, with a session, the header of a create and then a byte now
// and then.
func slowBodies(t *testing.T, v *victim) {
	settings := hostileTLS("http/1.1")
	var answered, gone atomic.Int64
	var wg sync.WaitGroup
	each(keystoretest.Effort(600, 5000), 32, func(i int) {
		c, err := v.secure(t, i%3, settings)
		if err != nil {
			return
		}
		authorization := "vmware-api-session-id: " + v.session
		if i%5 == 0 {
			authorization = "X-Nobody: x"
		}
		if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Type: application/json\r\nContent-Length: 65000\r\n\r\n%s",
			csrPath, authorization, strings.Repeat(" ", 60_000)); err != nil {
			return
		}
		wg.Go(func() {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				if err == nil {
					answered.Add(1)
				}
				_, _ = io.Copy(io.Discard, c)
				gone.Add(1)
			}()
			for range 20 {
				select {
				case <-ended:
					return
				case <-time.After(500 * time.Millisecond):
				}
				if _, err := io.WriteString(c, " "); err != nil {
					return
				}
			}
			t.Error("a body may take ten seconds where three are allowed")
		})
	})
	wg.Wait()
	keystoretest.Count(t, "slow bodies", int(gone.Load()))
	t.Logf("%d answers", answered.Load())
}

// neverRead asks for long lists and reads nothing until long after its time.
func neverRead(t *testing.T, v *victim) {
	settings := hostileTLS("http/1.1")
	var wg sync.WaitGroup
	var held, ended atomic.Int64
	each(keystoretest.Effort(300, 2500), 32, func(i int) {
		c, err := v.secure(t, i%3, settings)
		if err != nil {
			return
		}
		_ = c.NetConn().(*net.TCPConn).SetReadBuffer(4096) // the kernel reads too
		request := fmt.Sprintf("GET %s/csrs HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\n\r\n", nsxPath, basic(v))
		if _, err := io.WriteString(c, request+request); err != nil {
			return
		}
		held.Add(1)
		wg.Go(func() {
			time.Sleep(4 * time.Second)
			// What is there is a part of the first answer, or the whole of one that
			// says there is no room.
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Second)) // an error is one of the read
			if n, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) || n > 2000 {
				ended.Add(1)
			}
		})
	})
	wg.Wait()
	keystoretest.Count(t, "readers that never read", int(held.Load()))
	keystoretest.Count(t, "readers that were cut off", int(ended.Load()))
}

func basic(v *victim) string {
	req := http.Request{Header: http.Header{}}
	req.SetBasicAuth("admin", v.password)
	return strings.TrimPrefix(req.Header.Get("Authorization"), "Basic ")
}

// hugeHeaders sends headers that are too long in one line, in many lines, and in
// the first line, over both protocols.
func hugeHeaders(t *testing.T, v *victim) {
	settings := hostileTLS("http/1.1")
	many := strings.Builder{}
	for i := range 6000 {
		fmt.Fprintf(&many, "X-%d: %d\r\n", i, i)
	}
	forms := map[string]string{
		"one line":   "GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"many lines": "GET / HTTP/1.1\r\nHost: x\r\n" + many.String() + "\r\n",
		"first line": "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"cookies":    "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("Cookie: "+strings.Repeat("a=b; ", 100)+"\r\n", 100) + "\r\n",
	}
	var refused atomic.Int64
	for name, text := range forms {
		each(keystoretest.Effort(30, 2000), 4, func(i int) {
			time.Sleep(10 * time.Millisecond)
			c, err := v.secure(t, i%40, settings)
			if err != nil {
				t.Error(err)
				return
			}
			go func() { _, _ = io.WriteString(c, text) }() // the server stops reading
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("%s: %s", name, resp.Status)
			}
			refused.Add(1)
		})
	}
	keystoretest.Count(t, "huge headers", int(refused.Load()))
}

// jsonRoutes are all that read JSON.
func jsonRoutes() map[string]string {
	return map[string]string{
		csrPath:                                 "POST",
		certificatePath:                         "PUT",
		nsxPath + "/csrs/hostile?action=create": "POST",
		nsxPath + "/csrs/seed-1?action=import":  "POST",
		nsxPath + "/csrs?action=self_sign":      "POST",
	}
}

func deepJSON(t *testing.T, v *victim) {
	const most = 64 << 10
	bodies := []string{
		strings.Repeat("[", most),
		strings.Repeat("[", most/2) + strings.Repeat("]", most/2),
		strings.Repeat(`{"a":`, most/5),
		`{"subject":` + strings.Repeat("[", most-20) + "}",
		`{"subject_alt_name":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + "}",
		`{"subject_alt_name":[` + strings.Repeat(`"",`, 20_000) + `""]}`,
		`{"tags":[` + strings.Repeat(`{},`, 20_000) + `{}]}`,
		`{"subject":{"attributes":[` + strings.Repeat(`{},`, 20_000) + `{}]}}`,
		`{"key_size":` + strings.Repeat("9", most-20) + `}`,
		`{"common_name":"` + strings.Repeat(`\u0000`, 10_000) + `"}`,
		`{` + strings.Repeat(`"a":0,`, 10_000) + `"a":0}`,
		strings.Repeat(" ", most),
	}
	tried := atomic.Int64{}
	for path, method := range jsonRoutes() {
		for i, body := range bodies {
			each(keystoretest.Effort(4, 200), 4, func(int) {
				status, answer, err := v.do(method, path, body, sessionFor(v, path))
				if err != nil || status != 400 || len(answer) > 16<<10 {
					t.Errorf("body %d to %s: %v %d %.300s", i, path, err, status, answer)
				}
				tried.Add(1)
			})
		}
	}
	keystoretest.Count(t, "hostile JSON bodies", int(tried.Load()))
}

// sessionFor is the session where it counts; the other dialect gets Basic.
func sessionFor(v *victim, path string) string {
	if strings.HasPrefix(path, nsxPath) {
		return ""
	}
	return v.session
}

// compressedBodies sends what would be hundreds of megabytes if anyone inflated it.
func compressedBodies(t *testing.T, v *victim) {
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	for range 50 {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for path, method := range jsonRoutes() {
		for _, coding := range []string{"gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "x"} {
			req, err := http.NewRequestWithContext(t.Context(), method, v.url+path, bytes.NewReader(bomb.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Content-Encoding", coding)
			req.SetBasicAuth("admin", v.password)
			resp, err := v.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != 400 || !strings.Contains(string(body), "Content-Encoding") {
				t.Errorf("%s to %s: %v %d %s", coding, path, err, resp.StatusCode, body)
			}
			tried++
		}
	}
	keystoretest.Count(t, "compressed bodies", tried)
}

// manyCreates wants 1,000 keys of 4096 bits at once, from five addresses.
func manyCreates(t *testing.T, v *victim) {
	var mu sync.Mutex
	counts := map[int]int{}
	slowest := map[int]time.Duration{}
	clients := make([]*http.Client, 5)
	for i := range clients {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(i+2))}}
		clients[i] = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: hostileTLS("h2"), ForceAttemptHTTP2: true,
		}}
		defer clients[i].CloseIdleConnections()
	}
	body := strings.Replace(validSpec, "{", `{"key_size":4096,`, 1)
	n := keystoretest.Effort(1000, 5000)
	each(n, 1000, func(i int) {
		start := time.Now()
		req, err := http.NewRequestWithContext(t.Context(), "POST", v.url+csrPath, strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("vmware-api-session-id", v.session)
		resp, err := clients[i%len(clients)].Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		answer, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != 201 && (resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "") {
			t.Errorf("%v %d %s", err, resp.StatusCode, answer)
		}
		mu.Lock()
		defer mu.Unlock()
		counts[resp.StatusCode]++
		slowest[resp.StatusCode] = max(slowest[resp.StatusCode], time.Since(start))
	})
	t.Logf("answers %v, the slowest %v", counts, slowest)
	if counts[503] < n/2 {
		t.Errorf("answers %v", counts)
	}
	// The queue lets them wait for four seconds; what comes on top is in this
	// process, which has a thousand clients.
	if waited := v.slowest(t, csrPath, 503); waited > 8*time.Second {
		t.Errorf("told after %v that it is too busy", waited)
	}
	keystoretest.Count(t, "creates of 4096 bits at once", counts[201]+counts[503])
}

package hostile_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// floodConnections opens connections from 40 addresses and closes none: most send
// nothing, some send nonsense, some send nothing after the handshake.
func floodConnections(t *testing.T, v *victim) {
	attempts := kit.Effort(2500, 100_000)
	settings := hostileTLS()
	shed := v.metric("attestcsr_connections_shed_total")
	var held atomic.Int64
	each(attempts, 16, func(i int) {
		time.Sleep(5 * time.Millisecond) // the honest clients run on the same processors
		if i%20 == 0 {
			if _, err := v.dialTLS(t, i%40, settings); err == nil {
				held.Add(1)
			}
			return
		}
		c, err := v.dial(t, i%40)
		if err != nil {
			return // the kernel's queue is full
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
	if n := v.state(t).connections; n > maxConnections() {
		t.Errorf("%d connections", n)
	}
	kit.Count(t, "connection attempts", attempts)
	kit.Count(t, "connections shed", v.metric("attestcsr_connections_shed_total")-shed)
}

// drip sends a text every half second until the server ends the connection, which has
// to be within ten seconds: three are allowed.
func drip(t *testing.T, c io.Writer, text string) {
	for range 20 {
		time.Sleep(500 * time.Millisecond)
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
	t.Errorf("the server takes %q for ten seconds", text)
}

// slowHeaders opens more connections than there is room for and sends a header line
// over each now and then.
func slowHeaders(t *testing.T, v *victim) {
	settings := hostileTLS()
	var wg sync.WaitGroup
	var held atomic.Int64
	each(kit.Effort(600, 10_000), 32, func(i int) {
		c, err := v.dialTLS(t, i%12, settings)
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, "POST "+start.CSRPath+" HTTP/1.1\r\nHost: x\r\n"); err != nil {
			return
		}
		held.Add(1)
		wg.Go(func() { drip(t, c, "X-A: b\r\n") })
	})
	wg.Wait()
	kit.Count(t, "connections held with slow headers", int(held.Load()))
}

// slowBodies sends the header of a create and most of a body, and then a byte now and
// then. One in five has no session.
func slowBodies(t *testing.T, v *victim) {
	settings := hostileTLS()
	var gone atomic.Int64
	var wg sync.WaitGroup
	each(kit.Effort(150, 5000), 32, func(i int) {
		c, err := v.dialTLS(t, i%3, settings)
		if err != nil {
			return
		}
		authorization := "vmware-api-session-id: " + v.session
		if i%5 == 0 {
			authorization = "X-Nobody: x"
		}
		if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Type: application/json\r\nContent-Length: 65000\r\n\r\n%s",
			start.CSRPath, authorization, strings.Repeat(" ", 60_000)); err != nil {
			return
		}
		wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
		wg.Go(func() {
			drip(t, c, " ")
			gone.Add(1)
		})
	})
	wg.Wait()
	kit.Count(t, "slow bodies", int(gone.Load()))
}

// neverRead asks for long lists and reads nothing. The server gives up after
// write_timeout and five seconds more, in which crypto/tls tries to send its last alert.
func neverRead(t *testing.T, v *victim) {
	settings := hostileTLS()
	cut := func() int { return strings.Count(v.Stdout.String(), `"error_kind":"answer_not_taken"`) }
	before := cut()
	var held atomic.Int64
	each(kit.Effort(40, 2500), 32, func(i int) {
		c, err := v.dialTLS(t, i%3, settings)
		if err != nil {
			return
		}
		_ = c.NetConn().(*net.TCPConn).SetReadBuffer(4096) // the kernel reads too
		if _, err := io.WriteString(c, "GET "+start.NSXCSRs+" HTTP/1.1\r\nHost: x\r\n"+v.Authorization()+"\r\n"); err == nil {
			held.Add(1)
		}
	})
	kit.Eventually(t, "readers are cut off", func() bool { return cut()-before >= 20 })
	kit.Count(t, "readers that never read", int(held.Load()))
	kit.Count(t, "readers that were cut off", cut()-before)
}

// hugeHeaders sends headers that are too long: one line, many lines, the first line.
func hugeHeaders(t *testing.T, v *victim) {
	settings := hostileTLS()
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
		each(kit.Effort(10, 2000), 4, func(i int) {
			time.Sleep(10 * time.Millisecond)
			c, err := v.dialTLS(t, i%40, settings)
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
	kit.Count(t, "huge headers", int(refused.Load()))
}

// jsonRoutes returns all routes that read JSON, with their methods.
func jsonRoutes() map[string]string {
	return map[string]string{
		start.CSRPath:                            "POST",
		start.CertificatePath:                    "PUT",
		start.NSXCSRs + "/hostile?action=create": "POST",
		start.NSXCSRs + "/seed-1?action=import":  "POST",
		start.NSXCSRs + "?action=self_sign":      "POST",
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
			each(kit.Effort(2, 40), 4, func(int) {
				a, err := v.Do(method, path, body)
				if err != nil || a.Status != 400 || len(a.Body) > 16<<10 {
					t.Errorf("body %d to %s: %v %d %.300s", i, path, err, a.Status, a.Body)
				}
				tried.Add(1)
			})
		}
	}
	kit.Count(t, "hostile JSON bodies", int(tried.Load()))
}

// compressedBodies sends bodies that would be 50 MB each if the server inflated them.
func compressedBodies(t *testing.T, v *victim) {
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := strings.Repeat(member.String(), 50) // members may follow each other (RFC 1952 section 2.2)
	tried := 0
	for path, method := range jsonRoutes() {
		for _, coding := range []string{"gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "x"} {
			a, err := v.Do(method, path, bomb, start.Header("Content-Encoding", coding))
			if err != nil || a.Status != 400 || !strings.Contains(a.Body, "Content-Encoding") {
				t.Errorf("%s to %s: %v %d %s", coding, path, err, a.Status, a.Body)
			}
			tried++
		}
	}
	kit.Count(t, "compressed bodies", tried)
}

// manyCreates asks for keys of 4096 bits, four times as many as may wait for one, from
// five addresses at once.
func manyCreates(t *testing.T, v *victim) {
	var mu sync.Mutex
	counts := map[int]int{}
	var lost []error
	clients := make([]*http.Client, 5)
	for i := range clients {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(i+2))}}
		clients[i] = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: hostileTLS(),
		}}
	}
	defer func() {
		for _, c := range clients {
			c.CloseIdleConnections()
		}
	}()
	body := strings.Replace(start.ValidSpec, "{", `{"key_size":4096,`, 1)
	n, atOnce := kit.Effort(250, 5000), kit.Effort(250, 1000)
	each(n, atOnce, func(i int) {
		a, err := v.WithClient(clients[i%len(clients)]).Do("POST", start.CSRPath, body, start.Session(v.session))
		if err == nil && a.Status != 201 && (a.Status != 503 || a.Header.Get("Retry-After") == "") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			// The client opens more connections than it uses. The server may have
			// closed the one that this request was sent over.
			lost = append(lost, err)
			return
		}
		counts[a.Status]++
	})
	t.Logf("answers %v, lost %v", counts, lost)
	if len(lost) > n/100 {
		t.Errorf("%d of %d got no answer", len(lost), n)
	}
	if counts[503] < n/2 {
		t.Errorf("answers %v", counts)
	}
	// key_queue.deadline is two seconds. The rest is the load on this machine.
	if waited := v.slowest(t, start.CSRPath, 503); waited > 8*time.Second {
		t.Errorf("a 503 came after %v", waited)
	}
	kit.Count(t, "creates of 4096 bits at once", counts[201]+counts[503])
}

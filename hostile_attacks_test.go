package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/keystore/keystoretest"
)

// floodConnections attempts 10,000 connections from 40 addresses and leaves every
// one open: most say nothing, some talk nonsense, some shake hands and are silent.
func floodConnections(t *testing.T, v *victim) {
	attempts := keystoretest.Effort(10_000, 100_000)
	settings := hostileTLS()
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
	settings := hostileTLS()
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
	settings := hostileTLS()
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
	settings := hostileTLS()
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
// the first line.
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
			each(keystoretest.Effort(4, 40), 4, func(int) {
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
			// The client opens far more connections at once than it uses; one of
			// those that made room may be the one that it chose.
			mu.Lock()
			defer mu.Unlock()
			lost = append(lost, err)
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
	t.Logf("answers %v, the slowest %v, lost %v", counts, slowest, lost)
	if len(lost) > n/100 {
		t.Errorf("%d of %d got no answer", len(lost), n)
	}
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

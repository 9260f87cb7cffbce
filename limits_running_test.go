package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"attestcsr/keystore/keystoretest"
)

// Each limit is one that a running service keeps to.
func TestLimitsTakeEffect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "config.yaml", noPool+`limits:
  csrs: 2
  certificates: 1
  connections: 40
  connections_per_address: 6
  streams: 7
  header_bytes: 4096
  body_bytes: 1024
  read_header_timeout: 1s
  read_timeout: 2s
  write_timeout: 5s
  idle_timeout: 3s
  sessions: 3
  sessions_per_user: 2
  memory: 300MiB
`)
	s := start(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"), "--ops-listen", "127.0.0.1:0")
	v := &victim{instance: s, address: strings.TrimPrefix(s.url, "https://")}

	if !strings.Contains(s.stdout.String(), `"memory limit of the garbage collector","bytes":314572800`) {
		t.Errorf("no memory limit: %s", s.stdout)
	}
	const ec = `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"EC","key_size":256}`
	for i, want := range []int{201, 201, 400} {
		s.must(want, "POST", fmt.Sprintf("%s/csrs/%d?action=create", nsxPath, i), ec)
	}
	s.must(201, "POST", nsxPath+"/csrs/0?action=self_sign", "")
	if full := s.must(400, "POST", nsxPath+"/csrs/1?action=self_sign", ""); !strings.Contains(full, "certificates is full: it takes 1 objects") {
		t.Error(full)
	}
	for _, want := range []int{201, 201, 503} {
		s.must(want, "POST", sessionPath, "")
	}
	s.must(413, "POST", csrPath, strings.Repeat(" ", 1025))
	s.must(400, "POST", csrPath, strings.Repeat(" ", 1024))
	if status, _, err := s.do("GET", csrPath+"?"+strings.Repeat("a", 10_000), "", ""); err == nil && status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of ten thousand bytes: %d", status)
	}

	f := v.frames(t, 0)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		settings, is := frame.(*http2.SettingsFrame)
		if !is || settings.IsAck() {
			continue
		}
		if n, told := settings.Value(http2.SettingMaxConcurrentStreams); !told || n != 7 {
			t.Errorf("%d streams", n)
		}
		break
	}

	// The time until the server ends a connection, from when said was.
	ends := func(said string) time.Duration {
		c, err := v.secure(t, 1, hostileTLS("http/1.1"))
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err = io.WriteString(c, said)
		if err == nil {
			err = c.SetReadDeadline(begun.Add(20 * time.Second))
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, bufio.NewReader(c)) // however it ends
		return time.Since(begun)
	}
	for name, c := range map[string]struct {
		said        string
		least, most time.Duration
	}{
		"read_header_timeout": {"GET / HTTP/1.1\r\n", 800 * time.Millisecond, 2 * time.Second},
		"idle_timeout":        {"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 2800 * time.Millisecond, 6 * time.Second},
		"read_timeout": {"POST " + csrPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\nAuthorization: Basic " + basic(v) + "\r\n\r\n",
			1800 * time.Millisecond, 5 * time.Second},
	} {
		if took := ends(c.said); took < c.least || took > c.most {
			t.Errorf("%s: a connection ended after %v", name, took)
		}
	}

	held := 0
	for range 12 { // of one address
		c, err := v.dial(t, 2)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		held++
	}
	for i := range 60 { // and of many
		if _, err := v.dial(t, 3+i); err != nil {
			t.Fatal(err)
		}
		held++
	}
	eventually(t, "the bounds are kept to", func() bool {
		shed := func(bound string) bool {
			for line := range strings.SplitSeq(v.opsMetrics(t), "\n") {
				if strings.HasPrefix(line, `attestcsr_connections_shed_total{bound="`+bound+`"`) && !strings.HasSuffix(line, " 0") {
					return true
				}
			}
			return false
		}
		return shed(ofAddress) && shed(inAll)
	})
	keystoretest.Count(t, "connections held", held)
}

// opsMetrics is what the listener for health and metrics tells, however full the other is.
func (v *victim) opsMetrics(t *testing.T) string {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
		DialContext: (&net.Dialer{}).DialContext,
	}}
	resp, err := client.Get(v.ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp.Status)
	}
	return string(text)
}

// A process that may not have as many files as its limit of connections needs
// says so and takes fewer, instead of running out of them.
func TestFewFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "few", "#!/bin/sh\nulimit -n 150\nexec attestcsr \"$@\"\n")
	chmod(t, dir, "few", 0o700)
	overwrite(t, dir, "config.yaml", noPool)
	overwrite(t, dir, "password", "swordfish")
	few := launchBinary(t, filepath.Join(dir, "few"), filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"), "--admin-password-file", filepath.Join(dir, "password"))
	if err := few.waitReady(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(few.stdout.String(), `"limits_connections":2000,"used":86,"open_files_needed":2064`) {
		t.Errorf("no warning: %s", few.stdout)
	}
	v := &victim{instance: few, address: strings.TrimPrefix(few.url, "https://")}
	for i := range 300 {
		if _, err := v.dial(t, i); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, err := few.do("GET", "/readyz", "", ""); err != nil || status != 200 {
		t.Errorf("readiness: %v %d", err, status)
	}
	if strings.Contains(few.stdout.String(), "too many open files") {
		t.Error("it ran out of files")
	}
}

// A request is in flight until its answer is taken. Over HTTP/2 one connection can
// ask for many and give no room for them, also without a user's name: what is
// beyond the bound of an address is refused, and beyond that reset without an answer.
func TestAnswersNotTakenOverHTTP2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "config.yaml", noPool+`limits:
  connections: 40
  connections_per_address: 16
  write_timeout: 6s
`)
	s := start(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "config.yaml"))
	v := &victim{instance: s, address: strings.TrimPrefix(s.url, "https://")}
	f := v.frames(t, 0, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	if f == nil {
		return
	}
	defer f.conn.Close()
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	const streams = 60
	for range streams {
		if err := f.open(true, f.header("GET", csrPath)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.out.Flush(); err != nil {
		t.Fatal(err)
	}
	answers := map[string]int{}
	for n := 0; n < streams; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %v", err, answers)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			answers[frame.PseudoValue("status")]++
			n++
		case *http2.RSTStreamFrame:
			answers["reset"]++
			n++
		}
	}
	if want := map[string]int{"401": 16, "503": 20, "reset": 24}; !maps.Equal(answers, want) {
		t.Errorf("%v, not %v", answers, want)
	}
	const inFlight = "attestcsr_http_requests_in_flight"
	if n := v.metric(t, inFlight); n != 16 {
		t.Errorf("%d requests are in flight", n)
	}
	s.must(200, "GET", certificatePath, "") // from another address
	eventually(t, "answers that nobody takes are given up", func() bool { return v.metric(t, inFlight) == 0 })
}

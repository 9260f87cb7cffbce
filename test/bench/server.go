package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	password = "not a secret: a loopback server with throw-away data"

	stopTimeout = 30 * time.Second
	// fillTimeout is for a pool of hundreds of keys. A first start takes seconds.
	fillTimeout = 10 * time.Minute

	// withoutAudit turns the audit trail off, which only the profiled binary can.
	withoutAudit = "BENCH_WITHOUT_AUDIT=1"
)

// newBench makes what is needed to start servers, in a folder of its own.
func newBench(ctx context.Context, dir string, stderr io.Writer) (b *bench, err error) {
	b = &bench{dir: dir, stderr: stderr, seeds: map[int]string{}}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(password+"\n"), 0o600); err != nil {
		return nil, err
	}
	b.progress("building the server")
	if b.binary, err = build(ctx, dir, ""); err != nil {
		return nil, err
	}
	b.profiled, err = build(ctx, dir, "bench")
	return b, err
}

// build makes a static binary as the Dockerfile does, with further build tags.
func build(ctx context.Context, dir, tags string) (string, error) {
	binary := filepath.Join(dir, "attestcsr"+tags)
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", binary, "attestcsr") //nolint:gosec // our own arguments
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server (run this from the module's folder): %w\n%s", err, out)
	}
	return binary, nil
}

// server is a running process that serves HTTPS: the measured one, or the empty
// handler.
type server struct {
	cmd     *exec.Cmd
	end     context.CancelFunc // SIGTERM, and SIGKILL after stopTimeout
	address string             // host:port on loopback
	dataDir string
	exited  chan struct{}
	stderr  bytes.Buffer // complete when exited is closed
	objects int          // that startSeeded made
}

// start runs a binary of the service on dataDir and waits until it is ready. Its
// settings and its log stand beside dataDir. It keeps that many keys of 2048 bits ready
// and none of other sizes; 0 leaves the defaults.
func (b *bench) start(ctx context.Context, binary, dataDir string, pool int, env ...string) (*server, error) {
	address, err := freeAddress(ctx)
	if err := errors.Join(err, os.MkdirAll(dataDir, 0o700)); err != nil {
		return nil, err
	}
	settings := fmt.Sprintf("listen: %q\nhostname: %q\nadmin_password_file: %q\nsigning: {rate: 1000000}\n"+
		"signer:\n  socket: %q\n  allow: {\"uid:%d\": [attestation]}\n", address, host, filepath.Join(b.dir, "password"), dataDir+".sock", os.Getuid())
	if pool > 0 {
		settings += fmt.Sprintf("key_pool:\n  targets: {2048: %d}\n", pool)
	}
	if err := os.WriteFile(dataDir+".yaml", []byte(settings), 0o600); err != nil {
		return nil, err
	}
	// The log goes to a file, as it would through a container engine.
	log, err := os.OpenFile(dataDir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s, err := b.launch(ctx, address, dataDir, "/readyz", log, env, binary, "serve", "--config="+dataDir+".yaml", "--data-dir="+dataDir)
	return s, errors.Join(err, log.Close()) // the process has a descriptor of its own
}

// socket is where programs on this host have data signed.
func (s *server) socket() string { return s.dataDir + ".sock" }

// startEmpty runs the empty handler with the certificate in dataDir.
func (b *bench) startEmpty(ctx context.Context, dataDir string) (*server, error) {
	address, err := freeAddress(ctx)
	self, selfErr := os.Executable()
	if err := errors.Join(err, selfErr); err != nil {
		return nil, err
	}
	return b.launch(ctx, address, dataDir, "/", nil, nil, self, emptyCommand, address, dataDir)
}

// freeAddress is one that was free a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// launch starts a process and waits until the path answers 200. It ends with the phase.
func (b *bench) launch(ctx context.Context, address, dataDir, path string, log io.Writer, env []string, command ...string) (*server, error) {
	life, end := context.WithCancel(ctx)
	cmd := exec.CommandContext(life, command[0], command[1:]...) //nolint:gosec // this program, or built by it
	cmd.Env = append(os.Environ(), env...)
	s := &server{cmd: cmd, end: end, address: address, dataDir: dataDir, exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, &s.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		end()
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // ProcessState says how it ended
		close(s.exited)
	}()
	b.running = append(b.running, s)
	err := poll(ctx, func() (bool, error) {
		select {
		case <-s.exited:
			return true, errors.New("it ended")
		default:
			_, err := s.once(ctx, call{"GET", path, "", http.StatusOK})
			return err == nil, nil
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(command[0]), err)
	}
	return s, nil
}

// poll looks until something is done, or failed, or has taken too long.
func poll(ctx context.Context, look func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	for {
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// once makes a call over a connection of its own, as the user.
func (s *server) once(ctx context.Context, r call) ([]byte, error) {
	c := newClient("https://"+s.address, basic())
	defer c.http.CloseIdleConnections()
	return c.do(ctx, r)
}

// clients have a connection each, which ends with the server.
func (s *server) clients(n int, header http.Header) (clients []*client) {
	for range n {
		clients = append(clients, newClient("https://"+s.address, header))
	}
	return clients
}

// greeted are clients whose connections are open and whose password was verified.
func (s *server) greeted(ctx context.Context, n int) ([]*client, error) {
	clients := s.clients(n, basic())
	_, err := closedLoop(clients, limit{count: n}, greeting)(ctx)
	return clients, err
}

// basic are the headers of a client that sends its password with every request.
func basic() http.Header {
	r := &http.Request{Header: http.Header{"Content-Type": {"application/json"}}}
	r.SetBasicAuth("admin", password)
	return r.Header
}

// stop ends the process as an orchestrator does.
func (s *server) stop() error {
	s.end()
	<-s.exited
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("the server ended with %s\n%s", s.cmd.ProcessState, s.stderr.Bytes())
	}
	return nil
}

// stopAll ends what the phase has started.
func (b *bench) stopAll() error {
	var errs []error
	for _, s := range b.running {
		errs = append(errs, s.stop())
	}
	b.running = nil
	return errors.Join(errs...)
}

// anonymousMemory is RssAnon, in MB of 10⁶ bytes.
func (s *server) anonymousMemory() (float64, error) {
	text := procValue(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid), "RssAnon")
	kib, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
	return kib * 1024 / 1e6, err
}

// filled waits until the pools of all these servers hold the keys that they are to
// hold: none of them makes keys any more, which would take processors from what is
// measured.
func filled(ctx context.Context, servers ...*server) error {
	for _, s := range servers {
		err := poll(ctx, func() (bool, error) {
			metrics, err := s.once(ctx, call{"GET", "/metrics", "", http.StatusOK})
			targets := sum(metrics, "attestcsr_key_pool_target")
			return targets > 0 && sum(metrics, "attestcsr_key_pool_keys") == targets, err
		})
		if err != nil {
			return fmt.Errorf("fill the key pool: %w", err)
		}
	}
	return nil
}

// sum adds up a metric over its labels.
func sum(metrics []byte, name string) (total float64) {
	for _, found := range regexp.MustCompile(`(?m)^`+name+`\{.*\} (.+)$`).FindAllSubmatch(metrics, -1) {
		v, _ := strconv.ParseFloat(string(found[1]), 64) // a number: it is a metric
		total += v
	}
	return total
}

// saveProfile takes a CPU profile of a server that was built with the tag bench, which
// serves net/http/pprof in its data_dir, and writes it to a file.
func (s *server) saveProfile(ctx context.Context, d time.Duration, file string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.dataDir, "pprof.sock"))
	}}
	defer transport.CloseIdleConnections()
	c := &client{base: "http://pprof", http: &http.Client{Transport: transport}}
	profile, err := c.do(ctx, call{"GET", fmt.Sprintf("/debug/pprof/profile?seconds=%.0f", d.Seconds()), "", http.StatusOK})
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return os.WriteFile(file, profile, 0o600)
}

// profileShare returns the share of a CPU profile's samples that have a function
// matching the regular expression anywhere on their stack, from 0 to 1.
func profileShare(ctx context.Context, file, function string) (float64, error) {
	// All nodes are asked for, so that none is missing from the sum.
	cmd := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=1000000", "-nodefraction=0", "-focus="+function, file) //nolint:gosec // our own arguments
	cmd.Stderr = io.Discard
	top, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go tool pprof: %w", err)
	}
	found := regexp.MustCompile(`Showing nodes accounting for .*, ([0-9.]+)% of`).FindSubmatch(top)
	if found == nil {
		return 0, fmt.Errorf("go tool pprof printed something else:\n%.300s", top)
	}
	percent, err := strconv.ParseFloat(string(found[1]), 64)
	return percent / 100, err
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// The names that the service gives its files in data_dir.
const (
	storeFile   = "attestcsr.db"
	keysetFile  = "sealing-keyset.json"
	certFile    = "tls-cert.pem"
	certKeyFile = "tls-key.pem"
)

const (
	hostname = "esx-01.example.com"
	user     = "bench"
	password = "not a secret: a loopback server with throw-away data"

	startTimeout = 2 * time.Minute // a first start makes an RSA key
	stopTimeout  = 30 * time.Second
	// clockTick is the unit of processor times in /proc (USER_HZ, proc(5)).
	clockTick = 10 * time.Millisecond
)

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

// server is a running process that serves HTTPS: the measured one, or the
// do-nothing echo.
type server struct {
	cmd     *exec.Cmd
	address string // host:port on loopback
	dataDir string
	trust   *tls.Config
	ready   time.Duration // from exec to the first answer of /readyz
	exited  chan struct{}
	stderr  bytes.Buffer // complete when exited is closed
}

// settings are what phases need of the service beyond its defaults.
type settings struct {
	// pool is how many keys of 2048 bits are kept ready, and none of other
	// sizes; 0 leaves the defaults.
	pool int
	// withoutAudit turns the audit trail off, which only the profiled binary can.
	withoutAudit bool
}

// start runs a binary of the service on dataDir and waits until it is ready. Its
// settings and its log stand beside dataDir.
func (b *bench) start(ctx context.Context, binary, dataDir string, s settings) (*server, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, err
	}
	config, err := writeSettings(dataDir, address, s)
	if err != nil {
		return nil, err
	}
	// The log goes to a file, as it would through a container engine.
	log, err := os.OpenFile(dataDir+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "serve", "--config="+config, "--data-dir="+dataDir) //nolint:gosec // built by us
	cmd.Stdout = log
	if s.withoutAudit {
		cmd.Env = append(os.Environ(), "BENCH_WITHOUT_AUDIT=1")
	}
	running, err := launch(ctx, cmd, address, dataDir, "/readyz")
	return running, errors.Join(err, log.Close()) // the process has a descriptor of its own
}

// startEcho runs the do-nothing server with the certificate in dataDir.
func (b *bench) startEcho(ctx context.Context, dataDir string) (*server, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return launch(ctx, exec.CommandContext(ctx, self, echoCommand, address, dataDir), address, dataDir, "/") //nolint:gosec // this program
}

func launch(ctx context.Context, cmd *exec.Cmd, address, dataDir, readyPath string) (*server, error) {
	s := &server{cmd: cmd, address: address, dataDir: dataDir, exited: make(chan struct{})}
	cmd.Stderr = &s.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // ProcessState says how it ended
		close(s.exited)
	}()
	if err := s.waitReady(ctx, readyPath); err != nil {
		s.kill()
		return nil, fmt.Errorf("start %s: %w\n%s", filepath.Base(cmd.Path), err, s.stderr.Bytes())
	}
	s.ready = time.Since(begun)
	return s, nil
}

// waitReady waits until the address accepts connections and the path answers 200.
func (s *server) waitReady(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.probe(ctx, path)
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return errors.New("it ended")
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}

func (s *server) probe(ctx context.Context, path string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	if err := conn.Close(); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(s.dataDir, certFile)) // there before it listens
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("%s holds no certificate", certFile)
	}
	s.trust = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	_, err = s.once(ctx, call{"GET", path, "", http.StatusOK})
	return err
}

// once makes a call over a connection of its own, as the user.
func (s *server) once(ctx context.Context, r call) ([]byte, error) {
	clients := s.clients(1, basic())
	defer closeAll(clients)
	return clients[0].do(ctx, r)
}

func (s *server) clients(n int, header http.Header) []*client {
	return newClients(n, "https://"+s.address, s.trust, header)
}

// basic are the headers of a client that sends its password with every request.
func basic() http.Header {
	r := &http.Request{Header: http.Header{"Content-Type": {"application/json"}}}
	r.SetBasicAuth(user, password)
	return r.Header
}

// stop ends the process as an orchestrator does.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		s.kill()
		return errors.New("the server did not end after SIGTERM and was killed")
	}
	if !s.cmd.ProcessState.Success() {
		return fmt.Errorf("the server ended with %s\n%s", s.cmd.ProcessState, s.stderr.Bytes())
	}
	return nil
}

// freeze takes all processors away from the process until thaw.
func (s *server) freeze() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

func (s *server) thaw() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// kill ends the process as a crash does.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.exited
}

// memory returns the anonymous and the whole resident memory, in MB of 10⁶ bytes.
func (s *server) memory() (anonymous, resident float64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "RssAnon" && name != "VmRSS" {
			continue
		}
		kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc status: %w", err)
		}
		if name == "RssAnon" {
			anonymous = kib * 1024 / 1e6
		} else {
			resident = kib * 1024 / 1e6
		}
	}
	return anonymous, resident, nil
}

// processorTime is what the process has used since it began, all threads.
func (s *server) processorTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold anything: fields are
	// counted from behind it. User and system time are fields 14 and 15.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc stat: %q", stat)
	}
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("/proc stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// errNoPool: the phases that need keys made ahead cannot be measured.
var errNoPool = errors.New("the server has no warm key pool: /metrics shows no attestcsr_key_pool_keys")

// waitWarm waits until the pool holds as many keys as it wants to, and at least
// this many of 2048 bits.
func (s *server) waitWarm(ctx context.Context, atLeast int) error {
	// Fifty times what the making of the keys takes on one slow core.
	ctx, cancel := context.WithTimeout(ctx, time.Minute+time.Duration(atLeast)*time.Second/2)
	defer cancel()
	for {
		keys, targets, err := s.poolState(ctx)
		switch {
		case err != nil:
			return err
		case len(keys) == 0:
			return errNoPool
		}
		warm := keys["2048"] >= atLeast
		for size, target := range targets {
			warm = warm && keys[size] >= target
		}
		if warm {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the pool does not fill: it holds %v of %v keys, and at least %d of 2048 bits are wanted: %w", keys, targets, atLeast, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// rest waits until the server makes no keys in the background, which would take
// processors from a measurement that has nothing to do with keys.
func (s *server) rest(ctx context.Context) error {
	if err := s.waitWarm(ctx, 0); !errors.Is(err, errNoPool) {
		return err
	}
	return nil
}

// poolState reads how many keys the pool holds and wants to hold, by size.
func (s *server) poolState(ctx context.Context) (keys, targets map[string]int, err error) {
	keys, err = s.metric(ctx, "attestcsr_key_pool_keys")
	if err != nil {
		return nil, nil, err
	}
	targets, err = s.metric(ctx, "attestcsr_key_pool_target")
	return keys, targets, err
}

// metric reads a metric whose one label is size.
func (s *server) metric(ctx context.Context, name string) (bySize map[string]int, err error) {
	text, err := s.once(ctx, call{"GET", "/metrics", "", http.StatusOK})
	if err != nil {
		return nil, err
	}
	bySize = map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		rest, is := strings.CutPrefix(lines.Text(), name+`{size="`)
		if !is {
			continue
		}
		size, amount, _ := strings.Cut(rest, `"} `)
		n, err := strconv.ParseFloat(amount, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
		bySize[size] = int(n)
	}
	return bySize, lines.Err()
}

// freeAddress is one that was free a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// writeSettings writes the settings file and the users file beside dataDir. The
// user comes from a file: the built-in admin's password would be hashed in the
// start that is measured.
func writeSettings(dataDir, address string, s settings) (file string, err error) {
	users := dataDir + ".users"
	if _, err := os.Stat(users); errors.Is(err, os.ErrNotExist) {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(users, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
			return "", err
		}
	}
	text := fmt.Sprintf(`listen: %q
hostname: %q
auth:
  users_file: %q
  privileges:
    %s: [SECURITY_MGMT, "policy_certificate:crud"]
`, address, hostname, users, user)
	if s.pool > 0 {
		text += fmt.Sprintf("key_pool:\n  targets: {2048: %d}\n", s.pool)
	}
	file = dataDir + ".yaml"
	return file, os.WriteFile(file, []byte(text), 0o600)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
	"attestcsr/keystore/pool"
	"attestcsr/keystore/sealed"
)

const (
	// longestOperation has room for the making of the largest key, and for a commit
	// on a slow disk, after the wait for a key.
	longestOperation = 2 * time.Minute
	// closeTimeout is how long the end waits for keys in the making.
	closeTimeout = 3 * time.Second
)

// options is what a server is made of.
type options struct {
	config  *config.Config
	logger  *slog.Logger
	version string
	// terminal says that the caller shows what listening holds on a terminal, and
	// so can show a password that was just made.
	terminal bool
}

// server is everything that serve has open.
type server struct {
	cfg      *config.Config
	log      *slog.Logger
	version  string
	pool     *pool.Pool
	keys     *keystore.Keystore
	outbox   audit.Outbox // of the store behind keys, which closes it
	audit    *audit.Log
	auth     *auth.Authenticator
	cert     *serverCert
	handler  *handler.Handler
	password password

	listener, opsListener *listener
}

// newServer opens everything, from the bottom up: the store, whose lock makes
// this process the only one on data_dir, then the sealing keyset, the keys, and
// what is made at first start. All of it is durable when it returns.
func newServer(ctx context.Context, o options) (_ *server, err error) {
	cfg, log := o.config, o.logger
	s := &server{cfg: cfg, log: log, version: o.version}
	// The pool raises GOMAXPROCS; what is bounded to processors counts them before.
	processors := runtime.GOMAXPROCS(0)
	custodian, err := s.openKeystore(ctx, processors)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := ownfile.Sweep(cfg.DataDir); err != nil {
		log.Warn("temporary files that a crash has left behind stay", "error", err)
	}
	if err := s.openAudit(ctx, custodian); err != nil {
		return nil, err
	}
	service, err := csr.New(csr.Config{
		Keys: s.keys, KeySizes: cfg.KeySizes, Hostname: cfg.Hostname,
		MaxRequests: cfg.Limits.CSRs, MaxCertificates: cfg.Limits.Certificates, Audit: s.audit,
	})
	if err != nil {
		return nil, err
	}
	if err := service.Prepare(ctx); err != nil {
		return nil, fmt.Errorf("attestation certificate: %w", err)
	}
	if err := s.prepareUsers(o.terminal, processors); err != nil {
		return nil, err
	}
	certFile, keyFile, own := certFiles(cfg)
	if s.cert, err = newServerCert(certOptions{certFile: certFile, keyFile: keyFile, own: own, hostname: cfg.Hostname, logger: log}); err != nil {
		return nil, err
	}

	registry := prometheus.NewRegistry()
	all := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newBuildInfo(o.version)}
	all = append(all, s.keys.Collectors()...)
	all = append(all, service.Collectors()...)
	all = append(all, s.auth.Collectors()...)
	all = append(all, s.audit.Collectors()...)
	all = append(all, s.newListeners()...)
	for _, c := range all {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	s.handler, err = handler.New(handler.Config{
		Service:        service,
		Auth:           s.auth,
		Ready:          s.readiness(service),
		Registry:       registry,
		Logger:         log,
		TrustedProxies: cfg.TrustedProxies,
		Limits: handler.Limits{
			BodyBytes:         cfg.Limits.BodyBytes,
			RequestsPerClient: cfg.Limits.ConnectionsPerAddress,
			WriteTimeout:      cfg.Limits.WriteTimeout,
		},
		SeparateOps: cfg.OpsListen != "",
	})
	return s, err
}

// readiness is that of the core, and of the pool where the settings say so.
func (s *server) readiness(service *csr.Service) func(context.Context) error {
	if !s.cfg.KeyPool.ReadyWhenWarm {
		return service.Ready
	}
	return func(ctx context.Context) error { return errors.Join(s.pool.Ready(), service.Ready(ctx)) }
}

// openKeystore also returns the custodian that the pool is around.
func (s *server) openKeystore(ctx context.Context, processors int) (*sealed.Custodian, error) {
	cfg := s.cfg
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	store, err := bolt.Open(filepath.Join(cfg.DataDir, storeFile), bolt.Options{Logger: s.log})
	if err != nil {
		return nil, err
	}
	custodian, err := openCustodian(ctx, cfg, store, s.log)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	s.pool, err = pool.New(pool.Options{
		Custodian: custodian, Logger: s.log,
		Targets:    cfg.KeyPool.Targets,
		QueueBound: cfg.KeyQueue.Bound, QueueDeadline: cfg.KeyQueue.Deadline,
	})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	s.outbox = store
	s.keys, err = keystore.Open(ctx, keystore.Options{Store: store, Custodian: s.pool, Logger: s.log, Processors: processors})
	if err != nil {
		return nil, fmt.Errorf("%w; if the sealing keyset that belongs to %s is lost for good, \"attestcsr store discard-keys\" begins anew", err, cfg.DataDir)
	}
	return custodian, nil
}

// openCustodian makes a sealing keyset only for a store that holds nothing yet:
// with records there must have been one, and another cannot open them.
func openCustodian(ctx context.Context, cfg *config.Config, store keystore.Records, log *slog.Logger) (*sealed.Custodian, error) {
	errNotEmpty := errors.New("not empty")
	err := store.Refs(ctx, func(keystore.Slot, keystore.Ref) error { return errNotEmpty })
	if err != nil && !errors.Is(err, errNotEmpty) {
		return nil, err
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: keysetPath(cfg), Create: err == nil, Logger: log})
	if errors.Is(err, sealed.ErrKeysetLost) {
		return nil, fmt.Errorf("%w: restore %s from the backup that belongs to %s; if it is lost for good, no key in the store can be opened and \"attestcsr store discard-keys\" begins anew",
			err, keysetPath(cfg), cfg.DataDir)
	}
	return custodian, err
}

// prepareUsers loads the users file, or makes sure of the built-in admin.
func (s *server) prepareUsers(terminal bool, processors int) error {
	if s.cfg.Auth.UsersFile == "" {
		var err error
		if s.password, err = prepareAdmin(s.cfg, s.log, terminal); err != nil {
			return err
		}
	}
	users, err := loadUsers(usersFile(s.cfg))
	if err != nil {
		return err
	}
	s.auth = auth.New(auth.Config{
		Users:           users,
		Privileges:      privilegesOf(s.cfg),
		IdleTimeout:     s.cfg.Session.IdleTimeout,
		Lifetime:        s.cfg.Session.Lifetime,
		Sessions:        s.cfg.Limits.Sessions,
		SessionsPerUser: s.cfg.Limits.SessionsPerUser,
		OnPassword:      s.forgetInitialPassword,
		Refused:         s.audit.Refuse,
		Comparisons:     max(1, processors/2),
	})
	return nil
}

// forgetInitialPassword removes the file with the generated password at the
// first login: whoever read it has it now.
func (s *server) forgetInitialPassword(user string) {
	if s.cfg.Auth.UsersFile != "" || user != adminName {
		return
	}
	err := os.Remove(filepath.Join(s.cfg.DataDir, initialPasswordFile))
	switch {
	case err == nil:
		s.log.Info("first login: the file with the initial password is removed")
	case !errors.Is(err, os.ErrNotExist):
		s.log.Error("the file with the initial password cannot be removed: remove it by hand", "err", err)
	}
}

// reloadUsers reads the users file again. On any error the users before stay.
func (s *server) reloadUsers() {
	users, err := loadUsers(usersFile(s.cfg))
	if err != nil {
		s.log.Error("users not reloaded: the ones before stay", "err", err)
		return
	}
	s.auth.SetUsers(users)
	if len(users.Names()) == 0 {
		s.log.Warn("the users file holds no user any more: nobody can log in")
	}
	s.log.Debug("users loaded", "users", len(users.Names()))
}

// run listens, serves until ctx ends, and then drains: requests in flight get
// their answers, new ones a 503, for shutdown_timeout at most. It calls announce
// once it listens, and ends with its error.
func (s *server) run(ctx context.Context, announce func(listening) error) error {
	api, err := s.listen(s.cfg.Listen, s.listener)
	if err != nil {
		return err
	}
	listeners := []net.Listener{api}
	servers := []*http.Server{s.httpServer(s.handler, s.listener)}
	if s.cfg.OpsListen != "" {
		ops, err := s.listen(s.cfg.OpsListen, s.opsListener)
		if err != nil {
			return errors.Join(err, api.Close())
		}
		listeners = append(listeners, ops)
		servers = append(servers, s.httpServer(s.handler.Ops(), s.opsListener))
	}
	if err := announce(s.listening(listeners)); err != nil {
		return err
	}

	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { watch(background, s.reloadUsers, usersFile(s.cfg)) })
	tasks.Go(func() { s.keepCertificate(background) })
	defer tasks.Wait()
	defer stop()

	failed := make(chan error, len(servers))
	for i, srv := range servers {
		go func() { failed <- srv.ServeTLS(listeners[i], "", "") }()
	}
	select {
	case err := <-failed:
		return errors.Join(err, s.shutDown(servers))
	case <-ctx.Done():
		return s.shutDown(servers)
	}
}

// keepCertificate follows changes of the certificate's files, and looks once an
// hour whether our own is due for renewal.
func (s *server) keepCertificate(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { watch(ctx, s.cert.refresh, s.cert.certFile, s.cert.keyFile) })
	defer tasks.Wait()
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hourly.C:
			s.cert.refresh()
		}
	}
}

func (s *server) listen(address string, bounded *listener) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s: another program does; stop it, or choose another address with --listen or --ops-listen", address)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	bounded.Listener = l
	return bounded, nil
}

// httpServer sets every limit that net/http leaves open.
func (s *server) httpServer(h http.Handler, bounded *listener) *http.Server {
	limits := s.cfg.Limits
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		TLSConfig:         s.cert.tlsConfig(),
		ReadHeaderTimeout: limits.ReadHeaderTimeout,
		ReadTimeout:       limits.ReadTimeout,
		// It has room for the wait for a key. The handler sets a shorter one when the
		// answer is ready.
		WriteTimeout:   s.cfg.KeyQueue.Deadline + longestOperation + limits.WriteTimeout,
		IdleTimeout:    limits.IdleTimeout,
		MaxHeaderBytes: limits.HeaderBytes,
		ConnState:      bounded.track,
		ErrorLog:       log.New(serverLog{s.log}, "", 0),
		// The handler refuses and logs "OPTIONS *" like every other OPTIONS.
		DisableGeneralOptionsHandler: true,
	}
}

// serverLog logs what net/http says by itself. Failed handshakes are debug lines:
// port scanners cause them all day.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelWarn
	if strings.Contains(text, "TLS handshake error") {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, "http server", "message", text)
	return len(line), nil
}

func (s *server) shutDown(servers []*http.Server) error {
	s.log.Info("shutting down", "timeout", s.cfg.ShutdownTimeout.String())
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownTimeout)
	defer cancel()
	if err := s.handler.Drain(ctx); err != nil {
		s.log.Warn("requests were still in flight at the end of shutdown_timeout")
	}
	var errs []error
	for _, srv := range servers {
		if err := srv.Shutdown(ctx); err != nil {
			errs = append(errs, srv.Close())
		}
	}
	return errors.Join(errs...)
}

// close ends the audit trail, and then closes the key store: the store first and
// then the pool. Keys in the making cannot be interrupted, and under SCHED_IDLE on
// a busy machine they may take long; they are on no disk, so that they need not be
// waited for.
func (s *server) close() error {
	auditErr := s.closeAudit()
	closed := make(chan error, 1)
	go func() { closed <- s.keys.Close() }()
	select {
	case err := <-closed:
		return errors.Join(auditErr, err)
	case <-time.After(closeTimeout):
		s.log.Debug("keys in the making are left behind")
		return auditErr
	}
}

// listening says where a server is reached and how.
type listening struct {
	addresses   []string // of the API; with ops_listen also of health and metrics
	dataDir     string   // absolute
	fingerprint string   // SHA-256 of a certificate that we made, else empty
	certFile    string
	user        string // the built-in admin, or empty
	password    password
}

func (s *server) listening(listeners []net.Listener) listening {
	l := listening{dataDir: s.cfg.DataDir, certFile: s.cert.certFile}
	if abs, err := filepath.Abs(s.cfg.DataDir); err == nil {
		l.dataDir = abs
	}
	for _, each := range listeners {
		l.addresses = append(l.addresses, "https://"+each.Addr().String())
	}
	if s.cert.own {
		l.fingerprint = s.cert.fingerprint()
	}
	if s.cfg.Auth.UsersFile == "" {
		l.user, l.password = adminName, s.password
	}
	return l
}

// newBuildInfo tells which build is running.
func newBuildInfo(version string) prometheus.Collector {
	goVersion := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
	}
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "attestcsr_build_info",
		Help:        "Always 1; the labels say which build is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": goVersion},
	}, func() float64 { return 1 })
}

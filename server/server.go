// Package server is the only wiring: it joins settings, key store, core and
// handlers, listens, and drains. It also has what commands do with the files of
// data_dir while no service runs.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sys/unix"

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
	"attestcsr/server/admit"
	"attestcsr/server/agent"
	"attestcsr/server/output"
	"attestcsr/server/serving"
	"attestcsr/server/tlscert"
)

const (
	// longestOperation has room for the making of the largest key, and for a commit
	// on a slow disk, after the wait for a key.
	longestOperation = 2 * time.Minute
	// closeTimeout is how long the end waits for keys in the making.
	closeTimeout = 3 * time.Second
)

// Options is what a server is made of.
type Options struct {
	Config  *config.Config
	Load    Loader           // reads the settings again
	HangUps <-chan os.Signal // each one asks for a Reload; has room for one
	Logger  *slog.Logger     // of Output
	Output  *output.Output
	Version string
	// Terminal: the caller shows Listening on a terminal, with a password that was just
	// made.
	Terminal bool
}

// Server is everything that serve has open.
type Server struct {
	cfg       *config.Config
	log       *slog.Logger
	output    *output.Output
	load      Loader
	hangUps   <-chan os.Signal
	pool      *pool.Pool
	keys      *keystore.Keystore
	store     *bolt.Store       // behind keys, which closes it
	custodian *sealed.Custodian // the one that pool is around
	sealing   sealing
	audit     *audit.Log
	anchors   atomic.Pointer[trustAnchors]
	service   *csr.Service
	signer    *agent.Server // nil: there is no signer socket
	auth      *auth.Authenticator
	networks  *auth.Networks
	cert      *tlscert.Certificate
	handler   *handler.Handler
	password  Password
	ready     func(context.Context) error
	// settings are the texts of those in effect. Only Run's goroutine uses them.
	settings   map[string]string
	privileges atomic.Pointer[map[string][]csr.Privilege] // by user
	accounts   accounts

	listener, opsListener *admit.Listener
	announced             *serving.Announcement // nil: not
	address               string                // of the API; "" until it listens
}

// Open opens everything, from the bottom up: the store, whose lock makes this
// process the only one on data_dir, then the sealing keyset, the keys, and what is
// made at first start. All of it is durable when it returns.
func Open(ctx context.Context, o Options) (_ *Server, err error) {
	cfg, log := o.Config, o.Logger
	s := &Server{cfg: cfg, log: log, output: o.Output, load: o.Load, hangUps: o.HangUps, settings: cfg.Texts()}
	defer func() { err = advised(cfg.DataDir, err) }()
	if err := prepareDataDir(cfg, log); err != nil {
		return nil, err
	}
	// The pool raises GOMAXPROCS. Bounds by processors need the number before.
	processors := runtime.GOMAXPROCS(0)
	store, err := s.waitForStore(ctx)
	if err == nil {
		err = s.openKeystore(ctx, processors, store)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := ownfile.Sweep(cfg.DataDir); err != nil {
		log.Warn("temporary files that a crash left cannot be removed", "error", err)
	}
	if err := s.openAudit(ctx); err != nil {
		return nil, err
	}
	if cfg.Trust.AnchorsFile != "" {
		if _, err := s.loadAnchors(); err != nil {
			return nil, err
		}
	}
	if s.service, err = s.newService(); err != nil {
		return nil, err
	}
	service := s.service
	if err := service.Prepare(ctx); err != nil {
		return nil, fmt.Errorf("attestation certificate: %w", err)
	}
	if err := s.prepareUsers(o.Terminal, processors); err != nil {
		return nil, err
	}
	if err := s.newSigner(); err != nil {
		return nil, err
	}
	certFile, keyFile, own := certFiles(cfg)
	trusted := func() error { return stillTrusted(cfg, certFile, keyFile) }
	if s.cert, err = tlscert.New(tlscert.Options{CertFile: certFile, KeyFile: keyFile, Own: own, Hostname: cfg.Hostname, Trusted: trusted, Logger: log, Now: time.Now}); err != nil {
		return nil, err
	}

	s.ready = s.readiness(service)
	registry, err := s.newRegistry(service, o.Version)
	if err != nil {
		return nil, err
	}
	s.handler, err = handler.New(handler.Config{
		Service:           service,
		Auth:              s.auth,
		Ready:             s.ready,
		Pool:              s.pool.Ready,
		Registry:          registry,
		Logger:            log,
		TrustedProxies:    cfg.TrustedProxies,
		AllowedOrigins:    cfg.AllowedOrigins,
		Publish:           published(cfg.Publish),
		Console:           cfg.Console.Enabled,
		HSTS:              !own,
		SeparateOps:       cfg.OpsListen != "",
		Version:           o.Version,
		BodyBytes:         cfg.Limits.BodyBytes,
		RequestsPerClient: cfg.Limits.ConnectionsPerAddress,
		WriteTimeout:      cfg.Limits.WriteTimeout,
	})
	return s, err
}

// published is nil where nothing is published.
func published(p config.Publish) *handler.Publish {
	if !p.Enabled {
		return nil
	}
	return &handler.Publish{MaxAge: p.MaxAge, Issuer: p.Issuer, RSA: p.Alg}
}

// newService makes the core over what is open.
func (s *Server) newService() (*csr.Service, error) {
	cfg := s.cfg
	return csr.New(csr.Config{
		Keys: s.keys, KeySizes: cfg.KeySizes, Hostname: cfg.Hostname,
		MaxRequests: cfg.Limits.CSRs, MaxCertificates: cfg.Limits.Certificates,
		Anchors: s.trustedAnchors, Names: csr.NameRule(cfg.Certificate.Names),
		ActivateAfter: cfg.Certificate.ActivateAfter,
		Publish:       csr.Publish{Enabled: cfg.Publish.Enabled, Retain: cfg.Publish.Retain, NSX: cfg.Publish.NSX},
		SignatureRate: cfg.Signing.Rate,
		Audit:         s.audit, Logger: s.log, Now: time.Now,
	})
}

// newRegistry makes the listeners, and a registry with the metrics of every part.
func (s *Server) newRegistry(service *csr.Service, version string) (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	all := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), newBuildInfo(version), s.newFreeGauge(), s.newBackupMetric()}
	all = append(all, s.store.Collectors()...)
	all = append(all, s.keys.Collectors()...)
	all = append(all, service.Collectors()...)
	all = append(all, s.auth.Collectors()...)
	all = append(all, s.audit.Collectors()...)
	all = append(all, s.cert.Collectors()...)
	all = append(all, s.output.Collectors()...)
	all = append(all, s.newListeners()...)
	if s.signer != nil {
		all = append(all, s.signer.Collectors()...)
	}
	for _, c := range all {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return registry, nil
}

// readiness is that of the core and of the trail, and of the pool where the settings
// say so.
func (s *Server) readiness(service *csr.Service) func(context.Context) error {
	return func(ctx context.Context) error {
		err := service.Ready(ctx)
		if s.cfg.KeyPool.ReadyWhenWarm {
			err = errors.Join(s.pool.Ready(), err)
		}
		return err
	}
}

// Run listens, serves until ctx ends, and then drains: requests in flight get
// their answers, new ones a 503, for shutdown_timeout at most. It calls announce
// once it listens, and ends with its error. It reloads after a hang-up, also one that
// came before it; while it drains it reloads no more.
func (s *Server) Run(ctx context.Context, announce func(Listening) error) error {
	api, err := s.listen(s.cfg.Listen, s.listener)
	if err != nil {
		return err
	}
	s.address = api.Addr().String()
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
	defer s.announceServing(listeners)() // the last to go
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { watch(background, s.reloadUsers, userFiles(s.cfg, s.log).Paths()...) })
	if s.cfg.Trust.AnchorsFile != "" {
		tasks.Go(func() { watch(background, s.reloadAnchors, s.cfg.Trust.AnchorsFile) })
	}
	tasks.Go(func() { s.service.LogUnparsed(background) })
	tasks.Go(func() { s.keepCertificate(background) })
	tasks.Go(func() { s.keepNetworks(background) })
	tasks.Go(func() { s.keepActivating(background) })
	tasks.Go(func() { s.handler.KeepSeries(background) })
	s.sealing.wake = make(chan struct{}, 1)
	tasks.Go(func() { s.keepKeyset(background) })
	defer tasks.Wait()
	defer stop()
	s.noteEvent(background, audit.Event{Operation: "service.start"})
	s.noteSettings(background, s.settings)
	defer s.noteEvent(background, audit.Event{Operation: "service.stop"})
	defer s.startControl()()
	stopSigner, err := s.startSigner()
	if err != nil {
		return err
	}
	defer stopSigner()
	if err := announce(s.listening(listeners)); err != nil {
		return err
	}

	failed := make(chan error, len(servers))
	for i, srv := range servers {
		go func() { failed <- srv.ServeTLS(listeners[i], "", "") }()
	}
	s.notify(daemon.SdNotifyReady)
	go s.feedWatchdog(background)
	for {
		select {
		case err := <-failed:
			return errors.Join(err, s.shutDown(servers))
		case <-ctx.Done():
			return s.shutDown(servers)
		case <-s.hangUps:
			s.Reload(background)
		}
	}
}

func (s *Server) shutDown(servers []*http.Server) error {
	s.notify(daemon.SdNotifyStopping)
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

// Close ends the audit trail and then closes the key store. It waits three seconds
// for keys in the making: they cannot be interrupted, and may take long on a busy
// machine. They are not stored, and end with the process.
func (s *Server) Close() error {
	auditErr := s.closeAudit()
	closed := make(chan error, 1)
	go func() { closed <- s.keys.Close() }()
	select {
	case err := <-closed:
		return errors.Join(auditErr, err)
	case <-time.After(closeTimeout):
		s.log.Debug("the process ends while keys are being made")
		return auditErr
	}
}

const (
	activationPoll  = time.Second
	activationRetry = 10 * time.Second
)

// keepActivating makes staged certificates active once they are due, until ctx ends.
// It looks, since whoever stages one must not have to wake it.
func (s *Server) keepActivating(ctx context.Context) {
	for {
		wait := activationPoll
		if _, err := s.service.Activate(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("the staged certificate is not active yet", "err", err)
			wait = activationRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Listening says where a server is reached and how.
type Listening struct {
	Addresses    []string // of the API; with ops_listen also of health and metrics
	DataDir      string   // absolute
	CertFile     string
	SelfSigned   bool // we have made the certificate
	Fingerprints tlscert.Fingerprints
	User         string // the built-in admin, or empty
	Password     Password
}

func (s *Server) listening(listeners []net.Listener) Listening {
	l := Listening{DataDir: s.cfg.DataDir, CertFile: s.cert.CertFile, SelfSigned: s.cert.Own, Fingerprints: tlscert.FingerprintsOf(s.cert.Leaf())}
	if abs, err := filepath.Abs(s.cfg.DataDir); err == nil {
		l.DataDir = abs
	}
	for _, each := range listeners {
		l.Addresses = append(l.Addresses, "https://"+each.Addr().String())
	}
	if s.cfg.Auth.UsersFile == "" {
		l.User, l.Password = AdminName, s.password
	}
	return l
}

// newBuildInfo is the metric that says which build is running.
func newBuildInfo(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "attestcsr_build_info",
		Help:        "Always 1; the labels say which build is running.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}

// newFreeGauge is the metric of the volume that the store and the audit trail grow on.
func (s *Server) newFreeGauge() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "attestcsr_data_dir_free_bytes", Help: "Room that is left on the volume of data_dir.",
	}, func() float64 {
		var volume unix.Statfs_t
		if err := unix.Statfs(s.cfg.DataDir, &volume); err != nil {
			return 0 // nothing can be written there either
		}
		return float64(volume.Bavail) * float64(volume.Bsize)
	})
}

package server

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/server/admit"
	"attestcsr/server/serving"
)

const (
	// ownFiles is how many files the process needs beside its connections: the store,
	// its other files, the poller, /proc for the metrics, and some to spare.
	ownFiles = 64
	// opsConnections bounds ops_listen, so that probes and Prometheus get in
	// whatever happens to the API. opsPerClient leaves room for a second prober.
	opsConnections = 64
	opsPerClient   = 48
)

// newListeners makes the listeners and returns their metrics. A listener that runs
// out of files lets nobody in: where the system allows fewer files than
// limits.connections needs, the bound is what it allows.
func (s *Server) newListeners() []prometheus.Collector {
	limits := s.cfg.Limits
	reserved := ownFiles
	if s.cfg.OpsListen != "" {
		reserved += opsConnections
	}
	all := limits.Connections
	if room, err := filesAllowed(); err != nil {
		s.log.Warn("the limit of open files cannot be read", "err", err)
	} else if room -= reserved; room < all {
		all = max(1, room)
		s.log.Warn("limits.connections is more than the limit of open files allows (ulimit -n, LimitNOFILE=): raise that to use it",
			"limits_connections", limits.Connections, "used", all, "open_files_needed", limits.Connections+reserved)
	}
	s.listener = admit.NewListener(admit.Bounds{Name: "api", All: all, PerClient: limits.ConnectionsPerAddress, Trusted: s.cfg.TrustedProxies, Logger: s.log})
	collectors := s.listener.Collectors()
	if s.cfg.OpsListen != "" {
		s.opsListener = admit.NewListener(admit.Bounds{Name: "ops", All: opsConnections, PerClient: opsPerClient, Logger: s.log})
		collectors = append(collectors, s.opsListener.Collectors()...)
	}
	return collectors
}

// filesAllowed is how many files the process may have open. Package os has raised
// the soft limit to the hard one at its start.
func filesAllowed() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return int(min(limit.Cur, math.MaxInt32)), nil
}

func (s *Server) listen(address string, bounded *admit.Listener) (net.Listener, error) {
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
func (s *Server) httpServer(h http.Handler, bounded *admit.Listener) *http.Server {
	limits := s.cfg.Limits
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		TLSConfig:         s.cert.TLSConfig(),
		ReadHeaderTimeout: limits.ReadHeaderTimeout,
		ReadTimeout:       limits.ReadTimeout,
		// It has room for the wait for a key. The handler sets a shorter one when the
		// answer is ready.
		WriteTimeout:   s.cfg.KeyQueue.Deadline + longestOperation + limits.WriteTimeout,
		IdleTimeout:    limits.IdleTimeout,
		MaxHeaderBytes: limits.HeaderBytes,
		ConnState:      bounded.Track,
		ErrorLog:       log.New(serverLog{s.log}, "", 0),
		// The handler refuses and logs "OPTIONS *" like every other OPTIONS.
		DisableGeneralOptionsHandler: true,
	}
}

// serverLog logs what net/http says by itself. The listener counts and logs handshakes
// that fail.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	if text := strings.TrimSpace(string(line)); !strings.HasPrefix(text, "http: TLS handshake error") {
		l.log.Warn("http server", "message", text)
	}
	return len(line), nil
}

// keepCertificate follows changes of the certificate's files, and looks once an
// hour whether our own is due for renewal.
func (s *Server) keepCertificate(ctx context.Context) {
	var tasks sync.WaitGroup
	tasks.Go(func() { watch(ctx, s.refreshCertificate, s.cert.CertFile, s.cert.KeyFile) })
	defer tasks.Wait()
	every(ctx, time.Hour, s.refreshCertificate)
}

// refreshCertificate reads the certificate's files again, renews our own where it is
// due, and tells healthcheck of the key that the server has now.
func (s *Server) refreshCertificate() {
	s.cert.Refresh()
	if s.announced == nil {
		return
	}
	if err := s.announced.SetCertificate(s.cert.Leaf()); err != nil {
		s.log.Warn("healthcheck may not know the server certificate", "err", err)
	}
}

// announceServing leaves what healthcheck needs, and returns what removes it.
func (s *Server) announceServing(listeners []net.Listener) (end func()) {
	var addresses [2]string
	for i, l := range listeners {
		addresses[i] = l.Addr().String()
	}
	var err error
	if s.announced, err = serving.Announce(s.cfg.DataDir, addresses[0], addresses[1], s.cert.Leaf()); err != nil {
		s.log.Warn("healthcheck will not find this service", "err", err)
	}
	return func() {
		if s.announced == nil {
			return
		}
		if err := s.announced.Remove(); err != nil {
			s.log.Warn("what healthcheck needs cannot be removed", "err", err)
		}
	}
}

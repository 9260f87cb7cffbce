package server

import (
	"context"
	"net"
	"sync"
	"time"

	"attestcsr/server/serving"
)

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

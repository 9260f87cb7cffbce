// Package agent lets processes on this host sign with the keys of the service, over the
// protocol of ssh-agent (draft-ietf-sshm-ssh-agent): they list keys and sign. The kernel
// says who asks, and the settings who may use which key.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"

	"attestcsr/csr"
	"attestcsr/csr/audit"
)

const (
	// maxConnections is how many there may be at a time.
	maxConnections = 32
	// idleTimeout bounds the wait for a message, and the time that one may take.
	idleTimeout = 10 * time.Second
	// acceptRetry is the pause after a failure, which is of a system that lacks something.
	acceptRetry = 100 * time.Millisecond
)

// methodSocket is how callers are authenticated, as the trail has it.
const methodSocket = "socket"

// Options is what a Server is made of.
type Options struct {
	Service *csr.Service
	// Users and Groups are the keys that processes of a uid, or with a primary group, may
	// use.
	Users, Groups map[uint32][]csr.KeyName
	// Peer says who has made a connection.
	Peer   func(syscall.Conn) (*unix.Ucred, error)
	Logger *slog.Logger
}

// Server answers on the socket.
type Server struct {
	Options
	metrics  metrics
	known    known
	listener *net.UnixListener
	slots    chan struct{} // a token for each connection that is served
	tasks    sync.WaitGroup

	draining context.Context // done: no message is read any more
	drain    context.CancelFunc
	working  context.Context // done: what is under way ends
	abort    context.CancelFunc
}

// New returns a Server that listens nowhere yet.
func New(o Options) *Server {
	s := &Server{Options: o, metrics: newMetrics(), known: known{keys: map[csr.KeyName]key{}}, slots: make(chan struct{}, maxConnections)}
	s.draining, s.drain = context.WithCancel(context.Background())
	s.working, s.abort = context.WithCancel(context.Background())
	return s
}

// Start serves the connections of l until Stop.
func (s *Server) Start(l *net.UnixListener) {
	s.listener = l
	s.tasks.Go(s.accept)
}

// Stop takes no message any more. What is under way gets its answer, until ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	err := s.listener.Close()
	s.drain()
	done := make(chan struct{})
	go func() {
		s.tasks.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, errors.New("requests on the signer socket were still under way"))
	}
	s.abort()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		switch {
		case err == nil:
			s.admit(c)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			s.Logger.Error("signer: no connection can be accepted", "err", err)
			select {
			case <-s.draining.Done():
				return
			case <-time.After(acceptRetry):
			}
		}
	}
}

var (
	errNoKey = errors.New("its user and group may use no key: signer.allow says who may")
	errFull  = fmt.Errorf("there are %d connections already", maxConnections)
)

// admit serves a connection, or refuses it.
func (s *Server) admit(c *net.UnixConn) {
	caller, err := s.caller(c)
	reason := refusedUser
	if err == nil {
		select {
		case s.slots <- struct{}{}:
		default:
			reason, err = refusedFull, errFull
		}
	}
	if err == nil {
		s.metrics.connections.Inc()
		s.tasks.Go(func() {
			s.serve(c, caller)
			s.metrics.connections.Dec()
			<-s.slots
		})
		return
	}
	s.metrics.refused.WithLabelValues(reason).Inc()
	s.Logger.Warn("signer: a connection is refused", "user", caller.User, "peer", caller.Peer, "request_id", caller.RequestID, "err", err)
	if reason == refusedUser {
		s.refuse(caller.Request)
	}
	// The answer fits in the buffer of the connection. Who has gone does not miss it.
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.Write(failure())
	_ = c.Close()
}

// caller says who has made a connection, and which keys that process may use.
func (s *Server) caller(c *net.UnixConn) (csr.Caller, error) {
	caller := csr.Caller{Request: audit.Request{User: "unknown", Method: methodSocket, RequestID: rand.Text()}, Keys: []csr.KeyName{}}
	peer, err := s.Peer(c)
	if peer != nil {
		caller.User = fmt.Sprintf("uid:%d", peer.Uid)
		caller.Peer = fmt.Sprintf("uid=%d gid=%d pid=%d", peer.Uid, peer.Gid, peer.Pid)
	}
	if err != nil {
		return caller, err
	}
	for _, key := range slices.Concat(s.Users[peer.Uid], s.Groups[peer.Gid]) {
		if !slices.Contains(caller.Keys, key) {
			caller.Keys = append(caller.Keys, key)
		}
	}
	if len(caller.Keys) == 0 {
		return caller, errNoKey
	}
	caller.Privileges = []csr.Privilege{csr.AttestationSign, csr.PolicyCertificateSign}
	return caller, nil
}

// refuse gives the trail a line: the core makes it for a caller without keys.
func (s *Server) refuse(who audit.Request) {
	_, _ = s.Service.AuthoriseKey(csr.Caller{Request: who, Keys: []csr.KeyName{}}, csr.SignKey, csr.KeyName{})
}

// serve answers one message after the other.
func (s *Server) serve(c *net.UnixConn, caller csr.Caller) {
	stopWaiting := context.AfterFunc(s.draining, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stopWaiting()
	stopWorking := context.AfterFunc(s.working, func() { _ = c.Close() })
	defer stopWorking()
	f := newFrames(s.draining, c, s.metrics.answered)
	err := agent.ServeAgent(&keys{s, caller}, f)
	s.Logger.Debug("signer: a connection ends", "peer", caller.Peer, "err", err)
	_ = c.Close() // a stop may have closed it
}

// The closed sets of labels.
const (
	refusedUser = "user"
	refusedFull = "full"
)

type metrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec
	requests    *prometheus.CounterVec
}

func newMetrics() metrics {
	m := metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "attestcsr_signer_connections", Help: "Open connections of the signer socket.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_signer_refused_total", Help: "Connections of the signer socket that were refused: the user may use no key, or there were too many.",
		}, []string{"reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attestcsr_signer_requests_total", Help: "Requests on the signer socket, by outcome.",
		}, []string{"outcome"}),
	}
	for _, reason := range []string{refusedUser, refusedFull} {
		m.refused.WithLabelValues(reason)
	}
	for _, kind := range []byte{typeIdentities, typeSignature, typeFailure} {
		m.requests.WithLabelValues(outcomeOf(kind))
	}
	return m
}

// answered counts an answer by its type.
func (m metrics) answered(kind byte) { m.requests.WithLabelValues(outcomeOf(kind)).Inc() }

func outcomeOf(kind byte) string {
	switch kind {
	case typeIdentities:
		return "listed"
	case typeSignature:
		return "signed"
	}
	return "failed"
}

// Collectors returns the metrics.
func (s *Server) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.metrics.connections, s.metrics.refused, s.metrics.requests}
}

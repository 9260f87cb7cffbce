package admit

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
)

// Reasons why a handshake failed.
const (
	notTLS              = "not_tls"
	noSharedVersion     = "no_shared_protocol_version"
	noSharedCipher      = "no_shared_cipher"
	noSharedApplication = "no_shared_application_protocol"
	certificateRefused  = "certificate_refused"
	handshakeTimeout    = "timeout"
	handshakeClosed     = "closed"
	handshakeOther      = "other"
)

func newHandshakeFailures(listener string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name:        "attestcsr_tls_handshake_failures_total",
		Help:        "Connections that ended before a request since their TLS handshake failed, by reason. closed: one side hung up, as port checks do.",
		ConstLabels: prometheus.Labels{"listener": listener},
	}, []string{"reason"})
	for _, reason := range []string{
		notTLS, noSharedVersion, noSharedCipher, noSharedApplication, certificateRefused, handshakeTimeout, handshakeClosed, handshakeOther,
	} {
		v.WithLabelValues(reason)
	}
	return v
}

// noteHandshake counts and logs the handshake of a connection that has ended, if it
// failed. net/http has tried it, so that HandshakeContext returns what came of that.
func (l *Listener) noteHandshake(ended *tls.Conn) {
	err := ended.HandshakeContext(context.Background())
	if err == nil {
		return
	}
	reason := reasonOf(err)
	l.refused.WithLabelValues(reason).Inc()
	l.Logger.LogAttrs(context.Background(), slog.LevelDebug, "TLS handshake failed", slog.String("listener", l.Name), slog.String("address", ended.RemoteAddr().String()),
		slog.String("reason", reason), slog.String("err", err.Error()))
}

// reasonOf knows some errors of crypto/tls by their text, since they have no type of
// their own. TestRefusedHandshakes fails where another release words them otherwise.
func reasonOf(err error) string {
	text := err.Error()
	operation, _ := errors.AsType[*net.OpError](err)
	_, noRecord := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case noRecord:
		return notTLS
	case operation != nil && operation.Op == "remote error" && refusesCertificate(operation.Err):
		return certificateRefused
	case strings.HasPrefix(text, "tls: client offered only unsupported versions"):
		return noSharedVersion
	case strings.HasPrefix(text, "tls: no cipher suite supported by both"), strings.HasPrefix(text, "tls: no key exchanges supported by both"),
		strings.HasPrefix(text, "tls: peer doesn't support any of the certificate's signature algorithms"):
		return noSharedCipher
	case strings.HasPrefix(text, "tls: client requested unsupported application protocols"):
		return noSharedApplication
	case errors.Is(err, os.ErrDeadlineExceeded):
		return handshakeTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return handshakeClosed
	}
	return handshakeOther
}

// refusesCertificate reports whether an alert of a client is about the server's
// certificate (RFC 8446 section 6.2: bad_certificate to certificate_unknown, and
// unknown_ca).
func refusesCertificate(alert error) bool {
	for _, code := range []tls.AlertError{42, 43, 44, 45, 46, 48} {
		if alert.Error() == code.Error() {
			return true
		}
	}
	return false
}

package handler

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/origin"
	"attestcsr/handler/strict"
	"attestcsr/handler/transit"
)

// event collects what the one log line of a request says.
type event struct {
	audit.Request
	err     error
	untaken bool // err came after the answer had begun
}

const eventKey = "event"

func eventOf(c echo.Context) *event {
	ev, ok := c.Get(eventKey).(*event)
	if !ok {
		panic("handler: a request without an event: observe has to run first")
	}
	return ev
}

// observe is the middleware of every request, also of unknown paths: request id,
// body limit, panics, one log line and one histogram sample.
func (h *Handler) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		ev := &event{Request: audit.Request{
			RequestID: newRequestID(), Address: c.RealIP(), Route: c.Request().Method + " " + c.Path(),
		}}
		c.Set(eventKey, ev)
		c.Response().Header().Set(echo.HeaderXRequestID, ev.RequestID)
		c.SetRequest(h.bounded(c))
		c.Response().Before(h.limitWriting(c))
		c.Response().Header().Set(echo.HeaderCacheControl, "no-store") // nor do browsers keep it
		if framedAmbiguously(c.Request()) {
			c.Response().Header().Set(echo.HeaderConnection, "close")
		}

		defer func() { h.record(c, ev, time.Since(start)) }()
		if err := h.admit(c, next); err != nil {
			c.Error(err)
		}
		return nil
	}
}

// bounded returns the request as handlers get it: with a bounded body.
//
// MaxBytesReader gets the server's own writer instead of Echo's. It tells that writer
// to close the connection when a body is too long, which Echo's would not understand.
//
// The request is a copy, since net/http looks at the body of its own request after
// the answer. A body of another type would hide from it that a client with "Expect:
// 100-continue" was never told to send: it would wait for that body.
func (h *Handler) bounded(c echo.Context) *http.Request {
	r := c.Request()
	bounded := r.WithContext(r.Context())
	limit := max(h.cfg.BodyBytes, h.bodyBytes[c.Path()])
	bounded.Body = http.MaxBytesReader(c.Response().Writer, r.Body, int64(limit))
	return bounded
}

// framedAmbiguously reports whether a proxy may disagree about where the request
// ends. RFC 9112 section 6.1 wants the connection closed after a request with both
// Transfer-Encoding and Content-Length, and after one of HTTP/1.0 with
// Transfer-Encoding. net/http does not close it, and hides the headers in which
// these requests differ from harmless ones.
func framedAmbiguously(r *http.Request) bool {
	return len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1)
}

// admit runs the request, unless its client has too many in flight or the server is
// draining. It turns a panic into an internal error.
func (h *Handler) admit(c echo.Context, next echo.HandlerFunc) (err error) {
	if !isOps(c.Path()) {
		client := origin.NetworkOf(eventOf(c).Address)
		if err := h.gate.enter(client); err != nil {
			if errors.Is(err, errDraining) {
				c.Response().Header().Set(echo.HeaderConnection, "close")
			}
			return &csr.Error{Kind: csr.Unavailable, RetryAfter: time.Second, Err: err}
		}
		defer h.gate.leave(client)
	}
	defer func() {
		if p := recover(); p != nil {
			if cause, ok := p.(error); ok && errors.Is(cause, http.ErrAbortHandler) {
				panic(p)
			}
			err = &panicked{p, debug.Stack()}
		}
	}()
	return next(c)
}

// panicked is a panic as an error.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// record writes the log line and the histogram sample of a finished request.
func (h *Handler) record(c echo.Context, ev *event, took time.Duration) {
	route, status := c.Path(), c.Response().Status
	if _, known := h.allow[route]; !known {
		route = "unmatched"
	}
	method := c.Request().Method
	known := []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, transit.MethodList}
	if !slices.Contains(known, method) {
		method = "other"
	}
	kind, fault := classify(c.Request().Context(), ev.err)
	if kind == clientGone {
		status = statusClientGone
	}
	h.metrics.duration.WithLabelValues(route, method, strconv.Itoa(status)).Observe(took.Seconds())

	level := slog.LevelInfo
	if isOps(route) {
		level = slog.LevelDebug
	}
	if ev.untaken && !errors.As(ev.err, new(*panicked)) {
		kind, fault = "answer_not_taken", false
	}
	if fault {
		level = slog.LevelError
	}
	ctx := context.WithoutCancel(c.Request().Context())
	if !h.cfg.Logger.Enabled(ctx, level) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 13),
		slog.String("method", method), slog.String("route", route), slog.Int("status", status),
		slog.Duration("duration", took), slog.String("user", ev.User), slog.String("client", ev.Address),
		slog.String("request_id", ev.RequestID))
	if !isOps(route) {
		attrs = append(attrs, slog.String("dialect", dialectOf(c.Request().URL.Path).Dialect))
	}
	if v := c.Request().Header.Get(echo.HeaderXRequestID); v != "" {
		attrs = append(attrs, slog.String("client_request_id", strict.Printable(v, 64)))
	}
	if v := c.Request().Header.Get("Vapi-Ctx-Opid"); v != "" {
		attrs = append(attrs, slog.String("op_id", strict.Printable(v, 64)))
	}
	if ev.err != nil {
		oneLine := strings.ReplaceAll(ev.err.Error(), "\n", "; ") // joined errors have a line each
		attrs = append(attrs, slog.String("error_kind", kind), slog.String("err", strict.Printable(oneLine, maxLoggedError)))
	}
	if broken := (*panicked)(nil); errors.As(ev.err, &broken) {
		attrs = append(attrs, slog.String("stack", string(broken.stack)))
	}
	// LogAttrs would look up its caller, which nobody reads, and take 2 % of the time
	// of a GET for it.
	line := slog.NewRecord(time.Now(), level, "request", 0)
	line.AddAttrs(attrs...)
	_ = h.cfg.Logger.Handler().Handle(ctx, line) // slog ignores it too: there is nowhere to report it
}

// A client that left gets no answer. In the log and the metrics its request has the status
// that nginx gives it, so that it does not count as a failure of the service.
const (
	clientGone       = "client_gone"
	statusClientGone = 499
)

// maxLoggedError is in characters: an error may quote what a client sent.
const maxLoggedError = 8 << 10

// classify names the kind of a request's error and reports whether the service is at
// fault.
func classify(ctx context.Context, err error) (kind string, fault bool) {
	var (
		broken  *panicked
		httpErr *echo.HTTPError
		csrErr  *csr.Error
		tooLong *http.MaxBytesError
	)
	switch {
	case err == nil:
		return "", false
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return clientGone, false
	case errors.As(err, &broken):
		return csr.Internal.String(), true
	case errors.As(err, &tooLong):
		return "body_too_large", false
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusNotFound:
		return "unknown_path", false
	case errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed:
		return "method_not_allowed", false
	case errors.As(err, &csrErr):
		return csrErr.Kind.String(), csrErr.Kind == csr.Internal
	}
	return csr.Internal.String(), true
}

func newRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// limitWriting sets the deadline for sending an answer when it begins. Until then the
// server's own deadline holds, which has room for the wait for a key.
func (h *Handler) limitWriting(c echo.Context) func() {
	return func() {
		control := http.NewResponseController(c.Response().Writer)
		if err := control.SetWriteDeadline(time.Now().Add(h.cfg.WriteTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			h.cfg.Logger.Debug("no write deadline", "err", err) // the connection is gone
		}
	}
}

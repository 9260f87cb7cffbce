// Package handler is the server as one http.Handler: it routes, authenticates
// and authorises each request, hands it to the dialect that owns the path, and
// answers failures in that dialect's error document.
//
// The order is fixed: route, authenticate, authorise, and only then is the
// body read. Dialects never see a request that may not do what it asks for.
package handler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/handler/policy"
	"attestcsr/handler/vapi"
)

// Config is what the handler is built from.
type Config struct {
	Service        *csr.Service
	Auth           *auth.Authenticator
	Ready          func(context.Context) error // nil error: able to take requests that write
	Registry       *prometheus.Registry        // scraped at /metrics; the handler registers its own collectors here
	Logger         *slog.Logger
	TrustedProxies []netip.Prefix // peers whose X-Forwarded-For is believed
	SeparateOps    bool           // health and metrics only on Ops, not beside the API
}

// Handler serves the API. Ops serves health and metrics where they have a
// listener of their own.
type Handler struct {
	api, ops *echo.Echo
	service  *csr.Service
	auth     *auth.Authenticator
	log      *slog.Logger
	metrics  *metrics
	gate     gate
	ready    func(context.Context) error
	// allow holds, by route template, the methods that the path has.
	allow map[string][]string
}

// dialect is one vendor's way of saying the same things. Its realm says which
// sessions count; the rest of it is in its package.
type dialect struct {
	name       string // label of logs and metrics
	realm      auth.Realm
	writeError func(c echo.Context, requestID string, err error) error
}

// dialectOf chooses the dialect whose error document a path gets, whether or not
// the path exists.
func dialectOf(path string) dialect {
	switch {
	case path == "/policy", strings.HasPrefix(path, "/policy/"),
		path == "/api/session/create", path == "/api/session/destroy":
		return dialect{name: "nsx", writeError: policy.WriteError}
	case path == "/rest", strings.HasPrefix(path, "/rest/"):
		return dialect{name: "esx", realm: esxRealm(), writeError: vapi.WriteLegacyError}
	}
	return dialect{name: "esx", realm: esxRealm(), writeError: vapi.WriteError}
}

func esxRealm() auth.Realm {
	return auth.Realm{Dialect: "esx", SessionHeader: vapi.SessionHeader, SessionCookie: vapi.SessionHeader}
}

// New builds the routes. It fails when a collector cannot be registered.
func New(cfg Config) (*Handler, error) {
	h := &Handler{
		service: cfg.Service,
		auth:    cfg.Auth,
		log:     cfg.Logger,
		ready:   cfg.Ready,
		allow:   map[string][]string{},
	}
	h.metrics = newMetrics(h.gate.count)
	for _, c := range h.metrics.collectors() {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	h.api = h.newEcho(cfg.TrustedProxies)
	h.ops = h.api
	if cfg.SeparateOps {
		h.ops = h.newEcho(cfg.TrustedProxies)
	}
	h.addOps(cfg.Registry)
	vapi.Register(sessions{auth: h.auth, realm: esxRealm()}, func(method, path string, op csr.Operation, handle vapi.Handle) {
		h.add(h.api, method, path, h.operation(dialectOf(path), op, handle))
	})
	for _, e := range []*echo.Echo{h.api, h.ops} {
		h.refuseOtherMethods(e)
	}
	return h, nil
}

// ServeHTTP serves the API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.api.ServeHTTP(w, r) }

// Ops serves /healthz, /readyz and /metrics.
func (h *Handler) Ops() http.Handler { return h.ops }

// Drain makes every new API request a 503 and returns when those in flight are
// answered, or with ctx's error.
func (h *Handler) Drain(ctx context.Context) error { return h.gate.drain(ctx) }

func (h *Handler) newEcho(trusted []netip.Prefix) *echo.Echo {
	e := echo.New()
	e.HTTPErrorHandler = h.fail
	e.IPExtractor = clientAddress(trusted)
	e.Use(h.observe)
	return e
}

// clientAddress believes X-Forwarded-For from trusted peers alone; Echo's own
// default would trust every private network.
func clientAddress(trusted []netip.Prefix) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, p := range trusted {
		options = append(options, echo.TrustIPRange(ipNet(p)))
	}
	return echo.ExtractIPFromXFFHeader(options...)
}

// add registers a route; HEAD follows GET.
func (h *Handler) add(e *echo.Echo, method, path string, handle echo.HandlerFunc) {
	methods := []string{method}
	if method == http.MethodGet {
		methods = append(methods, http.MethodHead)
	}
	for _, m := range methods {
		e.Add(m, path, handle)
		h.allow[path] = append(h.allow[path], m)
	}
}

// refuseOtherMethods makes OPTIONS a 405 like every other method a path does not
// have; Echo would answer it itself.
func (h *Handler) refuseOtherMethods(e *echo.Echo) {
	var paths []string
	for _, r := range e.Routes() {
		if !slices.Contains(paths, r.Path) {
			paths = append(paths, r.Path)
		}
	}
	for _, path := range paths {
		e.Add(http.MethodOptions, path, func(echo.Context) error { return echo.ErrMethodNotAllowed })
	}
}

// operation is the way of every API request: authenticate, authorise, and then
// the dialect's own handler. Routes without an operation are logins, which
// authenticate themselves.
func (h *Handler) operation(d dialect, op csr.Operation, handle vapi.Handle) echo.HandlerFunc {
	if op == "" {
		return func(c echo.Context) error { return handle(c, nil) }
	}
	return func(c echo.Context) (err error) {
		if op == csr.CreateCSR {
			defer func() { h.metrics.countCreate(d.name, err) }()
		}
		caller, err := h.auth.Authenticate(c.Request().Context(), c.Request(), c.RealIP(), d.realm)
		if err != nil {
			return err
		}
		ev := eventOf(c)
		caller.RequestID = ev.requestID
		ev.user = caller.User
		grant, err := h.service.Authorise(caller, op)
		if err != nil {
			return err
		}
		return handle(c, grant)
	}
}

// fail is the one place where an error becomes an answer: an error document of
// the dialect that the path belongs to.
func (h *Handler) fail(err error, c echo.Context) {
	ev := eventOf(c)
	ev.err = err
	if c.Response().Committed {
		// Too late for an error document: only a broken connection tells the
		// client not to believe what it got.
		panic(http.ErrAbortHandler)
	}
	if httpErr := (*echo.HTTPError)(nil); errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed {
		c.Response().Header().Set(echo.HeaderAllow, strings.Join(h.allow[c.Path()], ", "))
	}
	if csrErr := (*csr.Error)(nil); errors.As(err, &csrErr) {
		switch csrErr.Kind {
		case csr.Unauthenticated:
			c.Response().Header().Set(echo.HeaderWWWAuthenticate, `Basic realm="attestcsr"`)
		case csr.Busy, csr.Unavailable:
			setRetryAfter(c.Response().Header(), csrErr.RetryAfter)
		}
	}
	if err := dialectOf(c.Request().URL.Path).writeError(c, ev.requestID, err); err != nil {
		h.log.Debug("error document not sent", "request_id", ev.requestID, "err", err)
	}
}

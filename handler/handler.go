// Package handler is the server as one http.Handler: it routes, authenticates
// and authorises each request, hands it to the dialect that owns the path, and
// answers failures in that dialect's error document.
//
// The order is fixed: route, refuse other sites, authenticate, authorise, read the body. Dialects never see
// a request that may not do what it asks for.
package handler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/csr"
	"attestcsr/handler/auth"
	"attestcsr/handler/console"
	"attestcsr/handler/origin"
	"attestcsr/handler/policy"
	"attestcsr/handler/transit"
	"attestcsr/handler/vapi"
)

// Config is what the handler is built from.
type Config struct {
	Service        *csr.Service
	Auth           *auth.Authenticator
	Ready          func(context.Context) error // an error: requests that write would fail
	Pool           func() error                // an error: the pool was never full yet
	Registry       *prometheus.Registry        // what /metrics shows; the handler registers its own collectors here
	Logger         *slog.Logger
	TrustedProxies []netip.Prefix // peers whose X-Forwarded-For is believed
	AllowedOrigins []string       // sites beside our own whose pages may send changes, as scheme://host[:port]
	Publish        *Publish       // nil: public keys are not published
	Console        bool           // pages, and sessions for them
	HSTS           bool           // the certificate is one that browsers should insist on
	SeparateOps    bool           // health and metrics only on Ops, not beside the API
	Version        string         // of the service, as clients are told

	BodyBytes         int           // of a request, at most; signing has a bound of its own
	RequestsPerClient int           // API requests of one client at a time
	WriteTimeout      time.Duration // for a client to take an answer that is ready
}

// Handler serves the API. Ops serves health and metrics where they have a
// listener of their own.
type Handler struct {
	cfg      Config
	api, ops *echo.Echo
	metrics  *metrics
	series   *console.Series
	// crossOrigin decides which pages may have a browser send changes.
	crossOrigin *http.CrossOriginProtection
	gate        *gate // of the API alone: health and metrics are answered while it is closed
	// allow has, for each route template, the methods of the path.
	allow map[string][]string
	// bodyBytes has the bound on a body where a route template has its own.
	bodyBytes map[string]int
}

// dialect is what differs between the APIs of the two products, as far as this
// package needs it. The rest is in the package of each dialect.
type dialect struct {
	auth.Realm // whose sessions are accepted; its Dialect is also the label of logs and metrics
	writeError func(c echo.Context, requestID string, err error) error
}

func esx() dialect {
	return dialect{auth.Realm{Dialect: "esx", SessionHeader: vapi.SessionHeader, SessionCookie: vapi.SessionHeader}, vapi.WriteError}
}

func nsx() dialect {
	return dialect{auth.Realm{Dialect: "nsx", SessionCookie: policy.SessionCookie, XSRFHeader: policy.XSRFHeader}, policy.WriteError}
}

func vault() dialect {
	return dialect{auth.Realm{Dialect: "transit", SessionHeader: transit.SessionHeader, Bearer: true}, transit.WriteError}
}

// realmOf is the realm of a request that may come in a session of either dialect. Of the
// session header and the two cookies, the first that is present decides.
func realmOf(r *http.Request) auth.Realm {
	if realm := esx().Realm; len(r.Header.Values(realm.SessionHeader)) > 0 || len(r.CookiesNamed(realm.SessionCookie)) > 0 {
		return realm
	}
	return nsx().Realm
}

// dialectOf chooses the dialect whose error document a path gets, whether or not
// the path exists. Documents of the console are those of ESX.
func dialectOf(path string) dialect {
	d := esx()
	switch {
	case path == transit.Root, strings.HasPrefix(path, transit.Root+"/"):
		d = vault()
	case slices.ContainsFunc(policy.Roots(), func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }),
		path == policy.LoginPath, path == policy.LogoutPath:
		d = nsx()
	case path == "/rest", strings.HasPrefix(path, "/rest/"):
		d.writeError = vapi.WriteLegacyError
	}
	return d
}

// New builds the routes. It fails when a collector cannot be registered.
func New(cfg Config) (*Handler, error) {
	h := &Handler{cfg: cfg, gate: newGate(cfg.RequestsPerClient), allow: map[string][]string{}, bodyBytes: map[string]int{}}
	var err error
	if h.crossOrigin, err = newCrossOrigin(cfg.AllowedOrigins); err != nil {
		return nil, err
	}
	if h.metrics, err = newMetrics(cfg.Registry, h.gate.count); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	h.api = h.newEcho()
	h.ops = h.api
	if cfg.SeparateOps {
		h.ops = h.newEcho()
	}
	h.addOps()
	h.addPublished()
	vapi.Register(sessions{cfg.Auth, esx().Realm}, func(method, path string, op csr.Operation, handle vapi.Handle) {
		h.add(h.api, method, path, h.operation(esx(), fixed(op), handle))
	})
	policy.Register(sessions{cfg.Auth, nsx().Realm}, func(method, path string, operation policy.Operation, handle policy.Handle) {
		h.add(h.api, method, path, h.operation(nsx(), operation, handle))
	})
	h.addConsole()
	transit.Register(transit.Config{Sessions: sessions{cfg.Auth, vault().Realm}, Keys: cfg.Service, Ready: h.isReady, Version: cfg.Version}, func(r transit.Route) {
		h.bodyBytes[r.Path] = r.BodyBytes
		h.add(h.api, r.Method, r.Path, r.Handle)
	})
	return h, nil
}

// ServeHTTP serves the API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.api.ServeHTTP(w, r) }

// Ops serves /healthz, /readyz and /metrics.
func (h *Handler) Ops() http.Handler { return h.ops }

// KeepSeries keeps figures for the charts of the page until ctx ends.
func (h *Handler) KeepSeries(ctx context.Context) {
	if h.cfg.Console {
		h.series.Keep(ctx)
	}
}

// Drain makes every new API request a 503 and returns when those in flight are
// answered, or with ctx's error.
func (h *Handler) Drain(ctx context.Context) error { return h.gate.drain(ctx) }

func (h *Handler) newEcho() *echo.Echo {
	e := echo.New()
	e.HTTPErrorHandler = h.fail
	e.IPExtractor = origin.ClientAddress(h.cfg.TrustedProxies)
	e.Use(h.observe)
	return e
}

// add registers a route. HEAD follows GET. OPTIONS is answered with 405, like every
// other method that a path does not have: Echo would answer it by itself. The method
// echo.RouteNotFound registers a path that does not exist, beside a template that
// would match it.
func (h *Handler) add(e *echo.Echo, method, path string, handle echo.HandlerFunc) {
	if method == echo.RouteNotFound {
		e.Add(method, path, handle)
		return
	}
	handle = h.sameOrigin(handle)
	e.Add(method, path, handle)
	if h.allow[path] == nil {
		e.Add(http.MethodOptions, path, func(echo.Context) error { return echo.ErrMethodNotAllowed })
	}
	h.allow[path] = append(h.allow[path], method)
	if method == http.MethodGet {
		e.Add(http.MethodHead, path, handle)
		h.allow[path] = append(h.allow[path], http.MethodHead)
	}
}

// operation handles every API request: authenticate, authorise, and then the
// dialect's own handler.
//
// choose returns the operation that a request asks for, which may depend on more than
// its route. Where it also returns an error (no such action), the caller gets that
// error only with the privilege for the operation. Routes without choose are logins,
// which authenticate by themselves, and paths that do not exist.
func (h *Handler) operation(d dialect, choose func(*http.Request) (csr.Operation, error), handle func(echo.Context, *csr.Grant) error) echo.HandlerFunc {
	if choose == nil {
		return func(c echo.Context) error { return handle(c, nil) }
	}
	return func(c echo.Context) error {
		op, noSuchAction := choose(c.Request())
		grant, err := h.authorise(c, d, op)
		if err == nil {
			err = noSuchAction
		}
		if err == nil {
			err = handle(c, grant)
		}
		if noSuchAction == nil && creates(op) {
			h.metrics.countCreate(c, d.Dialect, err)
		}
		return err
	}
}

// authorise authenticates the caller and grants the operation.
func (h *Handler) authorise(c echo.Context, d dialect, op csr.Operation) (*csr.Grant, error) {
	caller, err := h.authenticate(c, d.Realm)
	if err != nil {
		return nil, err
	}
	return h.cfg.Service.Authorise(caller, op)
}

func (h *Handler) authenticate(c echo.Context, realm auth.Realm) (csr.Caller, error) {
	return sessions{h.cfg.Auth, realm}.Caller(c)
}

func (h *Handler) addConsole() {
	h.series = console.NewSeries(h.cfg.Registry, time.Now)
	cfg := console.Config{
		Enabled: h.cfg.Console, HSTS: h.cfg.HSTS, Sessions: sessions{h.cfg.Auth, auth.Console()}, Cookie: auth.ConsoleCookie,
		Service: h.cfg.Service, Registry: h.cfg.Registry, Series: h.series, Pool: h.cfg.Pool, Version: h.cfg.Version,
	}
	console.Register(cfg, func(method, path string, handle console.Handle, either ...csr.Operation) {
		h.add(h.api, method, path, h.console(handle, either))
	}, func(method, path string, handle echo.HandlerFunc) {
		h.add(h.api, method, path, handle)
	})
}

// console handles a request of the console. Its body says which of several operations it
// is. The body is read for callers who may do one of them.
func (h *Handler) console(handle console.Handle, either []csr.Operation) echo.HandlerFunc {
	return func(c echo.Context) error {
		caller, err := h.authenticate(c, realmOf(c.Request()))
		if err != nil {
			return err
		}
		authorise := func(op csr.Operation) (*csr.Grant, error) { return h.cfg.Service.Authorise(caller, op) }
		if len(either) > 0 && !slices.ContainsFunc(either, caller.May) {
			_, err := authorise(either[0])
			return err
		}
		return handle(c, caller, authorise)
	}
}

// fixed is the choose function of a route that has one operation, or none.
func fixed(op csr.Operation) func(*http.Request) (csr.Operation, error) {
	if op == "" {
		return nil
	}
	return func(*http.Request) (csr.Operation, error) { return op, nil }
}

// creates reports whether an operation makes a key, and so counts as the creation of
// a CSR.
func creates(op csr.Operation) bool {
	return op == csr.CreateCSR || op == csr.CreateNamedCSR || op == csr.SelfSignNew
}

// challenge asks for passwords in UTF-8 (RFC 7617 section 2.1): some clients send
// Latin-1 unless they are told.
const challenge = `Basic realm="attestcsr", charset="UTF-8"`

// fail answers every error, with a document of the dialect that the path belongs to.
func (h *Handler) fail(err error, c echo.Context) {
	ev := eventOf(c)
	ev.err = err
	if c.Response().Committed {
		// Part of an answer is sent. Only a broken connection tells the client that
		// it is not whole. What failed is the sending: the client did not take it.
		ev.untaken = true
		panic(http.ErrAbortHandler)
	}
	if httpErr := (*echo.HTTPError)(nil); errors.As(err, &httpErr) && httpErr.Code == http.StatusMethodNotAllowed {
		c.Response().Header().Set(echo.HeaderAllow, strings.Join(h.allow[c.Path()], ", "))
	}
	d := dialectOf(c.Request().URL.Path)
	if csrErr := (*csr.Error)(nil); errors.As(err, &csrErr) {
		switch csrErr.Kind {
		case csr.Unauthenticated:
			// A realm with Bearer takes no passwords. A browser would ask the user of a page
			// for one in a window of its own, and keep it.
			if !d.Bearer && !auth.FromConsole(c.Request()) {
				c.Response().Header().Set(echo.HeaderWWWAuthenticate, challenge)
			}
		case csr.Busy, csr.Unavailable, csr.TooMany:
			// Whole seconds, at least one (RFC 9110 section 10.2.3).
			seconds := max(1, int(math.Ceil(csrErr.RetryAfter.Seconds())))
			c.Response().Header().Set(echo.HeaderRetryAfter, strconv.Itoa(seconds))
		}
	}
	if err := d.writeError(c, ev.RequestID, err); err != nil {
		h.cfg.Logger.Debug("error document not sent", "request_id", ev.RequestID, "err", err)
	}
}

// Package transit is the dialect of clients of Vault and OpenBao: logins by password,
// tokens, and the keys that sign, as their "transit" secrets engine has them under /v1.
//
// Sources: the API documentation of Vault 1.21 and OpenBao 2.4, and what their clients and
// Sigstore's send and accept; docs/divergences.md lists where we knowingly differ.
package transit

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/handler/strict"
)

// Root is the first part of every path of this dialect, in front of a slash or alone.
const Root = "/v1"

const (
	loginPath  = Root + "/auth/userpass/login/:user"
	lookupPath = Root + "/auth/token/lookup-self"
	renewPath  = Root + "/auth/token/renew-self"
	revokePath = Root + "/auth/token/revoke-self"
	healthPath = Root + "/sys/health"
	keysPath   = Root + "/transit/keys"
	keyPath    = keysPath + "/:name"
	signPath   = Root + "/transit/sign/:name"
	verifyPath = Root + "/transit/verify/:name"
	byHash     = "/:hash"
)

// MethodList is the method of lists. Clients also send GET with the parameter list=true.
const MethodList = "LIST"

// SessionHeader has the token. Authorization: Bearer counts where it is absent.
const SessionHeader = "X-Vault-Token"

// Route is one route of the dialect.
type Route struct {
	Method, Path string
	BodyBytes    int // of a body, at most; 0: as everywhere
	Handle       echo.HandlerFunc
}

// Config is what the dialect is made of.
type Config struct {
	Sessions Sessions
	Keys     *csr.Service
	Ready    func(echo.Context) bool // for the health check; logs why not
	Version  string                  // of the service
}

// Register hands every route of the dialect to add. The method echo.RouteNotFound is of
// paths that do not exist beside a template that would match them.
func Register(cfg Config, add func(Route)) {
	t := &transit{cfg, newBodies(), strict.NewLenient[loginBody](), strict.NewLenient[signBody]()}
	route := func(method, path string, bodyBytes int, handle echo.HandlerFunc) {
		add(Route{method, path, bodyBytes, inNoNamespace(wholePath(handle))})
	}
	unknown := func(path string) {
		add(Route{Method: echo.RouteNotFound, Path: path + "/*", Handle: func(echo.Context) error { return echo.ErrNotFound }})
	}
	// Documentation says POST, and most clients send PUT.
	post := func(path string, bodyBytes int, handle echo.HandlerFunc) {
		route(http.MethodPost, path, bodyBytes, handle)
		route(http.MethodPut, path, bodyBytes, handle)
	}
	post(loginPath, 0, t.login)
	unknown(loginPath)
	route(http.MethodGet, lookupPath, 0, t.lookup)
	post(renewPath, 0, t.renew)
	post(revokePath, 0, t.revoke)
	route(http.MethodGet, healthPath, 0, t.health)

	route(MethodList, keysPath, 0, t.list)
	route(http.MethodGet, keysPath, 0, t.listByParameter)
	route(http.MethodGet, keyPath, 0, t.read)
	unknown(keyPath)
	for path, handle := range map[string]echo.HandlerFunc{signPath: t.sign, verifyPath: t.verify} {
		post(path, bodyBytes, handle)
		post(path+byHash, bodyBytes, handle)
		unknown(path + byHash)
	}
}

type transit struct {
	cfg    Config
	bodies *bodies
	logins *strict.Decoder[loginBody]
	jobs   *strict.Decoder[signBody]
}

// inNoNamespace refuses requests for a namespace: there are none.
func inNoNamespace(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		for _, value := range c.Request().Header.Values("X-Vault-Namespace") {
			if value != "" {
				return errNamespace
			}
		}
		return next(c)
	}
}

// wholePath refuses paths with an empty segment. In Echo, a parameter inside of a route
// matches the empty string.
func wholePath(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		if path := c.Request().URL.EscapedPath(); strings.Contains(path, "//") || strings.HasSuffix(path, "/") {
			return echo.ErrNotFound
		}
		return next(c)
	}
}

// parameter returns what stands in the path where the route has a parameter, or "" where
// it has no such one. It does not use Echo's, which is sometimes unescaped and sometimes
// not.
func parameter(c echo.Context, name string) (string, error) {
	segments := strings.Split(c.Request().URL.EscapedPath(), "/")
	for i, segment := range strings.Split(c.Path(), "/") {
		if segment != ":"+name || i >= len(segments) {
			continue
		}
		value, err := url.PathUnescape(segments[i])
		if err != nil {
			return "", echo.ErrNotFound
		}
		return value, nil
	}
	return "", nil
}

// response is the frame of every answer. Members that are not set are null.
type response struct {
	RequestID     string   `json:"request_id"`
	LeaseID       string   `json:"lease_id"`
	Renewable     bool     `json:"renewable"`
	LeaseDuration int64    `json:"lease_duration"`
	Data          any      `json:"data"`
	WrapInfo      any      `json:"wrap_info"`
	Warnings      any      `json:"warnings"`
	Auth          *grantee `json:"auth"`
}

// answer replies with data or with a token.
func answer(c echo.Context, data any, auth *grantee) error {
	return reply(c, http.StatusOK, response{
		RequestID: c.Response().Header().Get(echo.HeaderXRequestID), Data: data, Auth: auth,
	})
}

// reply writes v as JSON.
func reply(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.JSONBlob(status, body)
}

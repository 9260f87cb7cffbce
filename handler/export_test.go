package handler

import (
	"slices"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// NotFoundMethod is the method of routes that stand for paths that are none.
const NotFoundMethod = echo.RouteNotFound

// Routes lists every route as "METHOD template", sorted: those of the API and
// those of Ops, which are the same where they have one listener.
func (h *Handler) Routes() (api, ops []string) { return routesOf(h.api), routesOf(h.ops) }

func routesOf(e *echo.Echo) []string {
	var routes []string
	for _, r := range e.Routes() {
		routes = append(routes, r.Method+" "+r.Path)
	}
	slices.Sort(routes)
	return routes
}

// DocumentsOf returns the bodies of the key set and of openid-configuration.
func DocumentsOf(p Publish, set *csr.Published) (keySet, discovery []byte, err error) {
	d, err := p.documentsOf(set)
	if err != nil {
		return nil, nil, err
	}
	return d.keySet.body, d.discovery.body, nil
}

package handler

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	healthPath  = "/healthz"
	readyPath   = "/readyz"
	metricsPath = "/metrics"
)

func isOps(path string) bool {
	return path == healthPath || path == readyPath || path == metricsPath
}

// addOps registers what orchestrators and Prometheus call. These routes ask for no
// credentials and say nothing but whether the service works.
func (h *Handler) addOps() {
	h.add(h.ops, http.MethodGet, healthPath, func(c echo.Context) error {
		return c.String(http.StatusOK, "ok\n")
	})
	h.add(h.ops, http.MethodGet, readyPath, h.readiness)
	scrape := promhttp.HandlerFor(h.cfg.Registry, promhttp.HandlerOpts{
		ErrorLog:            scrapeLog{h},
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 8,
		Timeout:             10 * time.Second,
		Registry:            h.cfg.Registry,
	})
	h.add(h.ops, http.MethodGet, metricsPath, echo.WrapHandler(scrape))
}

// readiness answers 503 while the service drains or cannot commit. The reason goes to
// the log alone, since the route is open to strangers.
func (h *Handler) readiness(c echo.Context) error {
	if h.gate.isClosed() {
		return c.String(http.StatusServiceUnavailable, "shutting down\n")
	}
	if !h.isReady(c) {
		return c.String(http.StatusServiceUnavailable, "not ready: the log says why\n")
	}
	return c.String(http.StatusOK, "ready\n")
}

func (h *Handler) isReady(c echo.Context) bool {
	err := h.cfg.Ready(c.Request().Context())
	if err != nil {
		h.cfg.Logger.Warn("not ready", "request_id", eventOf(c).RequestID, "err", err)
	}
	return err == nil
}

// scrapeLog is promhttp's logger.
type scrapeLog struct{ h *Handler }

func (l scrapeLog) Println(v ...any) { l.h.cfg.Logger.Error("metrics not gathered", "err", v) }

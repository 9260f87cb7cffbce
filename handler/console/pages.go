package console

import (
	"embed"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/labstack/echo/v4"
)

//go:embed ui/*.html ui/*.js ui/*.css ui/page/*.js ui/page/*.css ui/vendor/*.gz
var ui embed.FS

// pagePaths has the file of each page.
func pagePaths() map[string]string {
	return map[string]string{"/": "index.html", "/apiexplorer": "explorer.html"}
}

// registerPages registers what needs no credentials: pages, and what they load. They
// are the same for everybody.
func registerPages(cfg Config, open func(method, path string, handle echo.HandlerFunc)) {
	once := sync.OnceValues(buildUI)
	for path, name := range pagePaths() {
		open(http.MethodGet, path, func(c echo.Context) error {
			built, err := once()
			if err != nil {
				return err
			}
			return send(c, cfg, built.pages[name])
		})
	}
	open(http.MethodGet, assetRoot+":name", func(c echo.Context) error {
		built, err := once()
		if err != nil {
			return err
		}
		asset, exists := built.assets[strings.TrimPrefix(c.Request().URL.Path, assetRoot)]
		if !exists {
			return echo.ErrNotFound
		}
		c.Response().Header().Set(echo.HeaderCacheControl, "public, max-age=31536000, immutable")
		return send(c, cfg, asset)
	})
}

// served is what there is, by name; assets with their hash.
type served struct{ assets, pages map[string]file }

// buildUI takes some milliseconds, and is done for the first who asks.
func buildUI() (served, error) {
	files, err := fs.Sub(ui, "ui")
	if err != nil {
		return served{}, err
	}
	assets, pages, err := build(files, slices.Sorted(maps.Values(pagePaths())))
	return served{assets, pages}, err
}

// secure has the browser load and run nothing but our own files, keep other sites out of
// the page's window, and believe the content type.
func secure(h http.Header, cfg Config) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), usb=()")
	if cfg.HSTS {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// send answers with a file, compressed for who takes that.
func send(c echo.Context, cfg Config, f file) error {
	h := c.Response().Header()
	secure(h, cfg)
	h.Set(echo.HeaderContentType, f.contentType)
	h.Set(echo.HeaderVary, "Accept-Encoding")
	if takesGzip(c.Request().Header.Values(echo.HeaderAcceptEncoding)) {
		h.Set(echo.HeaderContentEncoding, "gzip")
		h.Set(echo.HeaderContentLength, strconv.Itoa(len(f.gzip)))
		return c.Blob(http.StatusOK, f.contentType, f.gzip)
	}
	plain, err := f.plain()
	if err != nil {
		return err
	}
	return c.Stream(http.StatusOK, f.contentType, plain)
}

// takesGzip reads Accept-Encoding (RFC 9110 section 12.5.3), where a weight of 0 refuses.
// Whoever sends none gets the file as it is.
func takesGzip(lines []string) bool {
	for offer := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		coding, parameter, _ := strings.Cut(offer, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		_, weight, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		n, err := strconv.ParseFloat(weight, 64)
		return parameter == "" || err == nil && n > 0
	}
	return false
}

package handler_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"attestcsr/handler"
)

// pageHeaders are those of every page and asset.
var pageHeaders = map[string]string{
	"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
	"X-Content-Type-Options":       "nosniff",
	"Referrer-Policy":              "no-referrer",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Permissions-Policy":           "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), usb=()",
	"Strict-Transport-Security":    "",
	"Vary":                         "Accept-Encoding",
}

var assetPath = regexp.MustCompile(`/assets/[\w.-]+`)

// page reads a page or an asset as a browser does, and holds it against the same without
// compression and with HEAD.
func (s *stack) page(path string, headers map[string]string) string {
	s.t.Helper()
	get := func(method, encodings string) answer {
		return s.do(call{method: method, path: path, raw: true, anonymous: true, header: map[string]string{"Accept-Encoding": encodings}})
	}
	a, plain, head := get("GET", "br, gzip"), get("GET", "identity"), get("HEAD", "gzip")
	for name, value := range headers {
		for _, each := range []answer{a, plain, head} {
			if got := each.header.Get(name); each.status != http.StatusOK || got != value {
				s.t.Errorf("%s: %d, %s: %q, want %q", path, each.status, name, got, value)
			}
		}
	}
	if a.header.Get("Content-Encoding") != "gzip" || plain.header.Get("Content-Encoding") != "" {
		s.t.Fatalf("%s: %q and %q", path, a.header.Get("Content-Encoding"), plain.header.Get("Content-Encoding"))
	}
	if len(head.body) != 0 || head.header.Get("Content-Length") != strconv.Itoa(len(a.body)) || a.header.Get("Content-Type") != head.header.Get("Content-Type") {
		s.t.Errorf("%s: HEAD %v, %d bytes", path, head.header, len(a.body))
	}
	r, err := gzip.NewReader(bytes.NewReader(a.body))
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(text, plain.body) {
		s.t.Errorf("%s: %v, or two contents", path, err)
	}
	return string(text)
}

// Every page, and all that it loads, directly or not, is there and has the headers. Own
// files name no other site.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	types := map[string]string{
		"/": "text/html; charset=utf-8", "/apiexplorer": "text/html; charset=utf-8", "/openapi.json": asJSON, "/openapi.yaml": "application/yaml",
		"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8",
	}
	pages := []string{"/", "/apiexplorer", "/openapi.json", "/openapi.yaml"}
	seen := slices.Clone(pages)
	for i := 0; i < len(seen); i++ {
		path := seen[i]
		headers := map[string]string{"Cache-Control": "no-store", "Content-Type": types[path]}
		if !slices.Contains(pages, path) {
			headers = map[string]string{"Cache-Control": "public, max-age=31536000, immutable", "Content-Type": types[path[strings.LastIndex(path, ".")+1:]]}
		}
		maps.Copy(headers, pageHeaders)
		text := s.page(path, headers)
		for _, found := range assetPath.FindAllString(text, -1) {
			if !slices.Contains(seen, found) {
				seen = append(seen, found)
			}
		}
		if !regexp.MustCompile("swagger-ui|uPlot|openapi").MatchString(path) && strings.Contains(strings.ReplaceAll(text, "http://www.w3.org/2000/svg", ""), "://") {
			t.Errorf("%s names another site", path)
		}
		if strings.Contains(headers["Content-Type"], "html") && regexp.MustCompile(`(?i)<style|\sstyle=|\son\w+=|<script[^>]*>[^<]`).MatchString(text) {
			t.Errorf("%s has a script or a style of its own, which the browser does not run", path)
		}
	}
	if len(seen) < 6 {
		t.Errorf("only %v", seen)
	}
}

func TestPagesInsistOnHTTPS(t *testing.T) {
	t.Parallel()
	s := newStack(t, func(c *handler.Config) { c.HSTS = true })
	s.page("/apiexplorer", map[string]string{"Strict-Transport-Security": "max-age=31536000"})
}

func TestAcceptEncoding(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	for offered, compressed := range map[string]bool{
		"gzip": true, "GZIP": true, "br, gzip": true, "gzip;q=0.5": true, "deflate;q=1 , gzip ; q=1": true, "identity;q=0.5,gzip;q=1.0": true,
		"gzip;q=0": false, "gzip;q=0.000": false, "gzip;q=x": false, "gzip;q=-1": false, "xgzip": false, "identity": false, "*": false, "": false,
	} {
		a := s.do(call{method: "GET", path: "/apiexplorer", raw: true, anonymous: true, header: map[string]string{"Accept-Encoding": offered}})
		if (a.header.Get("Content-Encoding") == "gzip") != compressed || a.status != http.StatusOK {
			t.Errorf("%q: %d %v", offered, a.status, a.header)
		}
	}
}

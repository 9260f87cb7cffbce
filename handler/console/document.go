package console

import (
	"net/http"
	"sync"

	"github.com/labstack/echo/v4"

	"attestcsr/handler/console/openapi"
)

// registerDocument registers the OpenAPI document, which anybody may read: it says nothing
// that the sources do not say. It is made for the first who asks.
func registerDocument(cfg Config, open func(method, path string, handle echo.HandlerFunc)) {
	type form struct {
		contentType string
		text        func() ([]byte, error)
	}
	for path, of := range map[string]form{
		"/openapi.json": {echo.MIMEApplicationJSON, openapi.JSON},
		"/openapi.yaml": {"application/yaml", func() ([]byte, error) { return openapi.YAML(), nil }}, // RFC 9512
	} {
		once := sync.OnceValues(func() (file, error) {
			text, err := of.text()
			return file{of.contentType, compress(text)}, err
		})
		open(http.MethodGet, path, func(c echo.Context) error {
			document, err := once()
			if err != nil {
				return err
			}
			return send(c, cfg, document)
		})
	}
}

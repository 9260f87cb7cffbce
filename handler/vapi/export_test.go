package vapi

import (
	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// DecodeCreateSpec is what csr create does with a request before the core sees it.
func DecodeCreateSpec(c echo.Context) (csr.Spec, error) {
	body, err := decode(c, newDecoder[createSpec]())
	if err != nil {
		return csr.Spec{}, err
	}
	return body.spec(), nil
}

package vapi

import (
	"github.com/labstack/echo/v4"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/strict"
)

// DecodeCreateSpec is what csr create does with a request before the core sees it.
func DecodeCreateSpec(c echo.Context) (pkcs10.Spec, error) {
	body, err := Decode(c, strict.New[CreateSpec]())
	if err != nil {
		return pkcs10.Spec{}, err
	}
	return body.spec(), nil
}

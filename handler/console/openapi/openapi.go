// Package openapi has the description of the API in the form of OpenAPI 3.1. It is
// written by hand. The tests of package handler hold every exchange against it.
package openapi

import (
	_ "embed"

	"github.com/goccy/go-yaml"
)

//go:embed openapi.yaml
var document []byte

// YAML is the document as it is written.
func YAML() []byte { return document }

// JSON makes the same document in JSON, with its members in the same order. It takes
// longer than a start of the service should.
func JSON() ([]byte, error) { return yaml.YAMLToJSON(document) }

package design_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is the import table of docs/design.md: which of our packages each
// package may import. Tests may import what they need. Relaxing it is a change
// of the design.
var mayImport = map[string][]string{
	".":       {"command"},
	"command": {"config", "csr/pkcs10", "handler/client", "handler/console", "handler/policy", "handler/strict", "handler/transit", "handler/vapi", "server", "server/backup", "server/control", "server/output", "server/serving"},
	"server": {
		"config", "csr", "csr/audit", "csr/pkcs10", "handler", "handler/auth", "keystore", "keystore/bolt", "keystore/ownfile", "keystore/pool", "keystore/sealed",
		"server/admit", "server/agent", "server/backup", "server/control", "server/output", "server/serving", "server/tlscert", "server/users",
	},
	"server/control":        {"csr/audit"},
	"server/admit":          {"handler/origin"},
	"server/agent":          {"csr", "csr/audit"},
	"server/backup":         {"keystore/ownfile"},
	"server/output":         {},
	"server/serving":        {"keystore/ownfile", "server/tlscert"},
	"server/tlscert":        {"keystore/ownfile"},
	"server/users":          {"config", "csr", "handler/auth", "keystore/ownfile", "server/control"},
	"config":                {},
	"handler":               {"csr", "csr/audit", "csr/pkcs10", "handler/auth", "handler/console", "handler/origin", "handler/vapi", "handler/policy", "handler/strict", "handler/transit"},
	"handler/auth":          {"csr", "csr/audit", "handler/origin"},
	"handler/client":        {"handler/strict"},
	"handler/origin":        {},
	"handler/console":       {"csr", "csr/audit", "csr/pkcs10", "handler/console/openapi", "handler/strict", "handler/vapi"},
	"handler/vapi":          {"csr", "csr/pkcs10", "handler/client", "handler/strict"},
	"handler/policy":        {"csr", "csr/pkcs10", "handler/client", "handler/strict"},
	"handler/transit":       {"csr", "csr/pkcs10", "handler/client", "handler/strict"},
	"handler/strict":        {},
	"csr":                   {"keystore", "csr/audit", "csr/pkcs10"},
	"csr/pkcs10":            {},
	"csr/audit":             {"keystore/ownfile"},
	"keystore":              {},
	"keystore/bolt":         {"keystore", "keystore/ownfile"},
	"keystore/ownfile":      {},
	"keystore/pool":         {"keystore"},
	"keystore/sealed":       {"keystore", "keystore/ownfile"},
	"keystore/keystoretest": {"keystore"},

	"handler/console/openapi": {},
}

// mustNotKnow are packages of others that would let a room do another's work.
var mustNotKnow = map[string][]string{
	"csr":        {"net/http", "github.com/labstack/echo"},
	"csr/pkcs10": {"net/http", "github.com/labstack/echo", "context", "os"},
	"csr/audit":  {"net/http", "github.com/labstack/echo", "go.etcd.io/bbolt", "github.com/tink-crypto", "crypto/x509"},
	"keystore":   {"net/http", "crypto/x509/pkix", "github.com/labstack/echo", "go.etcd.io/bbolt", "github.com/tink-crypto"},
	"config":     {"net/http", "github.com/labstack/echo"},
}

func TestImports(t *testing.T) {
	t.Parallel()
	const module = "attestcsr/"
	packages := map[string]bool{}
	err := fs.WalkDir(repository(), ".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		dir := path.Dir(file)
		if strings.HasPrefix(dir, "test/") {
			return nil // what tests share may import anything
		}
		packages[dir] = true
		allowed, listed := mayImport[dir]
		if !listed {
			t.Errorf("package %s is not in the import table", dir)
		}
		source, err := fs.ReadFile(repository(), file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if ours, is := strings.CutPrefix(name, module); is && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", file, ours)
			}
			for _, other := range mustNotKnow[dir] {
				if name == other || strings.HasPrefix(name, other+"/") {
					t.Errorf("%s imports %s", file, name)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range mayImport {
		if !packages[dir] {
			t.Errorf("the import table names %s, which does not exist", dir)
		}
	}
}

package start_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

var writeMetricsPage = flag.Bool("write-metrics-page", false, "write docs/metrics.md instead of comparing it")

// family is a metric as /metrics shows it.
type family struct {
	kind, help string
	labels     map[string]bool
}

// TestMetricsPage: docs/metrics.md names every metric that a service shows, and every
// metric that the code has is shown.
func TestMetricsPage(t *testing.T) {
	t.Parallel()
	shown := shownMetrics(t)
	for name, file := range writtenMetrics(t) {
		if shown[name] == nil {
			t.Errorf("%s has the metric %s, which /metrics of this test does not show", file, name)
		}
	}
	const page = "../../docs/metrics.md"
	want := metricsPage(shown)
	if *writeMetricsPage {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != want {
		t.Errorf("docs/metrics.md is not what /metrics shows (%v): run make docs/metrics.md", err)
	}
}

// shownMetrics has one of everything that is measured in a service.
func shownMetrics(t *testing.T) map[string]*family {
	t.Helper()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: "key_pool:\n  targets: {2048: 1}\ncertificate: {activate_after: 1h}\npublish: {enabled: true}\n" +
		"signer: {socket: " + filepath.Join(worldFolder(t), "signer.sock") + ", allow: {}}\n"})
	setNew(t, s, kit.NewCA(t, "CA", time.Now()), 204)
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	s.Must(201, "POST", start.NSXCSRs+"?action=self_sign", start.ECSpec("nsx.example.com"))
	families := map[string]*family{}
	for line := range strings.Lines(s.Must(200, "GET", "/metrics", "")) {
		if m := regexp.MustCompile(`^# (HELP|TYPE) (attestcsr_\w+) (.*)\n`).FindStringSubmatch(line); m != nil {
			f := families[m[2]]
			if f == nil {
				f = &family{labels: map[string]bool{}}
				families[m[2]] = f
			}
			if m[1] == "HELP" {
				f.help = m[3]
			} else {
				f.kind = m[3]
			}
			continue
		}
		name, _, _ := strings.Cut(line, "{")
		f := families[strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")]
		for _, m := range regexp.MustCompile(`[{,](\w+)="`).FindAllStringSubmatch(line, -1) {
			if f != nil && m[1] != "le" {
				f.labels[m[1]] = true
			}
		}
	}
	return families
}

// writtenMetrics returns the names of metrics in the code of the service, and their files.
func writtenMetrics(t *testing.T) map[string]string {
	t.Helper()
	names := map[string]string{}
	for _, room := range []string{"csr", "handler", "keystore", "server"} {
		err := filepath.WalkDir("../../"+room, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, is := n.(*ast.BasicLit); is && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil && regexp.MustCompile(`^attestcsr_\w+$`).MatchString(text) {
						names[text] = path
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(names) < 30 {
		t.Fatalf("the code has only %d metrics: the search finds too little", len(names))
	}
	return names
}

func metricsPage(families map[string]*family) string {
	var page strings.Builder
	page.WriteString("# Metrics\n\n" +
		"`/metrics` shows these, and those of the Go runtime and of the process (`go_*`, `process_*`). [Operations](operations.md#watching) says how to\n" +
		"scrape them. `make docs/metrics.md` writes this page from a running service.\n\n" +
		"| metric | type | labels | what it says |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		labels := strings.Join(slices.Sorted(maps.Keys(f.labels)), ", ")
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", name, f.kind, labels, f.help)
	}
	return page.String()
}

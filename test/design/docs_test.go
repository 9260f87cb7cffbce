package design_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// root is the root of the repository.
const root = "../.."

func repository() fs.FS { return os.DirFS(root) }

// TestDocsNameTests: each test that a page names as evidence exists, so that no
// claim outlives its test.
func TestDocsNameTests(t *testing.T) {
	t.Parallel()
	written := testNames(t)
	// Each promise names a test, and each way in has one: fewer are too few.
	for page, atLeast := range map[string]int{"docs/threat-model.md": 40, "docs/design.md": 15, "docs/operations.md": 1} {
		named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(kit.Read(t, root, page), -1)
		if len(named) < atLeast {
			t.Errorf("%s names %d tests, fewer than %d", page, len(named), atLeast)
		}
		for _, name := range named {
			if !written[string(name[1])] {
				t.Errorf("%s names %s, which does not exist", page, name[1])
			}
		}
	}
}

// testNames returns the name of every test and fuzz target.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := fs.WalkDir(repository(), ".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := fs.ReadFile(repository(), file)
		for _, found := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(source, -1) {
			names[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestDocsLength keeps the pages that people read first short: in words, as wc -w
// counts them.
func TestDocsLength(t *testing.T) {
	t.Parallel()
	for page, limit := range map[string]int{"README.md": 900, "docs/design.md": 2000} {
		if n := len(bytes.Fields(kit.Read(t, root, page))); n > limit {
			t.Errorf("%s has %d words, more than %d", page, n, limit)
		}
	}
}

// TestDocsLinks: links from page to page lead somewhere, and README.md links to every
// page.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	docs := docPages(t)
	linked := map[string]bool{}
	for _, page := range append([]string{"README.md"}, docs...) {
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllSubmatch(kit.Read(t, root, page), -1) {
			if strings.Contains(string(link[1]), "://") {
				continue
			}
			target := filepath.Join(filepath.Dir(page), string(link[1]))
			if _, err := fs.Stat(repository(), filepath.ToSlash(target)); errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s links to %s, which does not exist", page, link[1])
			}
			if page == "README.md" {
				linked[target] = true
			}
		}
	}
	for _, page := range docs {
		if !linked[page] {
			t.Errorf("README.md does not link to %s", page)
		}
	}
}

// docPages returns the pages under docs, in alphabetical order.
func docPages(t *testing.T) []string {
	t.Helper()
	pages, err := fs.Glob(repository(), "docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	return pages
}

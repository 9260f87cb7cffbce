package console

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"attestcsr/test/kit"
)

func built(t *testing.T, files map[string]string) (assets, pages map[string]file, err error) {
	t.Helper()
	from := fstest.MapFS{}
	for name, content := range files {
		if strings.HasSuffix(name, ".gz") {
			content = string(compress([]byte(content)))
		}
		from[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return build(from, []string{"page.html"})
}

func text(t *testing.T, f file) string {
	t.Helper()
	plain, err := f.plain()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// A change of a file gives another name to it and to all that refer to it, and to nothing else.
func TestAssetNames(t *testing.T) {
	t.Parallel()
	names := func(leaf string) (page string, assets map[string]file) {
		assets, pages, err := built(t, map[string]string{
			"page.html":         `<script src="/assets/a.js"></script><link href="/assets/other.css">`,
			"page/a.js":         `import { b } from '/assets/b.js'; import("/assets/b.js");`,
			"page/b.js":         leaf,
			"other.css":         `a { color: red }`,
			"vendor/lib.min.js": `ignored`,
			"vendor/big.js.gz":  `fetch("/assets/nothing.js")`,
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(pages) != 1 || len(assets) != 5 {
			t.Fatalf("%d pages, %d assets", len(pages), len(assets))
		}
		for name, asset := range assets {
			for _, found := range reference.FindAllString(text(t, asset), -1) {
				if _, exists := assets[strings.TrimPrefix(found, assetRoot)]; !exists && !strings.HasPrefix(name, "big.") {
					t.Errorf("%s refers to %s", name, found)
				}
			}
		}
		return text(t, pages["page.html"]), assets
	}
	page, assets := names("1")
	same, _ := names("1")
	changed, others := names("2")
	if page != same || page == changed {
		t.Errorf("%s\n%s\n%s", page, same, changed)
	}
	kept := 0
	for name := range assets {
		if _, exists := others[name]; exists {
			kept++
		}
	}
	if kept != 3 {
		t.Errorf("%d names are the same, want those of three files", kept)
	}
}

func TestAssetsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		says  string
	}{
		"missing":      {map[string]string{"page.html": `"/assets/a.js"`}, "page.html: there is no a.js"},
		"circle":       {map[string]string{"page.html": "", "a.js": `"/assets/b.js"`, "b.js": `"/assets/a.js"`}, "a.js refers to itself in the end"},
		"same name":    {map[string]string{"page.html": "", "x/a.js": "", "y/a.js": ""}, "two files are named a.js"},
		"unknown kind": {map[string]string{"page.html": "", "a.exe": ""}, "a.exe: no content type is known"},
	} {
		if _, _, err := built(t, test.files); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The files of others are those that their sums were made of, all of them, with licences.
func TestVendoredFiles(t *testing.T) {
	t.Parallel()
	const dir = "ui/vendor"
	sums := map[string]string{}
	for line := range strings.Lines(string(kit.Read(t, dir, "SHA256SUMS"))) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		sums[name] = sum
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	licences := 0
	for _, entry := range entries {
		name, compressed := strings.CutSuffix(entry.Name(), ".gz")
		switch {
		case compressed:
			content := text(t, file{gzip: kit.Read(t, dir, entry.Name())})
			if sum := sha256.Sum256([]byte(content)); hex.EncodeToString(sum[:]) != sums[name] {
				t.Errorf("%s is not the file of SHA256SUMS: make ui", name)
			}
			delete(sums, name)
		case strings.Contains(name, "LICENSE"):
			licences++
		case !strings.HasSuffix(name, ".NOTICE") && name != "SHA256SUMS":
			t.Errorf("what is %s?", name)
		}
	}
	if len(sums) != 0 || licences == 0 {
		t.Errorf("files that are not there: %v; %d licences", sums, licences)
	}
}

package console_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestTextStaysText: no script of ours makes HTML, or code, from a text, and none keeps
// anything in the browser or asks another origin.
func TestTextStaysText(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\b|new Function|localStorage|sessionStorage|indexedDB|document\.cookie|https?://`)
	var scripts []string
	for _, pattern := range []string{"ui/*.js", "ui/page/*.js"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, found...)
	}
	if len(scripts) < 8 {
		t.Fatalf("scripts %q", scripts)
	}
	for _, script := range scripts {
		content, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.Find(content); found != nil {
			t.Errorf("%s has %s", script, found)
		}
	}
}

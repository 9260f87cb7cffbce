package start_test

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestServiceEvents: starts, stops, other settings and other users are lines of the
// trail, with names and without values.
func TestServiceEvents(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	wantLine(t, s.DataDir, "service.start", 1)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if l := wantLine(t, s.DataDir, "service.stop", 1); l.Event != "administration" || l.User != "system:service" || l.Method != "service" {
		t.Errorf("%+v", l)
	}
	again := s.Again()
	wantLine(t, s.DataDir, "service.start", 2)
	again.Kill()
	wantLine(t, s.DataDir, "service.stop", 1) // a kill is a start without a stop before it

	changed := start.Serve(t, start.Options{DataDir: s.DataDir, Config: s.Config(), Args: []string{"--log-level", "debug", "--limits-sessions", "4711"}})
	l := wantLine(t, s.DataDir, "settings.change", 1)
	if want := []string{"limits.sessions", "log.level"}; !slices.Equal(l.Settings, want) {
		t.Errorf("%v, want %v", l.Settings, want)
	}
	if text := newest(t, s.DataDir); regexp.MustCompile(`\b4711\b`).MatchString(text) { // digests may have the digits
		t.Errorf("the trail has a value: %s", text)
	}

	if n := len(trail(t, s.DataDir, "users.reload")); n != 0 {
		t.Errorf("%d lines of new users, and nobody changed them", n)
	}
	kit.Overwrite(t, filepath.Dir(s.Config()), "users", start.UserLine(t, start.User, "another"))
	wantLine(t, s.DataDir, "users.reload", 1)
	if err := changed.Stop(); err != nil {
		t.Error(err)
	}
	must(t, s.DataDir, "audit verify")
}

// newest returns the text of the newest file of changes.
func newest(t *testing.T, dataDir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, server.AuditDir, "changes-*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no trail: %v", err)
	}
	return string(kit.Read(t, "", files[len(files)-1]))
}

// TestDiscardIsRecorded: the trail of a store that is discarded ends with who did it.
// Where the store does not open, the command says that there is no line.
func TestDiscardIsRecorded(t *testing.T) {
	t.Parallel()
	dir := start.Prepare(t, start.Options{})
	discard := func() string {
		cmd := exec.Command(start.Binary(t), "store", "discard-keys", "--yes", "--data-dir", dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v %s", err, out)
		}
		return string(out)
	}
	if out := discard(); strings.Contains(out, "no line") {
		t.Errorf("%s", out)
	}
	if l := wantLine(t, dir, "keys.discard", 1); l.Method != "command" {
		t.Errorf("%+v", l)
	}
	if out := discard(); !strings.Contains(out, "no line of this") {
		t.Errorf("without a store: %s", out)
	}
}

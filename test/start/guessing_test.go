package start_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestKnownNetworks: a restart knows from which networks right passwords came. The file
// does not say which those are, and a damaged one stops nobody.
func TestKnownNetworks(t *testing.T) {
	t.Parallel()
	const name = "known-networks.json"
	s := start.Serve(t, start.Options{})
	file := filepath.Join(s.DataDir, name)
	known := func() (codes map[string]int64) {
		t.Helper()
		text := string(kit.Read(t, s.DataDir, name))
		info, err := os.Stat(file)
		if err != nil || info.Mode() != 0o600 || strings.Contains(text, "127.0.0.1") {
			t.Errorf("%v, %v: %s", info.Mode(), err, text)
		}
		saved := struct{ Networks map[string]int64 }{}
		if err := json.Unmarshal([]byte(text), &saved); err != nil {
			t.Errorf("%v: %s", err, text)
		}
		return saved.Networks
	}
	restart := func() {
		t.Helper()
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		s = s.Again()
	}
	s.Must(404, "GET", start.CSRPath, "")
	restart()
	before := known()
	if len(before) != 1 {
		t.Errorf("%d networks are known", len(before))
	}
	s.Must(404, "GET", start.CSRPath, "") // not minutes later: nothing new
	kit.Overwrite(t, s.DataDir, name, "garbage")
	restart()
	s.WantLog("the networks that right passwords came from are not known")
	s.Must(404, "GET", start.CSRPath, "")
	restart()
	for code := range known() {
		if before[code] == 0 {
			t.Error("the same network has another code after a restart")
		}
	}
}

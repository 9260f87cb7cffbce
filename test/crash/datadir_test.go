package crash_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// A data directory that is removed, moved or replaced under the service: changes
// are refused and say why, reads go on, and only the same directory, put back, ends
// it without a restart.
func TestDataDirectoryTakenAway(t *testing.T) {
	t.Parallel()
	binary := start.Binary(t)
	dir := t.TempDir()
	args := settings(t, dir)
	prepared := prepare(t, binary, dir, args)
	launch := func(t *testing.T, data string) *start.Instance {
		t.Helper()
		s := start.LaunchBinary(t, binary, data, args...)
		if err := s.WaitReady(); err != nil {
			t.Fatal(err)
		}
		s.Password = testPassword
		return s
	}
	replace := func(data string) error {
		return errors.Join(os.RemoveAll(data), copyData(prepared, data))
	}
	for _, test := range []struct {
		name  string
		take  func(data string) error
		says  string
		after func(data string) error // ends it; nil where that takes a restart
	}{
		{"moved and put back", func(data string) error { return os.Rename(data, data+".away") }, "removed or moved away",
			func(data string) error { return os.Rename(data+".away", data) }},
		{"removed", os.RemoveAll, "removed or moved away", nil},
		{"replaced by a backup", replace, "was replaced while it was open: restart", nil},
		{"file replaced by a backup", func(data string) error {
			return errors.Join(copyData(prepared, data+".backup"), os.Rename(filepath.Join(data+".backup", server.StoreFile), filepath.Join(data, server.StoreFile)))
		}, "was replaced while it was open: restart", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			if err := copyData(prepared, data); err != nil {
				t.Fatal(err)
			}
			s := launch(t, data)
			s.Must(201, "POST", requestsPath+"/a?action=create", requestBody("a"))
			before, err := view(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := test.take(data); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				s.Must(503, "POST", requestsPath+"/b?action=create", requestBody("b"))
				s.Must(503, "DELETE", requestsPath+"/a", "")
				if found, err := view(s); err != nil || !found.is(before) {
					t.Errorf("reads have %s, want %s, %v", found, before, err)
				}
			}
			ready := func(want int) func() bool {
				return func() bool {
					status, _, err := s.Do("GET", "/readyz", "", "")
					return err == nil && status == want
				}
			}
			kit.Eventually(t, "not ready", ready(http.StatusServiceUnavailable))
			if !strings.Contains(s.Stdout.String(), test.says) {
				t.Errorf("the log does not say %q:\n%s", test.says, s.Stdout)
			}
			if test.after != nil {
				if err := test.after(data); err != nil {
					t.Fatal(err)
				}
				kit.Eventually(t, "ready again", ready(http.StatusOK))
				s.Must(201, "POST", requestsPath+"/b?action=create", requestBody("b"))
				before[requestName+"b"] = unknown
			}
			kit.Count(t, "data directories taken away", 1)
			_ = s.Stop() // its last commit may have nowhere to go
			quiet(t, test.name, s)
			if test.name == "removed" {
				return // what a start makes is a new directory
			}
			if strings.HasPrefix(test.name, "replaced") || strings.HasPrefix(test.name, "file") {
				delete(before, requestName+"a") // the backup is older
			}
			if found, err := view(launch(t, data)); err != nil || !found.is(before) {
				t.Errorf("after a restart there is %s, want %s, %v", found, before, err)
			}
		})
	}
}

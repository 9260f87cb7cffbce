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

// takenAway is a way in which a data directory goes away under the service.
type takenAway struct {
	name string
	take func(data string) error
	says string // in the log
	// putBack brings it back; nil where that takes a restart.
	putBack func(data string) error
	older   bool // what a restart finds is a backup
}

func waysToTakeAway(backup string) []takenAway {
	const missing, replaced = "removed or moved away", "was replaced while it was open: restart"
	return []takenAway{
		{"moved and put back", func(data string) error { return os.Rename(data, data+".away") }, missing,
			func(data string) error { return os.Rename(data+".away", data) }, false},
		{"removed", os.RemoveAll, missing, nil, false},
		{"replaced by a backup", func(data string) error {
			return errors.Join(os.RemoveAll(data), copyData(backup, data))
		}, replaced, nil, true},
		{"file replaced by a backup", func(data string) error {
			return errors.Join(copyData(backup, data+".backup"), os.Rename(filepath.Join(data+".backup", server.StoreFile), filepath.Join(data, server.StoreFile)))
		}, replaced, nil, true},
	}
}

// A data directory that is removed, moved or replaced under the service: changes are
// refused and say why, and reads go on. Only the same directory, put back, ends that
// without a restart.
func TestDataDirectoryTakenAway(t *testing.T) {
	t.Parallel()
	binary := start.Binary(t)
	dir := t.TempDir()
	args := settings(t, dir)
	prepared := prepare(t, binary, dir, args)
	for _, test := range waysToTakeAway(prepared) {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(t.TempDir(), "data")
			if err := copyData(prepared, data); err != nil {
				t.Fatal(err)
			}
			launch := func() *start.Instance {
				s := start.LaunchBinary(t, binary, data, args...)
				if err := s.WaitReady(); err != nil {
					t.Fatal(err)
				}
				s.Password = testPassword
				return s
			}
			s := launch()
			want := test.run(t, s, data)
			kit.Count(t, "data directories taken away", 1)
			_ = s.Stop() // its last commit may have nowhere to go
			quiet(t, test.name, s)
			if test.name == "removed" {
				return // what a start makes is a new directory
			}
			if found, err := view(launch()); err != nil || !found.is(want) {
				t.Errorf("after a restart there is %s, want %s, %v", found, want, err)
			}
		})
	}
}

// run takes the data directory away and puts it back, if it can be. It returns what
// a restart has to find.
func (w takenAway) run(t *testing.T, s *start.Instance, data string) stored {
	t.Helper()
	ready := func(want int) func() bool {
		return func() bool {
			status, _, err := s.Do("GET", "/readyz", "", "")
			return err == nil && status == want
		}
	}
	s.Must(201, "POST", requestsPath+"/a?action=create", requestBody("a"))
	before, err := view(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.take(data); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s.Must(503, "POST", requestsPath+"/b?action=create", requestBody("b"))
		s.Must(503, "DELETE", requestsPath+"/a", "")
		if found, err := view(s); err != nil || !found.is(before) {
			t.Errorf("reads have %s, want %s, %v", found, before, err)
		}
	}
	kit.Eventually(t, "not ready", ready(http.StatusServiceUnavailable))
	if !strings.Contains(s.Stdout.String(), w.says) {
		t.Errorf("the log does not say %q:\n%s", w.says, s.Stdout)
	}
	if w.putBack != nil {
		if err := w.putBack(data); err != nil {
			t.Fatal(err)
		}
		kit.Eventually(t, "ready again", ready(http.StatusOK))
		s.Must(201, "POST", requestsPath+"/b?action=create", requestBody("b"))
		return before.with(requestName+"b", unknown)
	}
	if w.older {
		return before.without(requestName + "a")
	}
	return before
}

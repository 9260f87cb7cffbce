package crash_test

import (
	"path/filepath"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestDataDirectoryTakenAway: a data directory is moved away under the service, put
// back, and replaced by a backup. Changes are refused while it is not there, the log
// says why, and reads go on. Only the same directory ends that without a restart.
func TestDataDirectoryTakenAway(t *testing.T) {
	t.Parallel()
	o := start.Options{Binary: start.Binary(t), Config: start.Config(t, "")}
	backup := start.Prepare(t, o)
	o.DataDir = filepath.Join(t.TempDir(), "data")
	start.CopyData(t, backup, o.DataDir)
	s := start.Serve(t, o)
	older, err := view(s)
	if err != nil {
		t.Fatal(err)
	}
	s.Must(201, "POST", start.NSXCSRs+"/a?action=create", start.ECSpec("a"))
	before, err := view(s)
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(log string) {
		t.Helper()
		kit.Eventually(t, "not ready", func() bool { return s.Answers(503, "/readyz") })
		for range 2 {
			s.Must(503, "POST", start.NSXCSRs+"/b?action=create", start.ECSpec("b"))
			s.Must(503, "DELETE", start.NSXCSRs+"/a", "")
			if found, err := view(s); err != nil || !found.is(before) {
				t.Errorf("reads have %s, want %s, %v", found, before, err)
			}
		}
		s.WantLog(log)
		kit.Count(t, "data directories taken away", 1)
	}
	kit.Rename(t, s.DataDir, s.DataDir+".away")
	refuses("removed or moved away")
	kit.Rename(t, s.DataDir+".away", s.DataDir)
	kit.Eventually(t, "ready again", func() bool { return s.Answers(200, "/readyz") })
	s.Must(200, "DELETE", start.NSXCSRs+"/a", "")
	s.Must(201, "POST", start.NSXCSRs+"/a?action=create", start.ECSpec("a"))
	if before, err = view(s); err != nil {
		t.Fatal(err)
	}

	kit.Rename(t, s.DataDir, s.DataDir+".away")
	start.CopyData(t, backup, s.DataDir)
	refuses("was replaced while it was open: restart")
	_ = s.Stop() // its last commit may have nowhere to go
	quiet(t, "taken away", s)
	if found, err := view(s.Again()); err != nil || !found.is(older) {
		t.Errorf("after a restart there is %s, want %s, %v", found, older, err)
	}
}

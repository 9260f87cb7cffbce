package start_test

import (
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// earlier makes a data directory with a change, copies it, and makes another change.
func earlier(t *testing.T) (dataDir, copied string, o start.Options) {
	t.Helper()
	o = start.Options{Config: start.Config(t, "")}
	s := start.Serve(t, o)
	o.DataDir = s.DataDir
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	copied = filepath.Join(t.TempDir(), "copy")
	start.CopyData(t, s.DataDir, copied)
	again := s.Again()
	again.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
	return s.DataDir, copied, o
}

// TestCheckpoint: store, trail and keyset of one earlier day fit each other. Only a
// checkpoint that was kept elsewhere shows that they were put back; it needs the files of
// the trail alone.
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	dataDir, copied, _ := earlier(t)
	elsewhere := t.TempDir()
	kit.Overwrite(t, elsewhere, "key", must(t, dataDir, "audit checkpoint --public-key"))
	kit.Overwrite(t, elsewhere, "checkpoint", must(t, dataDir, "audit checkpoint"))
	verify := "audit verify --checkpoint " + filepath.Join(elsewhere, "checkpoint") + " --public-key " + filepath.Join(elsewhere, "key")
	must(t, copied, "audit verify")
	if out, status := command(t, copied, verify); status != 1 || !strings.Contains(out, "put back") {
		t.Errorf("what was put back: %d %s", status, out)
	}
	kit.Remove(t, dataDir, server.StoreFile)
	kit.Remove(t, dataDir, server.KeysetFile)
	if out := must(t, dataDir, verify); !strings.Contains(out, "the trail goes on from line") {
		t.Errorf("the same trail: %s", out)
	}
	kit.Overwrite(t, elsewhere, "key", must(t, copied, "audit checkpoint --public-key"))
	if out, status := command(t, dataDir, verify); status != 1 || !strings.Contains(out, "not signed with this key") {
		t.Errorf("another key: %d %s", status, out)
	}
	without, _, _ := strings.Cut(verify, " --public-key")
	if out, status := command(t, dataDir, without); status != 2 {
		t.Errorf("without a key: %d %s", status, out)
	}
}

// TestAccept: a restored store is a problem until somebody says why it is right. From
// then on verify shows who and why, and finds nothing.
func TestAccept(t *testing.T) {
	t.Parallel()
	dataDir, copied, o := earlier(t)
	kit.CopyFile(t, filepath.Join(copied, server.StoreFile), filepath.Join(dataDir, server.StoreFile))
	s := start.Serve(t, o)
	if out, status := command(t, dataDir, "audit verify"); status != 1 {
		t.Errorf("after the restore: %d %s", status, out)
	}
	if out, status := command(t, dataDir, "audit accept"); status != 2 || !strings.Contains(out, "--reason") {
		t.Errorf("without a reason: %d %s", status, out)
	}
	must(t, dataDir, "audit accept --reason restored-after-a-disk-failed")
	for _, running := range []bool{true, false} {
		if out := must(t, dataDir, "audit verify"); !strings.Contains(out, "restored-after-a-disk-failed") || !strings.Contains(out, "uid:") {
			t.Errorf("running %t: verify prints %s", running, out)
		}
		if !running {
			break
		}
		s.Must(201, "POST", start.CSRPath, start.ValidSpec)
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if out, status := command(t, dataDir, "audit accept --reason again"); status != 1 || !strings.Contains(out, "nothing to accept") {
		t.Errorf("twice: %d %s", status, out)
	}
}

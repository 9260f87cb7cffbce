//go:build tools

package start_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestReadOnlyVolume: a ConfigMap is in a folder of mode 0777, and is mounted so that
// nobody can write to it. Where it is not, the start refuses it.
func TestReadOnlyVolume(t *testing.T) {
	t.Parallel()
	dir := trustedTree(t)
	run(t, 0, dir, "mkdir volume mounted; cp etc/made.yaml volume; chown -R 0:0 volume; chmod 644 volume/made.yaml; chmod 777 volume; "+
		"mount --bind volume mounted; mount -o remount,bind,ro mounted")
	t.Cleanup(func() { run(t, 0, dir, "umount mounted") })
	o := inTree(t, dir, "made")
	o.Config = filepath.Join(dir, "volume", "made.yaml")
	if text := start.Refused(t, o); !strings.Contains(text, "settings file: "+dir+"/volume is accessible to others") {
		t.Error(text)
	}
	o.Config = filepath.Join(dir, "mounted", "made.yaml")
	s := start.Serve(t, o)
	if err := s.Stop(); err != nil {
		t.Errorf("%v %s", err, s.Stderr)
	}
	if !regexp.MustCompile(`(?m)^\| ConfigMap \|.*\| started`).Match(kit.Read(t, "../../docs", "operations.md")) {
		t.Error("docs/operations.md does not say so")
	}
}

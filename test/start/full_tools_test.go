//go:build tools

package start_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestFullDiskAtStart: wherever a first start finds its disk full, it says so and what to
// do, and the start after that succeeds.
func TestFullDiskAtStart(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	refused := 0
	for _, kib := range []int{4, 8, 16, 32, 40, 44, 48, 52, 56, 60, 64, 72, 96, 128, 160, 256, 1024} {
		mount := worldFolder(t)
		run(t, 0, mount, fmt.Sprintf("mount -t tmpfs -o size=%dk,mode=700 tmpfs %s", kib, mount))
		t.Cleanup(func() { run(t, 0, "/", "umount "+mount) })
		o := start.Options{DataDir: filepath.Join(mount, "data")}
		s := start.Launch(t, o)
		if err := s.WaitReady(); err == nil {
			s.Kill()
			continue
		}
		refused++
		text := s.Stderr.String()
		if s.Cmd.ProcessState.ExitCode() != 1 || !strings.Contains(text, "no space left on device") || !strings.Contains(text, "the volume of "+mount) || !strings.Contains(text, "is full: make room") {
			t.Errorf("%d KiB: %s", kib, text)
		}
		run(t, 0, mount, "mount -o remount,size=64m "+mount)
		s.Again().Kill()
	}
	if refused < 3 {
		t.Errorf("only %d starts were refused", refused)
	}
	kit.Count(t, "starts on a full disk", refused)
}

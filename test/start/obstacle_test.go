package start_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/server/serving"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestDanglingLinks: a symbolic link that leads nowhere is named, with where it leads,
// whichever file it stands for.
func TestDanglingLinks(t *testing.T) {
	t.Parallel()
	prepared := start.Prepare(t, start.Options{})
	gone := filepath.Join(t.TempDir(), "volume", "gone") // neither exists
	for name, test := range map[string]struct {
		link func(dir string) string // to the file that is gone
		args func(dir string) []string
	}{
		"data_dir":    {func(dir string) string { return filepath.Join(dir, "data") }, nil},
		"settings":    {func(dir string) string { return filepath.Join(dir, "config.yaml") }, func(dir string) []string { return []string{"--config", filepath.Join(dir, "config.yaml")} }},
		"certificate": {func(dir string) string { return filepath.Join(dir, "tls.crt") }, nil},
		"key":         {func(dir string) string { return filepath.Join(dir, "tls.key") }, nil},
		"users":       {func(dir string) string { return filepath.Join(dir, "link") }, func(dir string) []string { return []string{"--auth-users-file", filepath.Join(dir, "link")} }},
		"keyset":      {func(dir string) string { return filepath.Join(dir, "link") }, func(dir string) []string { return []string{"--sealing-keyset-file", filepath.Join(dir, "link")} }},
		"anchors":     {func(dir string) string { return filepath.Join(dir, "link") }, func(dir string) []string { return []string{"--trust-anchors-file", filepath.Join(dir, "link")} }},
		"store":       {func(dir string) string { return filepath.Join(dir, "data", server.StoreFile) }, nil},
		"own keyset":  {func(dir string) string { return filepath.Join(dir, "data", server.KeysetFile) }, nil},
		"admin_password": {func(dir string) string { return filepath.Join(dir, "link") }, func(dir string) []string {
			return []string{"--auth-users-file", "", "--admin-password-file", filepath.Join(dir, "link")}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := start.Options{DataDir: filepath.Join(dir, "data")}
			if name != "data_dir" {
				start.CopyData(t, prepared, o.DataDir)
			}
			if name == "certificate" || name == "key" {
				writeCertificate(t, dir, 1000*time.Hour)
				o.Args = []string{"--tls-cert-file", filepath.Join(dir, "tls.crt"), "--tls-key-file", filepath.Join(dir, "tls.key")}
			}
			if test.args != nil {
				o.Args = test.args(dir)
			}
			link := test.link(dir)
			if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			if err := os.Symlink(gone, link); err != nil {
				t.Fatal(err)
			}
			text := start.Refused(t, o)
			if !strings.Contains(text, link+" is a symbolic link to ") || !strings.Contains(text, gone) || !strings.Contains(text, "which does not exist") {
				t.Errorf("%s", text)
			}
			if _, err := os.Lstat(gone); !os.IsNotExist(err) {
				t.Errorf("something was made at the end of the link: %v", err)
			}
		})
	}
}

// TestFilesOfRoot: the service cannot read what root has restored. The start says to
// whom the file belongs, and the command that mends it.
func TestFilesOfRoot(t *testing.T) {
	t.Parallel()
	prepared := trustedTree(t)
	for _, name := range []string{server.StoreFile, server.KeysetFile, server.AdminHashFile, server.OwnKeyFile} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := copyTree(t, prepared)
			run(t, 0, dir, "chown 0:0 data/"+name+"; chmod 600 data/"+name)
			text := start.Refused(t, inTree(t, dir, "made"))
			path := filepath.Join(dir, "data", name)
			if !strings.Contains(text, path+": it belongs to user 0, and this process is user 54321; run chown 54321 "+path) {
				t.Errorf("%s", text)
			}
		})
	}
}

// TestLockWait: a start waits for the process before it, if it is told to, and says so
// once. It ends at once when it is stopped.
func TestLockWait(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	if text := start.Refused(t, start.Options{DataDir: s.DataDir}); !strings.Contains(text, "Recreate") || !strings.Contains(text, "lock_wait: 30s") {
		t.Errorf("%s", text)
	}
	if text := start.Refused(t, start.Options{DataDir: s.DataDir, Args: []string{"--lock-wait", "1s"}}); !strings.Contains(text, "has waited for 1s") {
		t.Errorf("%s", text)
	}
	waiting := func() *start.Instance {
		w := start.Launch(t, start.Options{DataDir: s.DataDir, Config: s.Config(), Args: []string{"--lock-wait", "1m"}})
		w.WantLog("this one waits for its end")
		return w
	}
	stopped := waiting()
	begin := time.Now()
	if err := stopped.Stop(); err != nil {
		t.Errorf("stopped while it waited: %v %s", err, stopped.Stderr)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it ended after %s", took)
	}

	next := waiting()
	time.Sleep(time.Second)
	s.Must(404, "GET", start.CSRPath, "") // the first one serves meanwhile
	if n := strings.Count(next.Stdout.String(), "this one waits for its end"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := next.WaitReady(); err != nil {
		t.Fatal(err)
	}
	next.Must(404, "GET", start.CSRPath, "")
	<-s.Exited
	state, err := serving.Read(s.DataDir)
	if err != nil || state.PID != next.Cmd.Process.Pid {
		t.Errorf("%+v %v", state, err)
	}
	// A crash of the process before leaves nothing to wait for.
	last := waiting()
	next.Kill()
	if err := last.WaitReady(); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the last one serves", func() bool { return last.Answers(404, start.CSRPath) })
}

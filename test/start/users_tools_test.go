//go:build tools

package start_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestUsersFileMounted: a users file that is mounted so that nothing can take its place is
// one sentence that says what to do. Nothing is recorded and nothing left behind.
func TestUsersFileMounted(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	for name, test := range map[string]struct{ script, undo, want string }{
		"a folder, read-only": {
			"mount --bind from to && mount -o remount,bind,ro to", "umount to",
			" is on a file system that is read-only here: change the file where it comes from, with a line that has a hash of attestcsr hash-password\n",
		},
		"a single file": {
			"touch to/htpasswd && mount --bind from/htpasswd to/htpasswd", "umount to/htpasswd",
			" is mounted by itself, so that no new file can take its place: mount its folder, or change it where it comes from",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := worldFolder(t)
			text := start.UserLine(t, start.User, start.Password)
			run(t, 0, dir, "mkdir from to")
			kit.Overwrite(t, filepath.Join(dir, "from"), "htpasswd", text)
			run(t, 0, dir, test.script)
			t.Cleanup(func() { run(t, 0, dir, test.undo) })
			s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: "auth:\n  users_file: " + filepath.Join(dir, "to", "htpasswd") + "\n  privileges: {admin: [SECURITY_MGMT]}\n"})
			for _, service := range []string{"running", "stopped"} {
				out, status := command(t, s.DataDir, "user add alice --config "+s.Config(), withPassword("a first password"))
				if status != 1 || !strings.Contains(out, test.want) || strings.Count(out, "\nattestcsr: ") != 1 { // after a warning about the cheap hash
					t.Errorf("%s: %d %s", service, status, out)
				}
				if entries, err := os.ReadDir(filepath.Join(dir, "to")); err != nil || len(entries) != 1 || string(kit.Read(t, filepath.Join(dir, "from"), "htpasswd")) != text {
					t.Errorf("%s: %v, %v", service, entries, err)
				}
				if service == "running" {
					if err := s.Stop(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if lines := trail(t, s.DataDir, "user.add"); len(lines) != 0 {
				t.Errorf("lines of what was not done: %+v", lines)
			}
		})
	}
}

package secrets_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// nobody is the user that services run as in these tests where the tests
// themselves run as root, whom nothing keeps out.
const nobody = 65534

// unprivileged makes a command run as a user without privileges.
func unprivileged(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

// serveUnprivileged starts the real binary as a user without privileges, in a
// directory of its own, with every limit on core files lifted that can be.
func serveUnprivileged(t *testing.T, env ...string) *start.Instance {
	t.Helper()
	o := start.Options{Binary: start.Binary(t), Config: start.Config(t, "")}
	dir := filepath.Dir(o.Config)
	o.DataDir = filepath.Join(dir, "data")
	if os.Geteuid() == 0 {
		for _, name := range []string{filepath.Dir(dir), dir, o.Config, filepath.Join(dir, "users")} {
			if err := os.Chown(name, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.Edit = func(cmd *exec.Cmd) {
		// The shell lifts the soft limit, which is mostly 0, up to the hard one.
		cmd.Args = append([]string{"sh", "-c", `ulimit -S -c "$(ulimit -H -c)"; exec "$@"`, "sh"}, cmd.Args...)
		cmd.Path, cmd.Dir = "/bin/sh", dir
		cmd.Env = append(os.Environ(), append(env, "GOTRACEBACK=crash")...)
		unprivileged(cmd)
	}
	return start.Serve(t, o)
}

// coreLimits are the soft and the hard limit on core files of a process.
func coreLimits(t *testing.T, pid int) (soft, hard string) {
	t.Helper()
	text := kit.Read(t, fmt.Sprintf("/proc/%d", pid), "limits")
	found := regexp.MustCompile(`(?m)^Max core file size +(\S+) +(\S+)`).FindStringSubmatch(string(text))
	if found == nil {
		t.Fatalf("no limit on core files in\n%s", text)
	}
	return found[1], found[2]
}

// readsMemory tells whether another process of the same user may look into the
// memory of a process. The kernel asks the same of /proc/PID/environ as of
// ptrace(2) without attaching (proc(5), PTRACE_MODE_READ_FSCREDS).
func readsMemory(t *testing.T, pid int) bool {
	t.Helper()
	cmd := exec.Command("cat", fmt.Sprintf("/proc/%d/environ", pid))
	unprivileged(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "denied") {
		t.Fatalf("%v %s", err, out)
	}
	return err == nil && strings.Contains(string(out), "GOTRACEBACK=crash")
}

// TestCoreDumpsAndTracing: nobody but root gets at the memory of the service,
// neither alive nor dead, unless the settings say so.
func TestCoreDumpsAndTracing(t *testing.T) {
	t.Parallel()
	t.Run("by default", func(t *testing.T) {
		t.Parallel()
		s := serveUnprivileged(t)
		if soft, hard := coreLimits(t, s.Cmd.Process.Pid); soft != "0" || hard != "0" {
			t.Errorf("core files may have %s, at most %s", soft, hard)
		}
		if readsMemory(t, s.Cmd.Process.Pid) {
			t.Error("another process of the user may look into this one")
		}
		// The process still sees of itself what its metrics are made of.
		if n := s.Metric("process_open_fds"); n == 0 {
			t.Error("no open files")
		}
		if err := s.Cmd.Process.Signal(syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		<-s.Exited
		state := s.Cmd.ProcessState.Sys().(syscall.WaitStatus)
		if state.Signal() != syscall.SIGABRT || state.CoreDump() {
			t.Errorf("ended by %v, core dumped: %v", state.Signal(), state.CoreDump())
		}
		if !strings.Contains(s.Stderr.String(), "goroutine ") {
			t.Errorf("the crash is not told on stderr: %s", s.Stderr)
		}
		if cores, err := filepath.Glob(filepath.Join(s.Cmd.Dir, "*core*")); err != nil || len(cores) != 0 {
			t.Errorf("%v %v", cores, err)
		}
		if strings.Contains(s.Stdout.String(), "not kept out") {
			t.Errorf("a warning: %s", s.Stdout)
		}
	})
	t.Run("where they are allowed", func(t *testing.T) {
		t.Parallel()
		s := serveUnprivileged(t, "ATTESTCSR_ALLOW_CORE_DUMPS=true")
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
			t.Fatal(err)
		}
		if soft, hard := coreLimits(t, s.Cmd.Process.Pid); soft != hard || (limit.Max != 0 && hard == "0") {
			t.Errorf("core files may have %s, at most %s: not what the service was started with", soft, hard)
		}
		if !readsMemory(t, s.Cmd.Process.Pid) {
			t.Error("nobody may look into this process: the other test shows nothing")
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
}

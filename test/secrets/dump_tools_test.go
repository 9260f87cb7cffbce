//go:build tools && linux

package secrets_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/test/kit"
)

// TestDebuggerAttaches: a debugger of the service's own user does not get in,
// unless the settings say so.
func TestDebuggerAttaches(t *testing.T) {
	t.Parallel()
	const refused = "Operation not permitted"
	for _, allowed := range []bool{false, true} {
		t.Run(strconv.FormatBool(allowed), func(t *testing.T) {
			t.Parallel()
			s := launchUnprivileged(t, "ATTESTCSR_ALLOW_CORE_DUMPS="+strconv.FormatBool(allowed))
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			strace := exec.CommandContext(ctx, "strace", "-p", strconv.Itoa(s.Cmd.Process.Pid))
			strace.Cancel = func() error { return strace.Process.Signal(syscall.SIGINT) } // lets go of the process
			if os.Geteuid() == 0 {
				strace.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			}
			said := &kit.Buffer{}
			strace.Stderr = said
			if err := strace.Start(); err != nil {
				t.Fatal(err)
			}
			attached := func() bool { return strings.Contains(said.String(), " attached") }
			ended := make(chan error, 1)
			go func() { ended <- strace.Wait() }()
			if allowed {
				kit.Eventually(t, "strace attaches", attached)
				cancel()
			}
			<-ended
			if attached() != allowed || strings.Contains(said.String(), refused) == allowed {
				t.Errorf("strace said %s", said)
			}
		})
	}
}

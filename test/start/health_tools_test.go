//go:build tools

package start_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"attestcsr/server/serving"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestHealthcheckAsProcessOfContainer: in a PID namespace whose process 1 is the
// service, as in a container, "healthcheck" takes data_dir from the command line of
// that, and looks in its own data_dir as well.
func TestHealthcheckAsProcessOfContainer(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a PID namespace")
	}
	for _, test := range []struct {
		name  string
		serve func(dataDir string) []string // arguments
		env   func(dataDir string) []string // of both
		check []string
		fails string
	}{
		{"flag", func(d string) []string { return []string{"--data-dir", d} }, nil, nil, ""},
		{"flag with =", func(d string) []string { return []string{"--data-dir=" + d} }, nil, nil, ""},
		{"settings file", func(d string) []string {
			return []string{"--config", kit.Overwrite(t, filepath.Dir(d), "with-data.yaml", "data_dir: "+strconv.Quote(d)+"\n")}
		}, nil, nil, ""},
		{"environment", nil, func(d string) []string { return []string{"ATTESTCSR_DATA_DIR=" + d} }, nil, ""},
		{"flag beside the environment", func(d string) []string { return []string{"--data-dir", d} }, func(string) []string { return []string{"ATTESTCSR_DATA_DIR=/nowhere"} }, nil, ""},
		{"flag of healthcheck", func(d string) []string { return []string{"--data-dir", d} }, nil, []string{"--data-dir", "/nowhere"}, "/nowhere"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dataDir := filepath.Join(t.TempDir(), "data")
			args := []string{"--pid", "--fork", "--kill-child", "--mount-proc", start.Binary(t), "serve", "--listen", "127.0.0.1:0", "--key-pool-max", "1"}
			if test.serve != nil {
				args = append(args, test.serve(dataDir)...)
			}
			env := os.Environ()
			if test.env != nil {
				env = append(env, test.env(dataDir)...)
			}
			container := exec.Command("unshare", args...)
			container.Env = env
			if err := container.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = container.Process.Kill() // --kill-child ends the service
				_ = container.Wait()
			})
			kit.Eventually(t, "the service serves", func() bool {
				_, err := os.Stat(filepath.Join(dataDir, serving.File))
				return err == nil
			})
			check := exec.Command("nsenter", append([]string{"--target", childOf(t, container.Process.Pid), "--pid", "--mount", start.Binary(t), "healthcheck"}, test.check...)...)
			check.Env = env
			out, err := check.CombinedOutput()
			if (err != nil) != (test.fails != "") || test.fails != "" && !strings.Contains(string(out), test.fails) || err == nil && !strings.Contains(string(out), "data_dir "+dataDir) {
				t.Errorf("%v %s", err, out)
			}
		})
	}
}

// childOf returns the only child of a process.
func childOf(t *testing.T, pid int) string {
	t.Helper()
	id := strconv.Itoa(pid)
	return strings.Fields(string(kit.Read(t, "/proc/"+id+"/task/"+id, "children")))[0]
}

//go:build tools

package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReadme runs every sh block of README.md, in order, in one shell, in a copy
// of the repository, as a new user would. Only the port is another.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)\n```sh\n(.*?\n)```\n").FindAllSubmatch(text, -1)
	if len(blocks) < 6 {
		t.Fatalf("%d sh blocks found", len(blocks))
	}
	var script bytes.Buffer
	script.WriteString("set -eux -o pipefail\n")
	for _, block := range blocks {
		script.Write(block[1])
	}
	port := freePort(t)
	commands := strings.ReplaceAll(script.String(), "8443", port)

	dir := t.TempDir()
	copyTree(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ATTESTCSR_LISTEN=127.0.0.1:"+port, "GOFLAGS=-buildvcs=false")
	cmd.Stdin = strings.NewReader(commands)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// The service that the README leaves running is in the shell's process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		// Wait returns when everything that holds the output is gone: end the
		// service once the shell is.
		defer close(done)
		for syscall.Kill(cmd.Process.Pid, 0) == nil {
			if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid)); err != nil || bytes.Contains(state, []byte(") Z ")) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // it may have ended
	}()
	err = cmd.Wait()
	<-done
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, "serve.txt")) // it may not be there
		t.Fatalf("%v\n%s\nserve.txt:\n%s", err, &out, said)
	}
	for _, want := range []string{`{"csr":"-----BEGIN CERTIFICATE REQUEST-----`, "verify OK", "Subject: C = US", "BEGIN CERTIFICATE-----",
		`"user":"admin"`, "attestcsr_csrs_created_total", "the settings are good",
		`"operation":"csr.create","slot":"esx/attestation/csr"}`, "refusals: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the commands never print %q:\n%s", want, &out)
		}
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		// Below those that the kernel gives to outgoing connections, which the tests
		// beside this one make by the thousand: one of them may take such a port
		// before it is listened on.
		port := strconv.Itoa(20_000 + rand.IntN(12_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no free port")
	return ""
}

// copyTree copies the files of a fresh clone.
func copyTree(t *testing.T, to string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "data"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

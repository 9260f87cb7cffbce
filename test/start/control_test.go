package start_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
	"attestcsr/server"
	"attestcsr/server/control"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// command runs a command on a data directory and returns what it prints, stderr last,
// and its exit status.
func command(t *testing.T, dataDir, args string, edits ...func(*exec.Cmd)) (out string, status int) {
	t.Helper()
	cmd := exec.Command(start.Binary(t), append(strings.Fields(args), "--data-dir", dataDir)...)
	for _, edit := range edits {
		edit(cmd)
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return stdout.String() + stderr.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed.
func must(t *testing.T, dataDir, args string) string {
	t.Helper()
	out, status := command(t, dataDir, args)
	if status != 0 {
		t.Errorf("%s: exit status %d: %s", args, status, out)
	}
	return out
}

// line is what these tests read of a line of the audit trail.
type line struct {
	Event, User, Method, Operation, Slot, Outcome, Account string
	Settings, Privileges                                   []string
}

// trail returns the lines of changes that are about an operation.
func trail(t *testing.T, dataDir, operation string) (found []line) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, server.AuditDir, "changes-*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no trail: %v", err)
	}
	for _, file := range files {
		for text := range strings.Lines(string(kit.Read(t, "", file))) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				continue // it is being written
			}
			if l.Operation == operation {
				found = append(found, l)
			}
		}
	}
	return found
}

// wantLine waits until the newest line of an operation is there, the n-th of them.
func wantLine(t *testing.T, dataDir, operation string, n int) line {
	t.Helper()
	var found []line
	if !kit.Until(func() bool { found = trail(t, dataDir, operation); return len(found) >= n }) || len(found) != n {
		t.Fatalf("%d lines of %s, want %d", len(found), operation, n)
	}
	return found[n-1]
}

// TestCommandsBesideService: the same commands work beside a running service and
// without one, and leave the same lines.
func TestCommandsBesideService(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	var key string
	for i, method := range []string{"control", "command"} {
		if method == "command" {
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		must(t, s.DataDir, "reset-password")
		if key = must(t, s.DataDir, "audit checkpoint --public-key"); !strings.HasPrefix(key, "-----BEGIN PUBLIC KEY-----\n") {
			t.Errorf("not a public key: %s", key)
		}
		if out := must(t, s.DataDir, "audit verify"); !strings.Contains(out, "changes: ") {
			t.Errorf("verify prints %s", out)
		}
		if out := must(t, s.DataDir, "store check"); !strings.Contains(out, "store: 3 records, 0 problems\n") {
			t.Errorf("check prints %s", out)
		}
		var check struct {
			OK       bool
			Records  int
			Problems []any
			Trail    []struct{ Stream string }
		}
		if err := json.Unmarshal([]byte(must(t, s.DataDir, "store check --output json")), &check); err != nil || !check.OK || check.Records != 3 || check.Problems == nil || len(check.Trail) != len(audit.Streams()) {
			t.Errorf("%+v, %v", check, err)
		}
		l := wantLine(t, s.DataDir, "password.reset", i+1)
		if l.Event != "administration" || l.Method != method || !strings.HasPrefix(l.User, fmt.Sprintf("uid:%d", os.Geteuid())) {
			t.Errorf("%+v", l)
		}
	}
	again := s.Again()
	if got := must(t, s.DataDir, "audit checkpoint --public-key"); got != key {
		t.Error("another key of checkpoints after a restart")
	}
	again.Must(200, "GET", start.CSRPath, "", start.As(start.User, again.InitialPassword()))
}

// TestResetsAtOnce: of several new passwords at once, the one in the file is the one that
// opens.
func TestResetsAtOnce(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	var commands sync.WaitGroup
	for range 4 {
		commands.Go(func() {
			if out, status := command(t, s.DataDir, "reset-password"); status != 0 {
				t.Errorf("%d %s", status, out)
			}
		})
	}
	commands.Wait()
	wantLine(t, s.DataDir, "password.reset", 4)
	known := s.InitialPassword()
	kit.Eventually(t, "the password of the file opens", func() bool { return s.Answers(404, start.CSRPath, start.As(start.User, known)) })
}

// TestNoStore: a command makes no data of its own.
func TestNoStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for _, args := range []string{"reset-password", "audit verify", "audit checkpoint", "store check", "keyset status"} {
		if out, status := command(t, dir, args); status != 1 || !strings.Contains(out, server.StoreFile) {
			t.Errorf("%s: %d %s", args, status, out)
		}
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a command has made the data directory: %v", err)
	}
}

// TestSocketOfKilled: what a killed service leaves stands in nobody's way.
func TestSocketOfKilled(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	s.Kill()
	if _, err := os.Stat(filepath.Join(s.DataDir, control.SocketFile)); err != nil {
		t.Fatal(err)
	}
	must(t, s.DataDir, "audit verify")
	s.Again().Kill()
	again := s.Again()
	must(t, s.DataDir, "audit checkpoint --public-key")
	if err := again.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, control.SocketFile)); !os.IsNotExist(err) {
		t.Errorf("a socket is left after a clean stop: %v", err)
	}
}

// TestTwoServices: the second service on a data directory leaves the socket of the
// first alone.
func TestTwoServices(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	if text := start.Refused(t, start.Options{DataDir: s.DataDir}); !strings.Contains(text, "in use") {
		t.Error(text)
	}
	must(t, s.DataDir, "audit checkpoint --public-key")
	wantLine(t, s.DataDir, "audit.checkpoint-key", 1)
}

// TestLongPath: the path of data_dir can be longer than the address of a socket.
func TestLongPath(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{DataDir: filepath.Join(t.TempDir(), strings.Repeat("long/", 50))})
	must(t, s.DataDir, "audit checkpoint --public-key")
	if l := wantLine(t, s.DataDir, "audit.checkpoint-key", 1); l.Method != "control" {
		t.Errorf("%+v", l)
	}
}

// TestLockWithoutSocket: somebody holds the store and has no socket.
func TestLockWithoutSocket(t *testing.T) {
	t.Parallel()
	dir := start.Prepare(t, start.Options{})
	store, err := bolt.Open(filepath.Join(dir, server.StoreFile), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	out, status := command(t, dir, "audit verify")
	if status != 1 || !strings.Contains(out, "no control socket") || strings.Count(out, "\n") != 1 {
		t.Errorf("%d %s", status, out)
	}
}

// TestOtherUsers: root and the user of the service use the socket, others do not get to
// it.
func TestOtherUsers(t *testing.T) {
	t.Parallel()
	dir := worldFolder(t)
	run(t, 0, dir, fmt.Sprintf("mkdir -m 0700 data; chown %d data", service))
	config := kit.Overwrite(t, dir, "config.yaml", "key_pool: {targets: {}}\n")
	kit.Chmod(t, dir, "config.yaml", 0o644)
	s := start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: filepath.Join(dir, "data"), Config: config, BuiltInAdmin: true, Edit: as(service)})
	before := s.InitialPassword()
	reset := func(user int) (string, int) { return command(t, s.DataDir, "reset-password", as(user)) }
	if out, status := reset(other); status != 1 || !strings.Contains(out, "data_dir") {
		t.Errorf("%d %s", status, out)
	}
	if s.InitialPassword() != before || len(trail(t, s.DataDir, "password.reset")) != 0 {
		t.Error("a foreign user has changed the password")
	}
	for i, user := range []int{service, 0} {
		if out, status := reset(user); status != 0 {
			t.Errorf("user %d: %d %s", user, status, out)
		}
		if l := wantLine(t, s.DataDir, "password.reset", i+1); !strings.HasPrefix(l.User, fmt.Sprintf("uid:%d", user)) {
			t.Errorf("%+v", l)
		}
	}
}

// TestRootsCommands: what root's commands write while no service runs belongs to the user
// of the service, who starts with it.
func TestRootsCommands(t *testing.T) {
	t.Parallel()
	dir := worldFolder(t)
	run(t, 0, dir, fmt.Sprintf("mkdir -m 0700 data; chown %d:%[1]d data", service))
	config := kit.Overwrite(t, dir, "config.yaml", "key_pool: {targets: {}}\n")
	kit.Chmod(t, dir, "config.yaml", 0o644)
	s := start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: filepath.Join(dir, "data"), Config: config, BuiltInAdmin: true, Edit: as(service)})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, s.DataDir, filepath.Join(server.AuditDir, "changes-000001.jsonl"), "") // so that accept begins files
	must(t, s.DataDir, "reset-password")
	must(t, s.DataDir, "audit accept --reason test")
	must(t, s.DataDir, "audit checkpoint")
	must(t, s.DataDir, "store check")
	err := filepath.WalkDir(s.DataDir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if owner, is := ownfile.OwnerOf(info, err); !is || owner.UID != service {
			t.Errorf("%s belongs to %+v, %v", name, owner, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Again().Stop(); err != nil {
		t.Error(err)
	}
	must(t, s.DataDir, "audit verify")
}

// TestUnmappedUser: in a user namespace all users of other namespaces look like one,
// which may be the user of the service.
func TestUnmappedUser(t *testing.T) {
	t.Parallel()
	const overflow = 65534
	dir := worldFolder(t)
	run(t, 0, dir, fmt.Sprintf("mkdir -m 0700 data; mkdir -m 0755 run; chown %d data run", service))
	socket := filepath.Join(dir, "run", "signer.sock")
	config := kit.Overwrite(t, dir, "config.yaml", fmt.Sprintf("key_pool: {targets: {}}\nsigner: {socket: %s, allow: {\"uid:%d\": [attestation], \"gid:%d\": [attestation]}}\n", socket, overflow, overflow))
	kit.Chmod(t, dir, "config.yaml", 0o644)
	s := start.Serve(t, start.Options{
		Binary: start.Binary(t), DataDir: filepath.Join(dir, "data"), Config: config, BuiltInAdmin: true,
		Edit: func(cmd *exec.Cmd) {
			one := []syscall.SysProcIDMap{{ContainerID: overflow, HostID: service, Size: 1}}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one, GidMappings: one,
				Credential: &syscall.Credential{Uid: overflow, Gid: overflow, NoSetGroups: true},
			}
		},
	})
	before := s.InitialPassword()
	for _, user := range []int{0, service} { // the service cannot tell them apart
		if out, status := command(t, s.DataDir, "reset-password", as(user)); status != 1 || !strings.Contains(out, "not known in the container") {
			t.Errorf("user %d of the host: %d %s", user, status, out)
		}
	}
	if keys, err := (signing{s, socket}).client(t).List(); err == nil {
		t.Errorf("the signer lists %v", keys)
	}
	s.WantLog("signer: a connection is refused")
	if s.InitialPassword() != before {
		t.Error("the password was changed")
	}
}

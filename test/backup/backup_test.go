package backup_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"attestcsr/keystore/ownfile"
	"attestcsr/server"
	"attestcsr/server/control"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestCommands is what each command says and how it ends, over the store of a service
// that is stopped.
func TestCommands(t *testing.T) {
	t.Parallel()
	s := used(t, start.Options{BuiltInAdmin: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			start.CopyData(t, s.DataDir, filepath.Join(env.WorkDir, "data"))
			return nil
		},
	})
}

// TestStatuses: 0 is a whole backup, 2 a wrong command line, 1 all else.
func TestStatuses(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	for _, c := range []struct {
		status int
		args   string
	}{
		{2, "backup"}, {2, "backup other"}, {2, "backup create"}, {2, "backup verify"}, {2, "backup verify a b"}, {2, "backup restore --data-dir x"},
		{2, "backup create --to b --recipient " + h.recipient + " --nonsense"}, {2, "backup create --to b --recipient " + h.recipient + " --keep many"},
		{1, "backup verify missing --identity " + h.identity}, {1, "backup verify missing --identity missing"},
		{1, "backup restore missing --data-dir missing/missing --identity " + h.identity}, {1, "backup create --data-dir missing --to b --recipient " + h.recipient},
	} {
		dir := t.TempDir()
		out, status := run(t, func(cmd *exec.Cmd) { cmd.Dir = dir }, strings.Fields(c.args)...)
		if status != c.status || !strings.HasPrefix(out, "attestcsr: ") {
			t.Errorf("%s: %d, want %d: %s", c.args, status, c.status, out)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Errorf("%s left %v, %v", c.args, entries, err)
		}
	}
}

// stalled is a reader of a stream who reads no more until he is let go on.
type stalled struct {
	begun  chan struct{}
	goOn   chan struct{}
	stalls bool
	bytes.Buffer
}

func (s *stalled) Write(p []byte) (int, error) {
	if !s.stalls {
		s.stalls = true
		close(s.begun)
		<-s.goOn
	}
	return s.Buffer.Write(p)
}

// TestExcluded: while a backup is made, the keyset stays as it is and there is no second
// one; requests go on. Afterwards all of that is done.
func TestExcluded(t *testing.T) {
	t.Parallel()
	s := used(t, start.Options{})
	h := newHolder(t)
	// More than the socket and both sides hold.
	kit.Overwrite(t, filepath.Join(s.DataDir, server.AuditDir), "baseline-0123456789abcdef.json", strings.Repeat("x", 16<<20))
	client, err := control.Dial(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	reader := &stalled{begun: make(chan struct{}), goOn: make(chan struct{})}
	ended := make(chan error)
	go func() {
		_, err := client.Backup(t.Context(), control.BackupRequest{Recipients: []string{h.recipient}}, reader)
		ended <- err
	}()
	<-reader.begun
	second := filepath.Join(t.TempDir(), "b.age")
	for _, args := range [][]string{
		{"keyset", "rotate"}, {"keyset", "retire"}, {"backup", "create", "--to", second, "--recipient", h.recipient},
	} {
		out, status := run(t, nil, append(args, "--data-dir", s.DataDir)...)
		if status != 1 || !strings.Contains(out, "a backup is being made: run this command again") {
			t.Errorf("%v beside a backup: %d %s", args, status, out)
		}
	}
	s.Must(201, "POST", start.NSXCSRs+"/meanwhile?action=create", start.ECSpec("meanwhile"))
	must(t, "keyset", "status", "--data-dir", s.DataDir)
	close(reader.goOn)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	file := kit.Overwrite(t, t.TempDir(), "backup.age", reader.String())
	if out, status := run(t, nil, "backup", "verify", file, "--identity", h.identity); status != 0 {
		t.Errorf("%d %s", status, out)
	}
	if exists(second) {
		t.Error("there is half a backup")
	}
	must(t, "keyset", "rotate", "--data-dir", s.DataDir)
	must(t, "keyset", "retire", "--data-dir", s.DataDir)
	must(t, "backup", "create", "--data-dir", s.DataDir, "--to", second, "--recipient", h.recipient)
	for _, each := range []string{file, second} { // each has the keyset of its time
		must(t, "backup", "verify", each, "--identity", h.identity)
	}
	if at := s.Metric("attestcsr_last_backup_timestamp_seconds"); at < 1_700_000_000 {
		t.Errorf("the last backup was at %d", at)
	}
}

// TestStopped: a service that is stopped while a backup is read stops, and the command
// says that there is no backup.
func TestStopped(t *testing.T) {
	t.Parallel()
	s := used(t, start.Options{})
	kit.Overwrite(t, filepath.Join(s.DataDir, server.AuditDir), "baseline-0123456789abcdef.json", strings.Repeat("x", 16<<20))
	client, err := control.Dial(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	reader := &stalled{begun: make(chan struct{}), goOn: make(chan struct{})}
	ended := make(chan error)
	go func() {
		_, err := client.Backup(t.Context(), control.BackupRequest{Recipients: []string{newHolder(t).recipient}}, reader)
		ended <- err
	}()
	<-reader.begun
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	close(reader.goOn)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("%v", err)
	}
}

// TestElsewhere: restored by root for another user, under another path, the service serves
// the same CSR and certificate, and the old password logs in. Its revisions go on above
// those of the backup.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const uid = 54321
	h := newHolder(t)
	s := used(t, start.Options{BuiltInAdmin: true})
	csr, certificate := s.Must(200, "GET", start.CSRPath, ""), s.Must(200, "GET", start.CertificatePath, "")
	dir, err := os.MkdirTemp("", "elsewhere") //nolint:usetesting // another user has to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	kit.Chmod(t, "", dir, 0o711)
	file := filepath.Join(dir, "backup.age")
	alice := kit.Overwrite(t, t.TempDir(), "alice", "alice has a password")
	must(t, "user", "add", "alice", "--password-file", alice, "--privilege", "SECURITY_MGMT", "--data-dir", s.DataDir)
	must(t, "backup", "create", "--data-dir", s.DataDir, "--to", file, "--recipient", h.recipient)
	s.Must(201, "POST", start.CSRPath, start.ValidSpec) // is lost
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	given := filepath.Join(dir, "given")
	if err := os.Mkdir(given, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(given, uid, uid); err != nil {
		t.Fatal(err)
	}
	for folder, owner := range map[string]string{"given": "", "made": fmt.Sprint(uid, ":", uid)} {
		to := filepath.Join(dir, folder)
		args := []string{"backup", "restore", file, "--data-dir", to, "--identity", h.identity}
		if owner != "" {
			args = append(args, "--owner", owner)
		}
		must(t, args...)
		err := filepath.WalkDir(to, func(path string, _ os.DirEntry, err error) error {
			if who, is := ownfile.OwnerOf(os.Lstat(path)); err != nil || !is || who.UID != uid || who.GIDs[0] != uid {
				t.Errorf("%s belongs to %+v: %v", path, who, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		as := func(cmd *exec.Cmd) {
			cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		}
		settings := kit.Overwrite(t, dir, folder+".yaml", "key_pool:\n  targets: {}\n")
		kit.Chmod(t, "", settings, 0o644)
		again := start.Launch(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true, Config: settings, DataDir: to, Edit: as})
		if err := again.WaitReady(); err != nil {
			t.Fatal(err)
		}
		again.Password = s.Password
		if csr != again.Must(200, "GET", start.CSRPath, "") || certificate != again.Must(200, "GET", start.CertificatePath, "") {
			t.Errorf("%s: another CSR or certificate", folder)
		}
		again.Must(201, "POST", start.CSRPath, start.ValidSpec, start.As("alice", "alice has a password"))
		again.WaitForLines()
		if out, status := run(t, as, "audit", "verify", "--data-dir", to); status != 0 {
			t.Errorf("%s: %d %s", folder, status, out)
		}
		wantRaised(t, to)
	}
	if out, status := run(t, func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}, "backup", "restore", file, "--data-dir", filepath.Join(dir, "other"), "--identity", h.identity, "--owner", "0"); status != 1 || !strings.Contains(out, "only root") {
		t.Errorf("another user gives files to root: %d %s", status, out)
	}
}

// wantRaised: the lines after a restore have revisions far above those before it.
func wantRaised(t *testing.T, dataDir string) {
	t.Helper()
	type line struct {
		Operation string
		Revision  uint64
		Reason    string
	}
	var before, after, last uint64
	lines := json.NewDecoder(bytes.NewReader(kit.Read(t, filepath.Join(dataDir, server.AuditDir), "changes-000001.jsonl")))
	for {
		var l line
		if err := lines.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if l.Operation == "backup.restore" {
			before, after = last, l.Revision
		}
		last = max(last, l.Revision)
	}
	if before == 0 || after < before+1<<32 || last <= after {
		t.Errorf("revisions: %d before the restore, %d of it, %d last", before, after, last)
	}
}

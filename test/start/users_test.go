package start_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"attestcsr/server"
	"attestcsr/server/control"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// withPassword gives a command a new password.
func withPassword(secret string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "ATTESTCSR_NEW_PASSWORD="+secret) }
}

// changeUsers runs "attestcsr user" with a new password, which has to succeed.
func changeUsers(t *testing.T, s *start.Instance, secret, args string) {
	t.Helper()
	if out, status := command(t, s.DataDir, "user "+args+" --config "+s.Config(), withPassword(secret)); status != 0 || secret != "" && strings.Contains(out, secret) || strings.Contains(out, "$2") {
		t.Errorf("user %s: exit status %d: %s", args, status, out)
	}
}

// listUsers returns what "attestcsr user list" says of everybody.
func listUsers(t *testing.T, s *start.Instance) map[string]control.User {
	t.Helper()
	out := must(t, s.DataDir, "user list --output json --config "+s.Config())
	var all []control.User
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&all); err != nil { // warnings come after it
		t.Fatal(err)
	}
	byName := map[string]control.User{}
	for _, u := range all {
		byName[u.Name] = u
	}
	return byName
}

// TestUserCommands: what the commands change is in effect when they return, beside a
// running service, and at the next start. Each change is a line of the trail.
func TestUserCommands(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]start.Options{
		"built-in admin": {Binary: start.Binary(t), BuiltInAdmin: true},
		"users file":     {Binary: start.Binary(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start.Serve(t, o)
			walkOfUsers(t, s, "control")
			reloads := len(trail(t, s.DataDir, "users.reload"))
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			alice := start.As("alice", "a third password")
			changeUsers(t, s, "a third password", "add alice --privilege SECURITY_READ")
			if l := wantLine(t, s.DataDir, "user.add", 2); l.Method != "command" || l.Account != "alice" {
				t.Errorf("%+v", l)
			}
			again := s.Again()
			again.Must(404, "GET", start.CSRPath, "", alice)
			again.Must(403, "DELETE", start.CSRPath, "", alice)
			changeUsers(t, s, "", "remove alice")
			again.Must(401, "GET", start.CSRPath, "", alice)
			wantLine(t, s.DataDir, "users.reload", reloads+1)
			if err := again.Stop(); err != nil {
				t.Error(err)
			}
			must(t, s.DataDir, "audit verify")
		})
	}
}

// walkOfUsers makes a user, changes it in every way and removes it again.
func walkOfUsers(t *testing.T, s *start.Instance, method string) {
	t.Helper()
	wants := func(operation string, privileges ...string) {
		t.Helper()
		if l := wantLine(t, s.DataDir, "user."+operation, 1); l.Account != "alice" || !slices.Equal(l.Privileges, privileges) || l.Method != method ||
			l.Event != "administration" || !strings.HasPrefix(l.User, fmt.Sprintf("uid:%d", os.Geteuid())) {
			t.Errorf("%+v", l)
		}
	}
	alice, later := start.As("alice", "a first password"), start.As("alice", "a second password")
	s.Must(401, "GET", start.CSRPath, "", alice)
	changeUsers(t, s, "a first password", "add alice")
	wants("add")
	s.Must(403, "GET", start.CSRPath, "", alice)
	changeUsers(t, s, "", "grant alice SECURITY_MGMT attestation:sign")
	wants("grant", "SECURITY_MGMT", "attestation:sign")
	s.Must(404, "GET", start.CSRPath, "", alice)
	session := start.Session(strings.Trim(s.Must(201, "POST", start.SessionPath, "", alice), "\"\n"))
	s.Must(404, "GET", start.CSRPath, "", session)
	changeUsers(t, s, "", "revoke alice SECURITY_MGMT")
	wants("revoke", "SECURITY_MGMT")
	s.Must(403, "GET", start.CSRPath, "", session) // which goes on, with less
	if u := listUsers(t, s)["alice"]; !slices.Equal(u.Privileges, []string{"attestation:sign"}) || u.PrivilegesFrom != server.PrivilegesFile || u.Source == "" {
		t.Errorf("%+v", u)
	}

	changeUsers(t, s, "a second password", "password alice")
	wants("password")
	s.Must(401, "GET", start.CSRPath, "", alice)
	s.Must(401, "GET", start.CSRPath, "", session)
	session = start.Session(strings.Trim(s.Must(201, "POST", start.SessionPath, "", later), "\"\n"))
	s.Must(403, "GET", start.CSRPath, "", session)
	changeUsers(t, s, "", "remove alice")
	wants("remove")
	s.Must(401, "GET", start.CSRPath, "", later)
	s.Must(401, "GET", start.CSRPath, "", session)
	if u, found := listUsers(t, s)["alice"]; found || len(listUsers(t, s)) != 1 {
		t.Errorf("%+v", u)
	}
}

// TestUsersAtOnce: of twenty commands at once no change is lost, and of twenty lines none.
func TestUsersAtOnce(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	const all = 20
	var commands sync.WaitGroup
	for n := range all {
		commands.Go(func() {
			changeUsers(t, s, "a first password", fmt.Sprintf("add user-%d --privilege SECURITY_READ", n))
			changeUsers(t, s, "", fmt.Sprintf("grant user-%d attestation:sign", n))
		})
	}
	commands.Wait()
	found := listUsers(t, s)
	for n := range all {
		name := fmt.Sprintf("user-%d", n)
		if u := found[name]; !slices.Equal(u.Privileges, []string{"SECURITY_READ", "attestation:sign"}) {
			t.Errorf("%s: %+v", name, u)
		}
		s.Must(404, "GET", start.CSRPath, "", start.As(name, "a first password"))
	}
	wantLine(t, s.DataDir, "user.add", all)
	wantLine(t, s.DataDir, "user.grant", all)
	must(t, s.DataDir, "audit verify")
}

// TestUsersWithoutService: commands at once wait for each other where no service runs.
func TestUsersWithoutService(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	const all = 4
	var commands sync.WaitGroup
	for n := range all {
		commands.Go(func() { changeUsers(t, s, "a first password", fmt.Sprintf("add user-%d", n)) })
	}
	commands.Wait()
	if found := listUsers(t, s); len(found) != all+1 || found[server.AdminName].PrivilegesFrom != "built in" {
		t.Errorf("%+v", found)
	}
	wantLine(t, s.DataDir, "user.add", all)
}

// TestUserFilesByHand: an editor's work is taken over by itself and after SIGHUP, and what
// is wrong leaves all as it was.
func TestUserFilesByHand(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	bob := start.As("bob", "swordfish")
	kit.Overwrite(t, s.DataDir, server.PrivilegesFile, "bob: [SECURITY_READ] # for the audit\n")
	kit.Overwrite(t, s.DataDir, server.UsersFile, "# by hand\n"+start.UserLine(t, "bob", "swordfish"))
	kit.Eventually(t, "bob may read", func() bool { return s.Answers(404, start.CSRPath, bob) })
	wantLine(t, s.DataDir, "privileges.reload", 1)
	s.Must(404, "GET", start.CSRPath, "") // the built-in admin, beside whom they are read

	kit.Overwrite(t, s.DataDir, server.PrivilegesFile, "bob: [ROOT]\n")
	s.WantLog(`"users not reloaded: the ones before stay","err":"`)
	s.Must(404, "GET", start.CSRPath, "", bob)
	out, status := command(t, s.DataDir, "user grant bob attestation:sign")
	if status != 1 || !strings.Contains(out, "privileges.yaml:1:7: privileges.bob: \"ROOT\" is not a privilege") {
		t.Errorf("%d %s", status, out)
	}
	kit.Overwrite(t, s.DataDir, server.PrivilegesFile, "bob: []\n")
	kit.Eventually(t, "bob may nothing", func() bool { return s.Answers(403, start.CSRPath, bob) })
	kit.Overwrite(t, s.Config(), "", string(kit.Read(t, "", s.Config()))+"auth:\n  privileges:\n    bob: [SECURITY_READ]\n    carol: [SECURITY_READ]\n")
	changeUsers(t, s, "carols password", "add carol")
	carol := start.As("carol", "carols password")
	s.Must(403, "GET", start.CSRPath, "", carol)
	if err := s.Cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "carol may read", func() bool { return s.Answers(404, start.CSRPath, carol) })
	s.Must(403, "GET", start.CSRPath, "", bob) // whose entry replaces that of the settings
	if text := string(kit.Read(t, s.DataDir, server.UsersFile)); !strings.HasPrefix(text, "# by hand\nbob:") {
		t.Errorf("%s", text)
	}
}

// TestUsersAsTwoUsers: root's commands leave files that the user of the service can use. A
// users file that this user may not replace is one sentence.
func TestUsersAsTwoUsers(t *testing.T) {
	t.Parallel()
	dir := worldFolder(t)
	run(t, 0, dir, fmt.Sprintf("mkdir -m 0700 data; chown %d:%[1]d data", service))
	file := kit.Overwrite(t, dir, "htpasswd", start.UserLine(t, start.User, start.Password))
	run(t, 0, dir, fmt.Sprintf("chgrp %d htpasswd; chmod 0640 htpasswd", service))
	config := kit.Overwrite(t, dir, "config.yaml", "key_pool: {targets: {}}\nauth:\n  users_file: "+file+"\n  privileges: {admin: [SECURITY_MGMT]}\n")
	kit.Chmod(t, dir, "config.yaml", 0o644)
	s := start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: filepath.Join(dir, "data"), Config: config, Edit: as(service)})
	out, status := command(t, s.DataDir, "user add alice --config "+config, withPassword("a first password"))
	if status != 1 || strings.Count(out, "\nattestcsr: ") != 1 || !strings.Contains(out, fmt.Sprintf("user %d may not replace %s", service, file)) {
		t.Errorf("%d %s", status, out)
	}
	if lines := trail(t, s.DataDir, "user.add"); len(lines) != 0 {
		t.Errorf("lines of what was not done: %+v", lines)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	changeUsers(t, s, "a first password", "add alice --privilege SECURITY_READ")
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	s.Again().Must(404, "GET", start.CSRPath, "", start.As("alice", "a first password"))
}

// TestUsersAccessList: an access list that lets the service read the users file stays.
func TestUsersAccessList(t *testing.T) {
	t.Parallel()
	dir := worldFolder(t)
	run(t, 0, dir, fmt.Sprintf("mkdir -m 0700 data; chown %d:%[1]d data", service))
	file := kit.Overwrite(t, dir, "htpasswd", start.UserLine(t, start.User, start.Password))
	letIn(t, file, 4)
	config := kit.Overwrite(t, dir, "config.yaml", "key_pool: {targets: {}}\nauth:\n  users_file: "+file+"\n  privileges: {admin: [SECURITY_MGMT]}\n")
	kit.Chmod(t, dir, "config.yaml", 0o644)
	s := start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: filepath.Join(dir, "data"), Config: config, Edit: as(service)})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	changeUsers(t, s, "a first password", "add alice")
	run(t, service, dir, "grep -q ^alice: htpasswd")
	s.Again().Must(403, "GET", start.CSRPath, "", start.As("alice", "a first password"))
}

// TestUserPasswordQuestion: on a terminal a new password is asked for twice, without echo.
func TestUserPasswordQuestion(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	ask := func(first, second string) (string, int) {
		ours, theirs := kit.Terminal(t)
		var shown kit.Buffer
		go func() { _, _ = io.Copy(&shown, ours) }() // until the test closes it
		said := &kit.Buffer{}
		cmd := exec.Command(start.Binary(t), "user", "add", "alice", "--data-dir", s.DataDir)
		cmd.Stdin, cmd.Stderr = theirs, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for i, answer := range []string{first, second} {
			question := []string{"new password: ", "again, the password: "}[i]
			kit.Eventually(t, question, func() bool { return strings.HasSuffix(said.String(), question) })
			kit.Eventually(t, "no echo", func() bool {
				state, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
				return err == nil && state.Lflag&unix.ECHO == 0
			})
			if _, err := ours.WriteString(answer + "\n"); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait() // its status says it
		if text := said.String() + shown.String(); strings.Contains(text, first) {
			t.Errorf("the password is shown: %q", text)
		}
		return said.String(), cmd.ProcessState.ExitCode()
	}
	if said, status := ask("a long passphrase", "a wrong passphrase"); status != 1 || !strings.HasSuffix(said, "\nattestcsr: the two passwords differ: nothing was changed\n") {
		t.Errorf("%d %s", status, said)
	}
	s.Must(401, "GET", start.CSRPath, "", start.As("alice", "a long passphrase"))
	if said, status := ask("a long passphrase", "a long passphrase"); status != 0 || !strings.HasSuffix(said, "\nalice may log in and do nothing\n") {
		t.Errorf("%d %s", status, said)
	}
	s.Must(403, "GET", start.CSRPath, "", start.As("alice", "a long passphrase"))
}

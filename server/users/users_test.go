package users_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"attestcsr/server/control"
	"attestcsr/server/users"
	"attestcsr/test/kit"
)

// Two hashes of the form that there has to be.
var (
	hash    = "$2a$10$" + strings.Repeat("a", 53)
	another = "$2b$12$" + strings.Repeat("b", 53)
)

func privileges() []string {
	return []string{"SECURITY_MGMT", "SECURITY_READ", "policy_certificate:read", "policy_certificate:crud"}
}

// own is a data_dir with the built-in admin.
func own(t *testing.T, settings map[string][]string) users.Files {
	t.Helper()
	dir := t.TempDir()
	kit.Overwrite(t, dir, users.AdminHashFile, "admin:"+hash+"\n")
	return users.Files{DataDir: dir, Settings: settings, Privileges: privileges(), Log: slog.New(slog.DiscardHandler)}
}

// operators is a data_dir with a users file of the operator.
func operators(t *testing.T, text string) users.Files {
	t.Helper()
	f := own(t, nil)
	f.Operators = kit.Overwrite(t, t.TempDir(), "htpasswd", text)
	return f
}

// change makes a change, and returns the privileges of its record, and how many there were.
func change(t *testing.T, f users.Files, c control.UserChange) (recorded [][]string, err error) {
	t.Helper()
	err = f.Change(t.Context(), c, func(privileges []string) error {
		recorded = append(recorded, privileges)
		return nil
	})
	return recorded, err
}

// must makes a change that has one record.
func must(t *testing.T, f users.Files, c control.UserChange, want ...string) {
	t.Helper()
	if recorded, err := change(t, f, c); err != nil || len(recorded) != 1 || !slices.Equal(recorded[0], want) {
		t.Errorf("%+v: recorded %q, want %q once, %v", c, recorded, want, err)
	}
}

// refused makes a change that has no record and leaves every file as it is.
func refused(t *testing.T, f users.Files, c control.UserChange, want string) {
	t.Helper()
	before := snapshot(t, f)
	recorded, err := change(t, f, c)
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), hash) || len(recorded) != 0 {
		t.Errorf("%+v: recorded %q, %v; want %q", c, recorded, err, want)
	}
	if after := snapshot(t, f); after != before {
		t.Errorf("%+v: the files are\n%s\nand were\n%s", c, after, before)
	}
}

// snapshot is the text of all files, with their names, so that nothing is left behind.
func snapshot(t *testing.T, f users.Files) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{f.DataDir, filepath.Dir(f.Users())} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all.WriteString(e.Name() + "\n")
			all.Write(kit.Read(t, dir, e.Name()))
		}
	}
	return all.String()
}

func list(t *testing.T, f users.Files) []control.User {
	t.Helper()
	content, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	return content.List()
}

func wantUser(t *testing.T, f users.Files, name, from string, want ...string) {
	t.Helper()
	for _, u := range list(t, f) {
		if u.Name == name {
			if u.PrivilegesFrom != from || !slices.Equal(u.Privileges, want) || u.Source != f.Users() && u.Source != "built in" {
				t.Errorf("%+v, want %q from %q", u, want, from)
			}
			return
		}
	}
	t.Errorf("there is no user %q", name)
}

// TestOwnUsers goes through the life of users beside the built-in admin.
func TestOwnUsers(t *testing.T) {
	t.Parallel()
	f := own(t, map[string][]string{"carol": {"SECURITY_READ"}})
	wantUser(t, f, "admin", "built in", privileges()...)
	must(t, f, control.UserChange{Action: control.AddUser, Name: "alice", Hash: hash, Privileges: []string{"policy_certificate:crud", "SECURITY_READ", "SECURITY_READ"}},
		"SECURITY_READ", "policy_certificate:crud")
	must(t, f, control.UserChange{Action: control.AddUser, Name: "bob", Hash: hash})
	must(t, f, control.UserChange{Action: control.AddUser, Name: "carol", Hash: hash})
	wantUser(t, f, "alice", "privileges.yaml", "SECURITY_READ", "policy_certificate:crud")
	wantUser(t, f, "bob", "")
	wantUser(t, f, "carol", "auth.privileges", "SECURITY_READ")

	must(t, f, control.UserChange{Action: control.Grant, Name: "carol", Privileges: []string{"SECURITY_MGMT", "SECURITY_READ"}}, "SECURITY_MGMT")
	wantUser(t, f, "carol", "privileges.yaml", "SECURITY_MGMT", "SECURITY_READ")
	must(t, f, control.UserChange{Action: control.Revoke, Name: "carol", Privileges: []string{"SECURITY_READ", "SECURITY_MGMT", "policy_certificate:read"}}, "SECURITY_MGMT", "SECURITY_READ")
	wantUser(t, f, "carol", "privileges.yaml") // also what the settings give

	for _, nothing := range []control.UserChange{
		{Action: control.Grant, Name: "alice", Privileges: []string{"SECURITY_READ"}},
		{Action: control.Revoke, Name: "bob", Privileges: []string{"SECURITY_READ"}},
	} {
		before := snapshot(t, f)
		if recorded, err := change(t, f, nothing); err != nil || len(recorded) != 0 || snapshot(t, f) != before {
			t.Errorf("%+v: recorded %q, %v", nothing, recorded, err)
		}
	}

	must(t, f, control.UserChange{Action: control.SetPassword, Name: "bob", Hash: another})
	if got, want := string(kit.Read(t, f.DataDir, users.File)), "alice:"+hash+"\nbob:"+another+"\ncarol:"+hash+"\n"; got != want {
		t.Errorf("the file holds\n%s\nwant\n%s", got, want)
	}
	must(t, f, control.UserChange{Action: control.RemoveUser, Name: "carol"})
	must(t, f, control.UserChange{Action: control.AddUser, Name: "carol", Hash: hash})
	wantUser(t, f, "carol", "auth.privileges", "SECURITY_READ") // the entry went with the user
	for _, name := range []string{users.File, users.PrivilegesFile} {
		if info, err := os.Stat(filepath.Join(f.DataDir, name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// TestStaleEntry: an entry that a crash or an editor left does not come to a new user.
func TestStaleEntry(t *testing.T) {
	t.Parallel()
	f := own(t, nil)
	kit.Overwrite(t, f.DataDir, users.PrivilegesFile, "alice: [SECURITY_MGMT]\n")
	content, err := f.Read()
	if err != nil || len(content.Doubts()) != 1 || !strings.Contains(content.Doubts()[0], `there is no user "alice"`) {
		t.Errorf("%v, %v", content, err)
	}
	must(t, f, control.UserChange{Action: control.AddUser, Name: "alice", Hash: hash})
	wantUser(t, f, "alice", "")
}

// TestRefused: what cannot be done is one sentence, and changes nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	f := own(t, nil)
	must(t, f, control.UserChange{Action: control.AddUser, Name: "alice", Hash: hash, Privileges: []string{"SECURITY_MGMT"}}, "SECURITY_MGMT")
	for want, c := range map[string]control.UserChange{
		`there is a user "alice" already`:                          {Action: control.AddUser, Name: "alice", Hash: hash},
		`there is a user "admin" already`:                          {Action: control.AddUser, Name: "admin", Hash: hash},
		`"uid:0" cannot be a user`:                                 {Action: control.AddUser, Name: "uid:0", Hash: hash},
		`"system:service" cannot be`:                               {Action: control.AddUser, Name: "system:service", Hash: hash},
		`begin with #`:                                             {Action: control.AddUser, Name: "#alice", Hash: hash},
		"at least one character":                                   {Action: control.AddUser, Name: "", Hash: hash},
		"begins or ends with a space":                              {Action: control.AddUser, Name: " x", Hash: hash},
		"longer than 255 bytes":                                    {Action: control.AddUser, Name: strings.Repeat("x", 256), Hash: hash},
		"without control characters":                               {Action: control.AddUser, Name: "x\ny", Hash: hash},
		"the hash is not bcrypt":                                   {Action: control.AddUser, Name: "bob", Hash: ""},
		"not one line of bcrypt":                                   {Action: control.AddUser, Name: "bob", Hash: hash + "\nmallory:" + hash},
		"is not one line of":                                       {Action: control.SetPassword, Name: "alice", Hash: "secret"},
		`no user "bob"`:                                            {Action: control.RemoveUser, Name: "bob"},
		`no user "carol"`:                                          {Action: control.Grant, Name: "carol", Privileges: []string{"SECURITY_READ"}},
		"not a privilege: there are SECURITY_MGMT, SECURITY_READ,": {Action: control.Grant, Name: "alice", Privileges: []string{"ROOT"}},
		`"ROOT" is not a privilege`:                                {Action: control.AddUser, Name: "bob", Hash: hash, Privileges: []string{"ROOT"}},
		"since SECURITY_MGMT includes it":                          {Action: control.Revoke, Name: "alice", Privileges: []string{"SECURITY_READ"}},
		"admin is built in and stays":                              {Action: control.RemoveUser, Name: "admin"},
		"admin is built in: an entry in auth.privileges":           {Action: control.Revoke, Name: "admin", Privileges: []string{"SECURITY_MGMT"}},
		`"dance" is nothing that can be done`:                      {Action: "dance", Name: "alice"},
	} {
		refused(t, f, c, want)
	}
	f.AdminPassword = "/etc/password"
	refused(t, f, control.UserChange{Action: control.SetPassword, Name: "admin", Hash: hash}, "admin_password_file decides the password")
	f = operators(t, "# none\nonly:"+hash+"\n")
	refused(t, f, control.UserChange{Action: control.RemoveUser, Name: "only"}, "the only user")
	f = operators(t, "only:"+hash+"\nbroken\n")
	refused(t, f, control.UserChange{Action: control.AddUser, Name: "alice", Hash: hash}, "line 2: it has no colon")
}

// TestAdminPassword: a chosen password takes the place of the random one, whose file goes.
func TestAdminPassword(t *testing.T) {
	t.Parallel()
	f := own(t, nil)
	kit.Overwrite(t, f.DataDir, users.InitialPasswordFile, "random\n")
	must(t, f, control.UserChange{Action: control.SetPassword, Name: "admin", Hash: another})
	if got := string(kit.Read(t, f.DataDir, users.AdminHashFile)); got != "admin:"+another+"\n" {
		t.Errorf("%s", got)
	}
	if _, err := os.Stat(filepath.Join(f.DataDir, users.InitialPasswordFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file with the password of before: %v", err)
	}
}

// TestAdminStays: no file takes privileges from the built-in admin; the settings may.
func TestAdminStays(t *testing.T) {
	t.Parallel()
	f := own(t, nil)
	kit.Overwrite(t, f.DataDir, users.PrivilegesFile, "admin: []\n")
	wantUser(t, f, "admin", "built in", privileges()...)
	if content, err := f.Read(); err != nil || len(content.Doubts()) != 1 || !strings.Contains(content.Doubts()[0], "the entry of admin is not read") {
		t.Errorf("%v", err)
	}
	f.Settings = map[string][]string{"admin": {"SECURITY_READ"}}
	wantUser(t, f, "admin", "auth.privileges", "SECURITY_READ")
	f = operators(t, "admin:"+hash+"\n")
	kit.Overwrite(t, f.DataDir, users.PrivilegesFile, "admin: []\n")
	wantUser(t, f, "admin", "privileges.yaml") // who is a user like others there

	kit.Overwrite(t, f.DataDir, users.File, "bob:"+hash+"\n")
	if content, err := f.Read(); err != nil || len(content.Doubts()) != 1 || !strings.Contains(content.Doubts()[0], "is not read, since auth.users_file is set") {
		t.Errorf("%v", err)
	}
}

// TestOperatorsFile: comments, blank lines, order, owner, group and mode stay, and a link
// stays a link.
func TestOperatorsFile(t *testing.T) {
	t.Parallel()
	const text = "# team A\n\nzoe:HASH\n   \n# bob left in May: bob:HASH\nalice:HASH\n#alice:HASH"
	f := operators(t, strings.ReplaceAll(text, "HASH", hash))
	file := f.Operators
	kit.Chmod(t, filepath.Dir(file), "htpasswd", 0o640)
	if os.Geteuid() == 0 {
		if err := os.Chown(file, 54321, 54322); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, filepath.Dir(file), ".htpasswd-1.tmp", "left by a crash")
	f.Operators = filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, f.Operators); err != nil {
		t.Fatal(err)
	}
	want := func(text string) {
		t.Helper()
		text = strings.NewReplacer("HASH", hash, "OTHER", another).Replace(text)
		if got := string(kit.Read(t, "", file)); got != text {
			t.Errorf("the file holds\n%s\nwant\n%s", got, text)
		}
		after, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := after.Sys().(*syscall.Stat_t)
		b, _ := before.Sys().(*syscall.Stat_t)
		if after.Mode() != before.Mode() || a.Uid != b.Uid || a.Gid != b.Gid {
			t.Errorf("%v %d:%d, was %v %d:%d", after.Mode(), a.Uid, a.Gid, before.Mode(), b.Uid, b.Gid)
		}
		if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
		if info, err := os.Lstat(f.Operators); err != nil || info.Mode().Type() != os.ModeSymlink {
			t.Errorf("the link: %v, %v", info, err)
		}
	}
	must(t, f, control.UserChange{Action: control.AddUser, Name: "bob", Hash: hash})
	want(text + "\nbob:HASH\n")
	must(t, f, control.UserChange{Action: control.SetPassword, Name: "zoe", Hash: another})
	want("# team A\n\nzoe:OTHER\n   \n# bob left in May: bob:HASH\nalice:HASH\n#alice:HASH\nbob:HASH\n")
	must(t, f, control.UserChange{Action: control.RemoveUser, Name: "alice"})
	want("# team A\n\nzoe:OTHER\n   \n# bob left in May: bob:HASH\n#alice:HASH\nbob:HASH\n")
}

// TestKubernetes: the files of a volume of Kubernetes are not changed.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	f := operators(t, "alice:"+hash+"\n")
	dir := filepath.Dir(f.Operators)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "..2026_11_29"), 0o700), os.Rename(f.Operators, filepath.Join(dir, "..2026_11_29", "htpasswd")),
		os.Symlink("..2026_11_29", filepath.Join(dir, "..data")), os.Symlink("..data/htpasswd", f.Operators)); err != nil {
		t.Fatal(err)
	}
	_, err := change(t, f, control.UserChange{Action: control.AddUser, Name: "bob", Hash: hash})
	if err == nil || !strings.Contains(err.Error(), "comes from a Secret or ConfigMap of Kubernetes: change that") {
		t.Errorf("%v", err)
	}
}

// TestManyChanges: of changes at once none is lost, since the file has a lock. Each has a
// data_dir of its own, as several services with one users file have.
func TestManyChanges(t *testing.T) {
	t.Parallel()
	shared := operators(t, "# shared\nalice:"+hash+"\n")
	var changes sync.WaitGroup
	for n := range 20 {
		f := own(t, nil)
		f.Operators = shared.Operators
		changes.Go(func() {
			must(t, f, control.UserChange{Action: control.AddUser, Name: string(rune('b' + n)), Hash: hash})
		})
	}
	changes.Wait()
	if all := list(t, shared); len(all) != 21 {
		t.Errorf("%d users: %+v", len(all), all)
	}
}

// TestLocked: a command does not wait for another one for ever.
func TestLocked(t *testing.T) {
	t.Parallel()
	f := operators(t, "alice:"+hash+"\n")
	file, err := os.Open(f.Operators)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = f.Change(ctx, control.UserChange{Action: control.RemoveUser, Name: "alice"}, func([]string) error { t.Error("recorded"); return nil })
	if err == nil || !strings.Contains(err.Error(), "another command is changing") {
		t.Errorf("%v", err)
	}
}

// TestEditedMeanwhile: an editor does not look at the lock. What it wrote stays.
func TestEditedMeanwhile(t *testing.T) {
	t.Parallel()
	f := operators(t, "alice:"+hash+"\n")
	f.Log = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		kit.Overwrite(t, filepath.Dir(f.Operators), "htpasswd", "# edited\nalice:"+hash+"\n")
		return len(p), nil
	}), nil))
	kit.Overwrite(t, f.DataDir, users.PrivilegesFile, "{}\n")
	kit.Chmod(t, f.DataDir, users.PrivilegesFile, 0o640) // reading it logs a warning, after the users file was read
	recorded, err := change(t, f, control.UserChange{Action: control.AddUser, Name: "bob", Hash: hash})
	if err == nil || !strings.Contains(err.Error(), "was changed meanwhile") || len(recorded) != 0 {
		t.Errorf("recorded %q, %v", recorded, err)
	}
	if got := string(kit.Read(t, "", f.Operators)); got != "# edited\nalice:"+hash+"\n" {
		t.Errorf("%s", got)
	}
}

// TestNoRecord: what cannot be recorded is not done.
func TestNoRecord(t *testing.T) {
	t.Parallel()
	for _, f := range []users.Files{own(t, nil), operators(t, "alice:"+hash+"\n")} {
		before, failure := snapshot(t, f), errors.New("no trail")
		c := control.UserChange{Action: control.AddUser, Name: "bob", Hash: hash, Privileges: []string{"SECURITY_READ"}}
		if err := f.Change(t.Context(), c, func([]string) error { return failure }); !errors.Is(err, failure) || snapshot(t, f) != before {
			t.Errorf("%v", err)
		}
	}
}

// TestUnreadable: a file that is wrong is named, and nothing is read in place of it.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ file, text, want string }{
		{users.File, "alice", "line 1: it has no colon"},
		{users.File, "admin:" + hash + "\n", "has a line of admin, who is built in"},
		{users.AdminHashFile, "admin", "it has no colon"},
		{users.PrivilegesFile, "alice: [ROOT]\n", `privileges.yaml:1:9: privileges.alice: "ROOT" is not a privilege: SECURITY_MGMT,`},
		{users.PrivilegesFile, "alice: SECURITY_MGMT\n", "must be a list"},
		{users.PrivilegesFile, "alice: []\nalice: []\n", "is set twice"},
		{users.PrivilegesFile, "a:b: []\n", "is not a user name"},
		{users.PrivilegesFile, "[]\n", "must be a mapping"},
		{users.PrivilegesFile, "{}\n---\n{}\n", "a second YAML document"},
		{users.PrivilegesFile, "alice: [", "not YAML"},
		{users.PrivilegesFile, "#" + strings.Repeat("x", 1<<20), "is longer than"},
	} {
		f := own(t, nil)
		kit.Overwrite(t, f.DataDir, test.file, test.text)
		if content, err := f.Read(); err == nil || content != nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.file) {
			t.Errorf("%s %.40q: %v, want %q", test.file, test.text, err, test.want)
		}
	}
	f := own(t, nil)
	kit.Overwrite(t, f.DataDir, users.PrivilegesFile, "{}\n")
	kit.Chmod(t, f.DataDir, users.PrivilegesFile, 0o644)
	if _, err := f.Read(); err == nil || !strings.Contains(err.Error(), "is accessible to others") {
		t.Errorf("%v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

//go:build tools

package crash_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"attestcsr/server/control"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// userChange is a change of the user bob, of whom there must be all afterwards, or nothing.
type userChange struct {
	name       string
	args       []string
	operators  bool     // the users are in a file of the operator
	before     bool     // bob is there
	after      bool     // likewise
	privileges []string // of bob, where he is there
}

func userChanges() []userChange {
	read := []string{"SECURITY_READ"}
	return []userChange{
		{"add", []string{"add", "bob", "--privilege", "SECURITY_READ"}, false, false, true, read},
		{"add to a file of the operator", []string{"add", "bob", "--privilege", "SECURITY_READ"}, true, false, true, read},
		{"remove from a file of the operator", []string{"remove", "bob"}, true, true, false, read},
		{"password", []string{"password", "bob"}, true, true, true, read},
	}
}

const operatorsUsers = "operators-users" // beside the store, so that it is on the same disk

// usersSetup is a disk for a change of users.
type usersSetup struct {
	*faultSetup
	userChange
	passwordFile string
}

func newUsersSetup(t *testing.T, c userChange) *usersSetup {
	t.Helper()
	st := &usersSetup{newFaultSetup(t, scenario{name: "user " + c.name}), c, kit.Overwrite(t, t.TempDir(), "password", "a long passphrase\n")}
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, s.DataDir, operatorsUsers, "# kept\n"+start.UserLine(t, "admin", "swordfish"))
	if c.before {
		if out, err := st.user(s.DataDir, "add", "bob", "--privilege", "SECURITY_READ"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	found, err := inspect(t.Context(), s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	st.stored = found.stored
	if st.disk, err = faultfs.Load(s.DataDir); err != nil {
		t.Fatal(err)
	}
	return st
}

// arguments are those of "attestcsr user".
func (st *usersSetup) arguments(dir string, args ...string) []string {
	args = append([]string{"user"}, args...)
	if st.operators {
		args = append(args, "--auth-users-file", filepath.Join(dir, operatorsUsers))
	}
	if args[1] == "add" || args[1] == "password" {
		args = append(args, "--password-file", st.passwordFile)
	}
	return args
}

func (st *usersSetup) user(dir string, args ...string) (string, error) {
	out, err := exec.Command(st.options.Binary, append(st.arguments(dir, args...), "--data-dir", dir)...).Output()
	return string(out), err
}

// TestUsersKilledAtEveryOperation ends the commands that change users at each operation on
// the disk, and cuts the power then. A user is there with all privileges or not at all, the
// trail is whole, and the same command goes on.
func TestUsersKilledAtEveryOperation(t *testing.T) {
	t.Parallel()
	for _, c := range userChanges() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := newUsersSetup(t, c)
			r := st.newRun(t, "without a fault")
			r.command(st.arguments(r.dir, c.args...)...)
			operations := r.disk.Operations(faultfs.Kill.Meets()...)
			st.holds(t, "without a fault", r.disk, true)
			// From the commit of the line to the flush after the last rename, or all.
			renamed := func(o faultfs.Operation) bool { return o.Kind == faultfs.Rename }
			first, last := slices.IndexFunc(operations, renamed)+1-4, len(operations)
			for !renamed(operations[last-1]) {
				last--
			}
			first, last = kit.Effort(first, 1), kit.Effort(last+2, len(operations))
			var fired atomic.Int64
			walk(first, last, 1, func(n int) {
				r := st.newRun(t, fmt.Sprintf("killed at operation %d of %d", n, last))
				r.disk.Arm(faultfs.Kill, n, faultfs.Nothing(), r.kill)
				out, killed := r.command(st.arguments(r.dir, c.args...)...)
				o, met := r.disk.Fired()
				switch {
				case !met && n > len(operations)-10:
					return // the trail takes more operations in one run than in another
				case !met || !killed:
					t.Errorf("%s: not killed: %s", r.what, out)
				}
				fired.Add(1)
				what := r.what + " (" + o.String() + ")"
				st.holds(t, what+": after SIGKILL", r.disk, false)
				luck := faultfs.Nothing()
				if n%2 == 0 {
					luck = faultfs.Some(uint64(n))
				}
				st.holds(t, fmt.Sprint(what, ": after a power cut, seed ", n), r.disk.Cut(luck), false)
			})
			kit.Count(t, "kills of user commands", int(fired.Load()))
		})
	}
}

// holds checks what a command has left, and gives the same command again.
func (st *usersSetup) holds(t *testing.T, what string, d *faultfs.Disk, done bool) {
	t.Helper()
	dir := st.folder(t)
	if err := d.Save(dir); err != nil {
		t.Fatal(err)
	}
	there := st.wantBob(t, what, dir)
	if done && there != st.after || there != st.before && there != st.after {
		t.Errorf("%s: bob is there: %v", what, there)
	}
	if out, err := auditVerify(dir); err != nil {
		t.Errorf("%s: %v %s", what, err, out)
	}
	if st.before == st.after || there != st.after {
		if out, err := st.user(dir, st.args...); err != nil {
			t.Errorf("%s: once more: %v %s", what, err, out)
		}
	}
	if there := st.wantBob(t, what+", once more", dir); there != st.after {
		t.Errorf("%s: once more: bob is there: %v", what, there)
	}
	if text := string(kit.Read(t, dir, operatorsUsers)); !strings.HasPrefix(text, "# kept\nadmin:") {
		t.Errorf("%s: the operator's file: %s", what, text)
	}
	left, err := filepath.Glob(filepath.Join(dir, "."+operatorsUsers+"-*.tmp"))
	if err != nil || st.operators && there != st.after && len(left) != 0 { // the next change has removed it
		t.Errorf("%s: left behind: %q, %v", what, left, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// wantBob reports whether bob is there. If so, he has all privileges.
func (st *usersSetup) wantBob(t *testing.T, what, dir string) (there bool) {
	t.Helper()
	out, err := st.user(dir, "list", "--output", "json")
	var all []control.User
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	if err != nil || len(all) == 0 || all[0].Name != "admin" {
		t.Errorf("%s: %v %s", what, err, out)
	}
	for _, u := range all {
		if there = there || u.Name == "bob"; u.Name == "bob" && !slices.Equal(u.Privileges, st.privileges) {
			t.Errorf("%s: bob has %q", what, u.Privileges)
		}
	}
	return there
}

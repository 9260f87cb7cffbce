package start_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// The users of these tests; none of them has to exist.
const (
	service = 54321
	other   = 54322
)

// as runs a command as a user.
func as(user int) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
	}
}

// run runs a script in a folder as a user.
func run(t *testing.T, user int, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	as(user)(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("user %d, %s: %v %s", user, script, err, out)
	}
}

// worldFolder makes a folder that every user can look into, and that only root can
// change.
func worldFolder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be two users")
	}
	temp, err := filepath.EvalSymlinks(os.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(temp, "trust") //nolint:usetesting // the path goes into scripts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	kit.Chmod(t, dir, ".", 0o755)
	return dir
}

// trustedTree makes all that a service trusts, as the service's user: in etc what
// settings name, in data what it makes.
func trustedTree(t *testing.T) string {
	t.Helper()
	dir := worldFolder(t)
	etc := filepath.Join(dir, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, etc, "made.yaml", "key_pool: {targets: {}}\n")
	kit.Overwrite(t, etc, "password.yaml", "key_pool: {targets: {}}\nadmin_password_file: etc/password\n")
	kit.Overwrite(t, etc, "given.yaml", "key_pool: {targets: {}}\nauth: {users_file: etc/users, privileges: {admin: [SECURITY_MGMT]}}\n"+
		"tls: {cert_file: etc/tls.crt, key_file: etc/tls.key}\nsealing: {keyset_file: etc/keyset}\n")
	kit.Overwrite(t, etc, "users", start.UserLine(t, start.User, start.Password))
	kit.Overwrite(t, etc, "password", start.Password+"\n")
	run(t, 0, dir, fmt.Sprintf("chown -R %d:%[1]d .", service))
	start.Prepare(t, inTree(t, dir, "made"))
	run(t, service, dir, "cp data/tls-cert.pem etc/tls.crt; cp data/tls-key.pem etc/tls.key; cp data/sealing-keyset.json etc/keyset")
	return dir
}

// copyTree copies what trustedTree has made.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(worldFolder(t), "tree")
	run(t, 0, from, "cp -a . "+to)
	return to
}

// inTree is for a service in a tree, with the settings of that name.
func inTree(t *testing.T, dir, settings string) start.Options {
	t.Helper()
	return start.Options{
		Binary: start.Binary(t), DataDir: filepath.Join(dir, "data"), Config: filepath.Join(dir, "etc", settings+".yaml"), BuiltInAdmin: settings != "given",
		Edit: func(cmd *exec.Cmd) {
			cmd.Dir = dir
			as(service)(cmd)
		},
	}
}

// takeover is how another user gets at a file or folder P, with F above it, after
// root has made a mistake.
type takeover struct {
	mistake, attack string // scripts of root and of the other user
	refusal         string
	kept            string // refusal where P is in data_dir; "": the same
}

func takeovers() map[string]takeover {
	const mine = "P belongs to user 54322, who could change (it|what is in it); run chown (-h )?54321 P"
	return map[string]takeover{
		"every user may write": {
			"chmod o+x F; chmod o+rwX P", "if test -d P; then touch P/x; else echo \"$LINE\" >>P; fi",
			`P is accessible to others \(mode 0...\): every user could change what is in it; run chmod o-(w|rwx) P`, "",
		},
		"another group may write": {
			"chmod o+x F; chgrp 54322 P; chmod g+rwX P", "if test -d P; then touch P/x; else echo \"$LINE\" >>P; fi",
			`P is accessible to others \(mode 0...\): every (user|member of group 54322) could change what is in it; run chmod go-(w|rwx) P`, "",
		},
		"every user may write above": {
			"chmod o+rwx F", "mv P P.gone; if test -d P.gone; then mkdir P; else echo \"$LINE\" >P; chmod 644 P; fi",
			`F is accessible to others \(mode 0..7\): every user could change what is in it; run chmod o-w F`, mine,
		},
		"another owner": {"chmod o+x F; chown 54322 P; chmod u+w,a+rX P", "if test -d P; then touch P/x; else echo \"$LINE\" >>P; fi", mine, ""},
		"a link in a sticky folder": {
			"mv P P.gone; touch P.gone; chmod 1777 F", "ln -s P.gone P", "P belongs to user 54322, who could change it; run chown -h 54321 P", "",
		},
	}
}

// in puts the path of P, in a tree, into a script or a sentence.
func in(text, dir, path string) string {
	p := filepath.Join(dir, path)
	return strings.NewReplacer("P", p, "F", filepath.Dir(p), "$LINE", "$LINE").Replace(text)
}

// TestStartTrustsNobodyElse: another user's process tries every path that the service
// trusts, after each mistake that root can make. Each time the start says what is
// wrong, who could do what, and the command that mends it.
func TestStartTrustsNobodyElse(t *testing.T) {
	t.Parallel()
	prepared := trustedTree(t)
	for path, settings := range map[string]string{
		"data": "made", "data/attestcsr.db": "made", "data/audit": "made", "data/sealing-keyset.json": "made", "data/tls-cert.pem": "made",
		"data/tls-key.pem": "made", "data/admin.htpasswd": "made", "data/initial-admin-password": "made", "etc/made.yaml": "made", "etc/password": "password",
		"etc/users": "given", "etc/tls.crt": "given", "etc/tls.key": "given", "etc/keyset": "given",
	} {
		for name, way := range takeovers() {
			if path == "data" && strings.HasSuffix(name, "may write") {
				continue // the start takes the permission away: TestDataDirIsClosed
			}
			t.Run(path+", "+name, func(t *testing.T) {
				t.Parallel()
				dir := copyTree(t, prepared)
				run(t, 0, dir, in(way.mistake, dir, path))
				run(t, other, dir, "LINE='# nothing'; "+in(way.attack, dir, path))
				want := way.refusal
				if strings.HasPrefix(path, "data/") && way.kept != "" {
					want = way.kept
				}
				text := start.Refused(t, inTree(t, dir, settings))
				if !regexp.MustCompile(in(want, regexp.QuoteMeta(dir), path)).MatchString(text) {
					t.Errorf("%s\nwant %s", text, in(want, dir, path))
				}
				kit.Count(t, "paths tried by another user", 1)
			})
		}
	}
}

// TestReloadTrustsNobodyElse: the same under a running service. It goes on with the
// users and the certificate that it had.
func TestReloadTrustsNobodyElse(t *testing.T) {
	t.Parallel()
	prepared := trustedTree(t)
	forged := start.UserLine(t, start.User, "forged")
	for path, settings := range map[string]string{"data/admin.htpasswd": "made", "data/tls-cert.pem": "made", "etc/users": "given", "etc/tls.key": "given"} {
		for name, way := range takeovers() {
			t.Run(path+", "+name, func(t *testing.T) {
				t.Parallel()
				dir := copyTree(t, prepared)
				s := start.Serve(t, inTree(t, dir, settings))
				s.Must(404, "GET", start.CSRPath, "")
				run(t, 0, dir, in(way.mistake, dir, path))
				run(t, other, dir, "LINE='"+strings.TrimSpace(forged)+"'; "+in(way.attack, dir, path))
				want := regexp.MustCompile(`(users|server certificate) not reloaded: the ones? before stays?( in use)?","err":"[^"]*` + in(way.refusal, regexp.QuoteMeta(dir), path))
				if !kit.Until(func() bool { return want.MatchString(s.Stdout.String()) }) {
					t.Errorf("the log does not say %s:\n%s", want, s.Stdout)
				}
				s.Must(401, "GET", start.CSRPath, "", start.As(start.User, "forged"))
				s.Must(404, "GET", start.CSRPath, "")
				kit.Count(t, "paths tried by another user", 1)
			})
		}
	}
}

// TestDataDirIsClosed: the start takes all permissions of others from a data_dir that
// is the service's own, and says so.
func TestDataDirIsClosed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	kit.Chmod(t, dir, ".", 0o777)
	s := start.Serve(t, start.Options{DataDir: dir})
	s.WantLog("its mode is set to 0700")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// TestRootsCommandsKeepTheOwner: the service can read what root's reset-password
// writes, and takes the new password.
func TestRootsCommandsKeepTheOwner(t *testing.T) {
	t.Parallel()
	dir := trustedTree(t)
	s := start.Serve(t, inTree(t, dir, "made"))
	cmd := exec.Command(start.Binary(t), "reset-password", "--data-dir", s.DataDir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, name := range []string{"admin.htpasswd", "initial-admin-password"} {
		info, err := os.Stat(filepath.Join(s.DataDir, name))
		if err != nil {
			t.Fatal(err)
		}
		stat, is := info.Sys().(*syscall.Stat_t)
		if !is || stat.Uid != service || stat.Gid != service || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %+v", name, info.Mode(), stat)
		}
	}
	fresh := s.InitialPassword()
	kit.Eventually(t, "the new password", func() bool { return s.Answers(404, start.CSRPath, start.As(start.User, fresh)) })
}

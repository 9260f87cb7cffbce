package backup_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"filippo.io/age"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

func TestMain(m *testing.M) { start.Main(m) }

// holder is who can open backups.
type holder struct{ recipient, identity string }

func newHolder(t *testing.T) holder {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return holder{identity.Recipient().String(), kit.Overwrite(t, t.TempDir(), "identity", identity.String()+"\n")}
}

// run runs the real binary.
func run(t *testing.T, edit func(*exec.Cmd), args ...string) (out string, status int) {
	t.Helper()
	cmd := exec.Command(start.Binary(t), args...)
	if edit != nil {
		edit(cmd)
	}
	text, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, status := run(t, nil, args...)
	if status != 0 {
		t.Fatalf("%s: exit status %d: %s", strings.Join(args, " "), status, out)
	}
	return out
}

// used is a service that has made changes, and signed.
func used(t *testing.T, o start.Options) *start.Instance {
	t.Helper()
	o.Binary = start.Binary(t)
	s := start.Serve(t, o)
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	for _, id := range []string{"one", "another"} {
		s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", start.ECSpec(id))
	}
	s.Must(200, "DELETE", start.NSXCSRs+"/another", "")
	var login struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	answer := s.Must(200, "POST", "/v1/auth/userpass/login/"+start.User, `{"password":"`+s.Password+`"}`)
	if err := json.Unmarshal([]byte(answer), &login); err != nil {
		t.Fatal(err)
	}
	s.Must(200, "POST", "/v1/transit/sign/attestation", `{"input":"YQ=="}`, start.Header("X-Vault-Token", login.Auth.Token))
	s.Do("GET", start.CSRPath, "", start.As("nobody", "wrong"))
	return s
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

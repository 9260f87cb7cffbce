//go:build tools

package start_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestSigner: OpenSSH lists the keys and signs with them, OpenSSH and openssl verify that,
// and each signature has a line that says who had it made.
func TestSigner(t *testing.T) {
	t.Parallel()
	first := start.Serve(t, start.Options{Binary: start.Binary(t)})
	var named struct{ ID string }
	if err := json.Unmarshal([]byte(first.Must(201, "POST", start.NSXCSRs+"?action=self_sign", start.ECSpec("nsx.example.com"))), &named); err != nil || named.ID == "" {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	s := serveSigner(t, fmt.Sprintf(`{"uid:0": [attestation, nsx-none], "gid:0": ["nsx-%s", attestation]}`, named.ID), start.Options{DataDir: first.DataDir})
	dir := t.TempDir()
	do := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+s.socket)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	const message = "what is signed\n"
	keys := strings.Split(strings.TrimSpace(do("", "ssh-add", "-L")), "\n")
	if len(keys) != 2 || !strings.HasSuffix(keys[0], " attestation") || !strings.HasPrefix(keys[1], "ecdsa-sha2-nistp256 ") || !strings.HasSuffix(keys[1], " nsx-"+named.ID) {
		t.Fatalf("ssh-add lists %q", keys)
	}
	kit.Overwrite(t, dir, "message", message)
	for i, key := range keys {
		name := fmt.Sprintf("key%d.pub", i)
		kit.Overwrite(t, dir, name, key+"\n")
		kit.Overwrite(t, dir, "allowed", "someone "+key+"\n")
		kit.Overwrite(t, dir, "message.sig", "")
		if err := os.Remove(filepath.Join(dir, "message.sig")); err != nil {
			t.Fatal(err)
		}
		do("", "ssh-keygen", "-Y", "sign", "-f", name, "-n", "file", "message")
		if out := do(message, "ssh-keygen", "-Y", "verify", "-f", "allowed", "-I", "someone", "-n", "file", "-s", "message.sig"); !strings.Contains(out, `Good "file" signature for someone`) {
			t.Error(out)
		}
	}

	// RS256 is what rsa-sha2-256 is: openssl verifies it over the data itself.
	client := s.client(t)
	listed, err := client.List()
	if err != nil {
		t.Fatal(err)
	}
	signature, err := client.SignWithFlags(listed[0], []byte(message), agent.SignatureFlagRsaSha256)
	if err != nil || signature.Format != ssh.KeyAlgoRSASHA256 {
		t.Fatal(signature, err)
	}
	block, _ := pem.Decode([]byte(installed(t, s.Instance)))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(certificate.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, dir, "public.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})))
	kit.Overwrite(t, dir, "raw.sig", string(signature.Blob))
	if out := do("", "openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "raw.sig", "message"); out != "Verified OK\n" {
		t.Error(out)
	}

	lines := s.signerLines(t, "signatures", 3)
	for i, want := range []struct{ slot, algorithm string }{{"esx/attestation/certificate", "RS512"}, {"nsx/certificates/" + named.ID, "ES256"}, {"esx/attestation/certificate", "RS256"}} {
		l := lines[i]
		if l.Event != "signature" || l.User != "uid:0" || l.Method != "socket" || l.Slot != want.slot || l.Algorithm != want.algorithm || len(l.Kid) != 43 ||
			!strings.HasPrefix(l.Peer, "uid=0 gid=0 pid=") {
			t.Errorf("%+v, want %v", l, want)
		}
	}
	if l := lines[2]; l.Digest != sum(message) || l.Peer != fmt.Sprintf("uid=0 gid=0 pid=%d", os.Getpid()) {
		t.Errorf("%+v", l)
	}
	must(t, s.DataDir, "audit verify")
}

// TestSignerForeignUser: the kernel says who asks. A user or group of signer.allow gets
// its keys, everybody else a failure and a line.
func TestSignerForeignUser(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, fmt.Sprintf(`{"uid:%d": [attestation], "gid:%d": [attestation, nsx-none], "uid:%d": []}`, service, other, other+1), start.Options{})
	dir := filepath.Dir(s.socket)
	list := func(uid, gid uint32) (string, error) {
		cmd := exec.Command("ssh-add", "-L")
		cmd.Dir, cmd.Env = dir, []string{"SSH_AUTH_SOCK=" + s.socket}
		as(int(uid))(cmd)
		cmd.SysProcAttr.Credential.Gid = gid
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, allowed := range [][2]uint32{{service, 7}, {7, other}, {service, other}} {
		if out, err := list(allowed[0], allowed[1]); err != nil || strings.Count(out, " attestation\n") != 1 {
			t.Errorf("%v: %v, %s", allowed, err, out)
		}
	}
	for i, foreign := range [][2]uint32{{0, 0}, {7, 7}, {other, service}, {other + 1, 7}} {
		if out, err := list(foreign[0], foreign[1]); err == nil {
			t.Errorf("%v: %s", foreign, out)
		}
		l := s.signerLines(t, "refusals", i+1)[i]
		if l.User != fmt.Sprintf("uid:%d", foreign[0]) || l.Method != "socket" || l.Outcome != "unauthorized" ||
			!strings.HasPrefix(l.Peer, fmt.Sprintf("uid=%d gid=%d pid=", foreign[0], foreign[1])) {
			t.Errorf("%+v", l)
		}
	}
	s.WantLog("signer: a connection is refused")
	s.signerLines(t, "signatures", 0)
}

// sum is the SHA-256 of data, as lines have it.
func sum(data string) string {
	digest := sha256.Sum256([]byte(data))
	return hex.EncodeToString(digest[:])
}

package start_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sync/errgroup"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// signing is a service with a signer socket.
type signing struct {
	*start.Instance
	socket string
}

// serveSigner starts a service whose socket stands in a folder that everybody reaches.
// allow is the mapping of signer.allow.
func serveSigner(t *testing.T, allow string, o start.Options) signing {
	t.Helper()
	socket := filepath.Join(worldFolder(t), "signer.sock")
	o.Settings += "signer:\n  socket: " + socket + "\n  allow: " + allow + "\n"
	return signing{start.Serve(t, o), socket}
}

const rootSigns = `{"uid:0": [attestation]}`

// dial connects to the socket.
func (s signing) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// client speaks the protocol over a connection of its own.
func (s signing) client(t *testing.T) agent.ExtendedAgent {
	t.Helper()
	return agent.NewClient(s.dial(t))
}

// theKey is the only one that the socket lists.
func (s signing) theKey(t *testing.T) *agent.Key {
	t.Helper()
	keys, err := s.client(t).List()
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	return keys[0]
}

// signerLine is what these tests read of a line about a signature.
type signerLine struct{ Event, User, Method, Operation, Peer, Slot, Kid, Algorithm, Digest, Outcome string }

// signerLines waits for n lines of a stream and returns them.
func (s signing) signerLines(t *testing.T, stream string, n int) (found []signerLine) {
	t.Helper()
	kit.Until(func() bool {
		found = nil
		files, _ := filepath.Glob(filepath.Join(s.DataDir, server.AuditDir, stream+"-*.jsonl"))
		for _, file := range files {
			for text := range strings.Lines(string(kit.Read(t, "", file))) {
				var l signerLine
				if json.Unmarshal([]byte(text), &l) == nil && l.Operation == "key.sign" {
					found = append(found, l)
				}
			}
		}
		return len(found) >= n
	})
	if len(found) != n {
		t.Fatalf("%d lines of %s, want %d: %+v", len(found), stream, n, found)
	}
	return found
}

// frame is a message with its length.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)
}

// signRequest is a request to sign data (draft-ietf-sshm-ssh-agent section 3.6).
func signRequest(blob, data []byte, flags uint32) []byte {
	return ssh.Marshal(struct {
		Blob  []byte `sshtype:"13"`
		Data  []byte
		Flags uint32
	}{blob, data, flags})
}

// answerTo sends what it is given and returns the type of the answer, or why there is
// none.
func answerTo(c net.Conn, sent []byte) (kind byte, err error) {
	if _, err := c.Write(sent); err != nil {
		return 0, err
	}
	var header [5]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return 0, err
	}
	_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(header[:]))-1)
	return header[4], err
}

// TestSignerMessages: what is not the list of keys or a good request to sign is answered
// with a failure, and the connection goes on; what is too long is not read.
func TestSignerMessages(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, rootSigns, start.Options{})
	key := s.theKey(t)
	other, err := ssh.NewPublicKey(kit.NewKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	const longest = 1 << 20
	room := longest - len(signRequest(key.Blob, nil, 0))
	c := s.dial(t)
	for _, tc := range []struct {
		name    string
		message []byte
		want    byte
	}{
		{"list", []byte{11}, 12},
		{"flags 0, which is SHA-1", signRequest(key.Blob, []byte("x"), 0), 5},
		{"both flags", signRequest(key.Blob, []byte("x"), 6), 5},
		{"an unknown flag", signRequest(key.Blob, []byte("x"), 8), 5},
		{"SHA-256", signRequest(key.Blob, []byte("x"), 2), 14},
		{"SHA-512", signRequest(key.Blob, []byte("x"), 4), 14},
		{"nothing is signed", signRequest(key.Blob, nil, 2), 14},
		{"1 MiB", signRequest(key.Blob, make([]byte, room), 2), 14},
		{"another key", signRequest(other.Marshal(), []byte("x"), 0), 5},
		{"no key", signRequest(nil, []byte("x"), 2), 5},
		{"half a request", signRequest(key.Blob, []byte("x"), 2)[:20], 5},
		{"version 1", []byte{1}, 5},
		{"add", append([]byte{17}, make([]byte, 100)...), 5},
		{"remove all", []byte{19}, 5},
		{"lock", ssh.Marshal(struct {
			Passphrase []byte `sshtype:"22"`
		}{[]byte("x")}), 5},
		{"extension", ssh.Marshal(struct {
			Type string `sshtype:"27"`
		}{"query"}), 5},
		{"an unknown type", []byte{200, 1, 2, 3}, 5},
		{"list after all that", []byte{11}, 12},
	} {
		if got, err := answerTo(c, frame(tc.message)); err != nil || got != tc.want {
			t.Errorf("%s: %d, %v; want %d", tc.name, got, err, tc.want)
		}
	}
	for name, sent := range map[string][]byte{
		"1 MiB and one byte": frame(signRequest(key.Blob, make([]byte, room+1), 2)),
		"4 GiB":              {255, 255, 255, 255, 13},
		"nothing":            {0, 0, 0, 0},
	} {
		c := s.dial(t)
		if _, err := c.Write(sent[:min(len(sent), 5)]); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(c); !bytes.Equal(answer, []byte{0, 0, 0, 1, 5}) || err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %x, %v", name, answer, err)
		}
	}
	if l := s.signerLines(t, "refusals", 1)[0]; l.User != "uid:0" || l.Outcome != "unauthorized" {
		t.Errorf("%+v", l)
	}
	s.signerLines(t, "signatures", 4)
	must(t, s.DataDir, "audit verify")
	for _, want := range []string{"attestcsr_signer_requests_total{outcome=\"signed\"} 4\n", "attestcsr_signer_connections "} {
		if text := s.Must(200, "GET", "/metrics", ""); !strings.Contains(text, want) {
			t.Errorf("no %q", want)
		}
	}
}

// TestSignerConnections: there are 32 connections. One that sends half a message, or
// nothing, ends after ten seconds, and makes room.
func TestSignerConnections(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, rootSigns, start.Options{})
	var all []net.Conn
	for i := range 32 {
		c := s.dial(t)
		if kind, err := answerTo(c, frame([]byte{11})); err != nil || kind != 12 {
			t.Fatalf("connection %d: %d, %v", i, kind, err)
		}
		all = append(all, c)
	}
	begun := time.Now()
	if _, err := all[1].Write([]byte{0, 0, 0, 100, 13, 0}); err != nil {
		t.Fatal(err)
	}
	deaf := make(chan error)
	go func() { // it asks and never reads
		var err error
		for err == nil {
			_, err = all[2].Write(frame([]byte{11}))
		}
		deaf <- err
	}()
	if _, err := s.client(t).List(); err == nil {
		t.Error("the 33rd connection is served")
	}
	all[0].Close()
	half := all[1]
	kit.Eventually(t, "there is room", func() bool { _, err := s.client(t).List(); return err == nil })
	if err := <-deaf; !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("who never reads: %v", err)
	}
	for _, c := range slices.Delete(all, 0, 3) {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("an idle connection: %d, %v", n, err)
		}
	}
	if n, err := half.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("half a message: %d, %v", n, err)
	}
	if waited := time.Since(begun); waited < 9*time.Second || waited > 40*time.Second {
		t.Errorf("idle connections ended after %s", waited)
	}
	s.WantLog("there are 32 connections already")
	idle := s.dial(t)
	begun = time.Now()
	if err := s.Stop(); err != nil || time.Since(begun) > 5*time.Second {
		t.Errorf("stopped after %s with an idle connection: %v", time.Since(begun), err)
	}
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
}

// TestSignerRate: beyond signing.rate there is a failure, and a signature later.
func TestSignerRate(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, rootSigns, start.Options{Settings: "signing: {rate: 1}\n"})
	key, client := s.theKey(t), s.client(t)
	sign := func() error {
		_, err := client.SignWithFlags(key, []byte("x"), agent.SignatureFlagRsaSha256)
		return err
	}
	made := 0
	for made < 20 && sign() == nil {
		made++
	}
	if made == 0 || made == 20 { // a slow machine makes more than one
		t.Errorf("%d signatures in a row", made)
	}
	s.WantLog("too_many")
	kit.Eventually(t, "there is another one", func() bool { return sign() == nil })
}

// TestSignerReplaced: a client that names a key that was replaced gets no signature, and
// one of the new key when it asks for that.
func TestSignerReplaced(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, rootSigns, start.Options{})
	old, client, data := s.theKey(t), s.client(t), []byte("x")
	sign := func(key *agent.Key) error {
		signature, err := client.SignWithFlags(key, data, agent.SignatureFlagRsaSha256)
		if err == nil {
			err = key.Verify(data, signature)
		}
		return err
	}
	if err := sign(old); err != nil {
		t.Fatal(err)
	}
	setNew(t, s.Instance, kit.NewCA(t, "CA", time.Now()), 204)
	for range 2 {
		if sign(old) == nil {
			t.Error("a key that was replaced signs")
		}
	}
	s.WantLog("this key is replaced")
	current := s.theKey(t)
	if err := sign(current); err != nil || bytes.Equal(current.Blob, old.Blob) {
		t.Error(err)
	}
	s.signerLines(t, "refusals", 0)
}

// TestSignerStop: every signature that a client got has a line, and a stop breaks no
// answer off.
func TestSignerStop(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, rootSigns, start.Options{Settings: "signing: {rate: 100000}\n"})
	key := s.theKey(t)
	var clients errgroup.Group
	var made atomic.Int64
	for range 8 {
		client := s.client(t)
		clients.Go(func() error {
			for {
				_, err := client.SignWithFlags(key, []byte("x"), agent.SignatureFlagRsaSha512)
				switch {
				case err == nil:
					made.Add(1)
				case strings.Contains(err.Error(), "failed"):
					return err
				default:
					return nil // the connection has ended
				}
			}
		})
	}
	kit.Eventually(t, "there are signatures", func() bool { return made.Load() > 50 })
	if err := errors.Join(s.Stop(), clients.Wait()); err != nil {
		t.Error(err)
	}
	s.signerLines(t, "signatures", int(made.Load()))
	must(t, s.DataDir, "audit verify")
}

// TestSignerSocket: a stop removes the socket, and a start replaces the one that a kill
// left. What is not a socket that nobody serves ends the start.
func TestSignerSocket(t *testing.T) {
	t.Parallel()
	s := serveSigner(t, rootSigns, start.Options{})
	if info, err := os.Stat(s.socket); err != nil || info.Mode() != os.ModeSocket|0o666 {
		t.Errorf("%v, %v", info, err)
	}
	s.Kill()
	again := signing{s.Again(), s.socket}
	again.theKey(t)

	refused := func(settings, want string) {
		t.Helper()
		if said := start.Refused(t, start.Options{Binary: start.Binary(t), Settings: "signer:\n  socket: " + settings + "\n"}); !strings.Contains(said, want) {
			t.Errorf("it says %q, want %q", said, want)
		}
	}
	refused(s.socket, "signer.socket: another process serves "+s.socket)
	if err := again.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a stop: %v", err)
	}
	file := kit.Overwrite(t, filepath.Dir(s.socket), "file", "mine")
	refused(file, "signer.socket: "+file+" is there and is no socket")
	refused(file+"/x", "not a directory")
	refused(filepath.Dir(file)+"/none/x", "no such file")
	open := filepath.Join(filepath.Dir(file), "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	refused(open+"/x", "open is accessible to others (mode 0777)")
	if got := string(kit.Read(t, "", file)); got != "mine" {
		t.Errorf("the file holds %q", got)
	}
}

// TestSignerActivation: systemd's socket is served, and left where it is.
func TestSignerActivation(t *testing.T) {
	t.Parallel()
	dir := worldFolder(t)
	socket := filepath.Join(dir, "passed.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	file, err := l.File()
	if err := errors.Join(err, l.Close()); err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	passing := func(names string, files ...*os.File) start.Options {
		return start.Options{
			Binary:   start.Binary(t),
			Settings: "signer:\n  socket: " + socket + "\n  allow: " + rootSigns + "\n",
			Edit: func(cmd *exec.Cmd) { // LISTEN_PID is the number of the process that gets them
				script := fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$@"`, len(files), names)
				cmd.Args = append([]string{"sh", "-c", script, "sh"}, cmd.Args...)
				cmd.Path, cmd.ExtraFiles = "/bin/sh", files
			},
		}
	}
	for _, names := range []string{"signer", "attestcsr-signer.socket"} {
		s := signing{start.Serve(t, passing(names, file)), socket}
		key := s.theKey(t)
		if _, err := s.client(t).SignWithFlags(key, []byte("x"), agent.SignatureFlagRsaSha256); err != nil {
			t.Error(err)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); err != nil {
			t.Error("the socket of systemd is gone:", err)
		}
	}
	off := passing("signer", file)
	off.Settings = ""
	s := start.Serve(t, off)
	s.WantLog("nobody answers on it: set signer.socket")
	if said := start.Refused(t, passing("a:b", file, file)); !strings.Contains(said, "systemd passes 2 sockets") {
		t.Error(said)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcpFile, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcpFile.Close()
	if said := start.Refused(t, passing("signer", tcpFile)); !strings.Contains(said, "signer.socket: systemd passes a socket for tcp") {
		t.Error(said)
	}
}

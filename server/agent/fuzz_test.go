package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"attestcsr/csr"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/sealed"
	"attestcsr/server/agent"
	"attestcsr/server/control"
)

// serve starts a Server for this process and returns the path of its socket.
func serve(f *testing.F) (socket string) {
	f.Helper()
	dir := f.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	log.SetOutput(io.Discard)
	store, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{Logger: quiet})
	if err != nil {
		f.Fatal(err)
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		f.Fatal(err)
	}
	keys, err := keystore.Open(f.Context(), keystore.Options{Store: store, Custodian: custodian, MAC: keystoretest.MAC("records"), Logger: quiet})
	if err != nil {
		f.Fatal(err)
	}
	service, err := csr.New(csr.Config{Keys: keys, KeySizes: []int{2048}, Hostname: "esx-01.example.com", Logger: quiet, Now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	if err := service.Prepare(f.Context()); err != nil {
		f.Fatal(err)
	}
	socket = filepath.Join(dir, "signer.sock")
	l, err := agent.Listen(socket)
	if err != nil {
		f.Fatal(err)
	}
	uid := uint32(os.Geteuid())
	s := agent.New(agent.Options{Service: service, Users: map[uint32][]csr.KeyName{uid: {{}}}, Peer: control.Peer, Logger: quiet})
	s.Start(l)
	f.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			f.Error(err)
		}
		if err := keys.Close(); err != nil {
			f.Error(err)
		}
	})
	return socket
}

// FuzzMessages: whatever a process sends, it gets whole answers of the three kinds, not
// more than it sent messages, and the next one is served.
func FuzzMessages(f *testing.F) {
	socket := serve(f)
	dial := func() *net.UnixConn {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
		if err == nil {
			err = c.SetDeadline(time.Now().Add(20 * time.Second))
		}
		if err != nil {
			f.Fatal(err)
		}
		return c
	}
	listed, err := sshagent.NewClient(dial()).List()
	if err != nil || len(listed) != 1 {
		f.Fatalf("%d keys, %v", len(listed), err)
	}
	frame := func(messages ...[]byte) (all []byte) {
		for _, m := range messages {
			all = append(binary.BigEndian.AppendUint32(all, uint32(len(m))), m...)
		}
		return all
	}
	sign := ssh.Marshal(struct {
		Blob  []byte `sshtype:"13"`
		Data  []byte
		Flags uint32
	}{listed[0].Blob, []byte("data"), 2})
	for _, seed := range [][]byte{
		frame([]byte{11}), frame(sign), frame(sign, []byte{11}, []byte{17, 0, 0, 0, 1}), frame([]byte{27, 0, 0, 0, 1, 'x'}), frame(sign)[:50], frame(sign[:9]), frame(nil),
		{0, 16, 0, 0, 13}, {0, 16, 0, 1, 13}, {255, 255, 255, 255}, frame([]byte{13, 255, 255, 255, 255}), frame(bytes.Repeat([]byte{13}, 200)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := dial()
		defer c.Close()
		go func() {
			_, _ = c.Write(sent) // the other side may have closed
			_ = c.CloseWrite()
		}()
		answers, _ := io.ReadAll(c) // that ends with a reset where something was not read
		for n := 0; len(answers) > 0; n++ {
			if len(answers) < 5 || uint64(len(answers)-4) < uint64(binary.BigEndian.Uint32(answers)) {
				t.Fatalf("half an answer: %x", answers)
			}
			if kind := answers[4]; kind != 5 && kind != 12 && kind != 14 {
				t.Errorf("an answer of type %d", kind)
			}
			if n >= (len(sent)+3)/4 {
				t.Errorf("answer %d to %d bytes", n+1, len(sent))
			}
			answers = answers[4+binary.BigEndian.Uint32(answers):]
		}
		next := dial()
		defer next.Close()
		if keys, err := sshagent.NewClient(next).List(); err != nil || len(keys) != 1 {
			t.Errorf("the next one gets %d keys, %v", len(keys), err)
		}
	})
}

package secrets_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// custody is what a test learns of secrets, and the places in which they may not be.
type custody struct {
	t       *testing.T
	data    string // data_dir
	binary  string
	secrets []secret
	ders    map[string][]byte // PKCS#8 of private keys, by name
	places  map[string][]byte
}

// text notes a secret that is text.
func (c *custody) text(name, text string, allowed ...string) string {
	c.secrets = append(c.secrets, secret{name: name, text: text, allowed: allowed})
	return text
}

// key notes a private key.
func (c *custody) key(name string, der []byte, allowed ...string) {
	if _, known := c.ders[name]; known {
		return
	}
	c.ders[name] = der
	c.secrets = append(c.secrets, secretsOf(c.t, name, der, allowed...)...)
}

// initialPassword notes the password that the service has made.
func (c *custody) initialPassword(s *start.Instance) string {
	return c.text("password of admin", s.InitialPassword(), "data_dir/"+server.InitialPasswordFile, inEchoes)
}

// collect adds to what is searched at a place.
func (c *custody) collect(place string, text []byte) {
	c.places[place] = append(c.places[place], text...)
}

// command runs a command and returns what it prints.
func (c *custody) command(stdin string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(c.binary, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%v: %v %s", args, err, stderr.String())
	}
	c.collect("what commands print", slices.Concat([]byte(strings.Join(args, " ")+"\n"), stdout.Bytes(), stderr.Bytes()))
	return strings.TrimSpace(stdout.String())
}

// collectOutput takes what a service has printed.
func (c *custody) collectOutput(s *start.Instance) {
	c.collect("stdout", []byte(s.Stdout.String()))
	c.collect("stderr", []byte(s.Stderr.String()))
}

// collectFiles takes every file of the data directory as it is now.
func (c *custody) collectFiles() {
	c.t.Helper()
	n := 0
	err := filepath.WalkDir(c.data, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		c.collect("data_dir"+strings.TrimPrefix(path, c.data), content)
		c.collect("names of files", []byte(path+"\n"))
		n++
		return err
	})
	if err != nil || n < 4 {
		c.t.Fatalf("%d files, %v", n, err)
	}
}

// collectProcess takes what the kernel shows of a process.
func (c *custody) collectProcess(pid int) {
	c.t.Helper()
	for _, name := range []string{"cmdline", "environ", "status", "comm"} {
		content := kit.Read(c.t, fmt.Sprintf("/proc/%d", pid), name)
		if len(content) == 0 {
			c.t.Errorf("/proc/PID/%s is empty", name)
		}
		c.collect("/proc/PID/"+name, content)
	}
}

// openKeys opens the store of a service that has ended as its documentation says it
// is made, and takes every private key out of it. The custodian itself gives none
// away.
func (c *custody) openKeys() {
	c.t.Helper()
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(kit.Read(c.t, c.data, server.KeysetFile))))
	if err != nil {
		c.t.Fatal(err)
	}
	primitive, err := aead.New(handle)
	if err != nil {
		c.t.Fatal(err)
	}
	store, err := bolt.Open(filepath.Join(c.data, server.StoreFile), bolt.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer store.Close()
	found := 0
	_, err = store.Inspect(c.t.Context(), func(record keystore.Record, unreadable error) error {
		slot, ref := record.Slot, record.Ref
		if unreadable != nil || len(ref) == 0 {
			return unreadable
		}
		digest := sha256.Sum256(record.Payload)
		var associated []byte
		for _, part := range [][]byte{[]byte("attestcsr private key"), []byte(slot.Collection), []byte(slot.ID), {1}, digest[:]} {
			associated = binary.BigEndian.AppendUint32(associated, uint32(len(part)))
			associated = append(associated, part...)
		}
		der, err := primitive.Decrypt(ref[1:], associated)
		if err != nil {
			return err
		}
		found++
		sum := sha256.Sum256(der)
		c.key(fmt.Sprintf("key of %s (%x)", slot, sum[:4]), der)
		return nil
	})
	if err != nil || found < 3 {
		c.t.Fatalf("%d private keys, %v", found, err)
	}
}

// readKeyset notes the keys of the keyset, and what is left of those that are retired:
// the last 32 bytes of the message of each.
func (c *custody) readKeyset() {
	c.t.Helper()
	var file struct {
		Key []struct{ KeyData struct{ Value []byte } }
	}
	if err := json.Unmarshal(kit.Read(c.t, c.data, server.KeysetFile), &file); err != nil || len(file.Key) == 0 {
		c.t.Fatalf("%d keys, %v", len(file.Key), err)
	}
	for _, k := range file.Key {
		key := k.KeyData.Value[max(0, len(k.KeyData.Value)-32):]
		if len(key) < 32 {
			c.t.Fatalf("a sealing key of %d bytes", len(key))
		}
		if !slices.ContainsFunc(c.secrets, func(one secret) bool { return bytes.Equal(one.bytes, key) }) {
			name := fmt.Sprintf("sealing key (%x)", sha256.Sum256(key))
			c.secrets = append(c.secrets, secret{name: name, bytes: key, allowed: []string{"data_dir/" + server.KeysetFile}})
		}
	}
}

// changeKeys rotates and retires the keys of the keyset.
func (c *custody) changeKeys() {
	c.t.Helper()
	c.command("", "keyset", "rotate", "--data-dir", c.data)
	c.readKeyset()
	c.collectFiles()
	c.command("", "keyset", "rotate", "--data-dir", c.data, "--out", filepath.Join(c.t.TempDir(), "out"))
	c.command("", "keyset", "status", "--data-dir", c.data)
	c.command("", "keyset", "retire", "--data-dir", c.data)
	c.readKeyset()
	c.collectFiles()
	if n := len(slices.DeleteFunc(slices.Clone(c.secrets), func(one secret) bool { return !strings.HasPrefix(one.name, "sealing key") })); n != 3 {
		c.t.Errorf("%d sealing keys, with what is left of one", n)
	}
}

// readServerKey notes the key of the server's certificate.
func (c *custody) readServerKey() {
	c.t.Helper()
	block, _ := pem.Decode(kit.Read(c.t, c.data, server.OwnKeyFile))
	if block == nil {
		c.t.Fatal("no PEM")
	}
	c.key("TLS key", block.Bytes, "data_dir/"+server.OwnKeyFile)
}

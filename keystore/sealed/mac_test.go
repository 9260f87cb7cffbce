package sealed_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"attestcsr/keystore"
	"attestcsr/keystore/sealed"
)

// rawKey takes the key out of a keyset file of one key: the value is a protocol
// buffer whose field 3 has the 32 bytes.
func rawKey(t *testing.T, file string) (id string, key []byte) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var keyset struct {
		Key []struct {
			KeyID   uint32 `json:"keyId"`
			KeyData struct {
				Value string `json:"value"`
			} `json:"keyData"`
		} `json:"key"`
	}
	if err := json.Unmarshal(content, &keyset); err != nil {
		t.Fatal(err)
	}
	value, err := base64.StdEncoding.DecodeString(keyset.Key[0].KeyData.Value)
	if err != nil || len(value) < 32 {
		t.Fatalf("%d bytes, %v", len(value), err)
	}
	return fmt.Sprintf("%08x", keyset.Key[0].KeyID), value[len(value)-32:]
}

func sum(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// TestMAC follows RFC 5869 by hand, with nothing but HMAC.
func TestMAC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := open(t, dir)
	id, raw := rawKey(t, filepath.Join(dir, "keyset.json"))
	mac, err := c.MAC("test 1")
	if err != nil || mac.Primary() != id {
		t.Fatalf("primary %v, %v, want %s", mac, err, id)
	}
	prk := sum([]byte("attestcsr key derivation 1"), string(raw))
	key := sum(prk, "attestcsr test 1", "\x01")
	got, ok := mac.Sum(id, []byte("message"))
	if want := sum(key, "message"); !ok || !bytes.Equal(got[:], want) {
		t.Errorf("%x, want %x", got, want)
	}
	if _, ok := mac.Sum("00000000", []byte("message")); ok {
		t.Error("a key that is not there has a code")
	}
	other, err := c.MAC("test 2")
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := other.Sum(id, []byte("message")); second == got {
		t.Error("two purposes have one key")
	}
	// The same after a restart.
	again, err := open(t, dir).MAC("test 1")
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := again.Sum(id, []byte("message")); second != got {
		t.Error("another key after a restart")
	}

	for _, secret := range [][]byte{raw, prk, key} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			text := fmt.Sprintf(verb+verb, mac, c)
			if strings.Contains(text, hex.EncodeToString(secret)) || strings.Contains(text, string(secret)) ||
				strings.Contains(text, strings.Trim(fmt.Sprint(secret), "[]")) || !strings.Contains(text, "[authentication keys]") {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
}

// rotate gives a keyset another primary key, as tinkey does.
func rotate(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		t.Fatal(err)
	}
	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.AES256GCMSIVKeyTemplate())
	if err == nil {
		err = manager.SetPrimary(id)
	}
	if err != nil {
		t.Fatal(err)
	}
	if handle, err = manager.Handle(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// After a rotation codes of the key before can still be checked.
func TestMACAfterRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old, err := open(t, dir).MAC("test 1")
	if err != nil {
		t.Fatal(err)
	}
	code, _ := old.Sum(old.Primary(), []byte("message"))
	rotate(t, filepath.Join(dir, "keyset.json"))
	c, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json")})
	if err != nil {
		t.Fatal(err)
	}
	mac, err := c.MAC("test 1")
	if err != nil {
		t.Fatal(err)
	}
	if again, ok := mac.Sum(old.Primary(), []byte("message")); !ok || again != code || mac.Primary() == old.Primary() {
		t.Errorf("primary %s, was %s; known %t, the same %t", mac.Primary(), old.Primary(), ok, again == code)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.MAC("test 1"); err == nil || !strings.Contains(err.Error(), keystore.ErrUnavailable.Error()) {
		t.Errorf("after Close: %v", err)
	}
}

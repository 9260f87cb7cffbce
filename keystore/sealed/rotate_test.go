package sealed_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"attestcsr/keystore/sealed"
)

var (
	quiet  = slog.New(slog.DiscardHandler)
	permit = func() error { return nil }
)

func keysetIn(dir string) string { return filepath.Join(dir, "keyset.json") }

// uses says what each key of a custodian is for, in the order of the file.
func uses(c *sealed.Custodian) (ids []string, text string) {
	for _, k := range c.Keys() {
		ids = append(ids, k.ID)
		switch {
		case k.Primary && k.Opens:
			text += "P"
		case k.Opens:
			text += "o"
		default:
			text += "v"
		}
	}
	return ids, text
}

func primary(c *sealed.Custodian) string {
	all := c.Keys()
	return all[slices.IndexFunc(all, func(k sealed.KeyInfo) bool { return k.Primary })].ID
}

func reload(t *testing.T, c *sealed.Custodian, want bool) {
	t.Helper()
	changed, err := c.Reload(permit)
	if err != nil || changed != want {
		t.Fatalf("Reload: changed %t, %v", changed, err)
	}
}

func wantUses(t *testing.T, c *sealed.Custodian, want string) {
	t.Helper()
	if _, got := uses(c); got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
}

func macs(t *testing.T, c *sealed.Custodian) (trail, records *sealed.MAC) {
	t.Helper()
	trail, err := c.MAC(sealed.RetainedPurpose)
	if err != nil {
		t.Fatal(err)
	}
	if records, err = c.MAC("stored records 1"); err != nil {
		t.Fatal(err)
	}
	return trail, records
}

// A custodian and its MACs follow a rotation and a retirement of the file; what was
// made before stays valid as long as it may.
func TestRotateAndRetire(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, c := keysetIn(dir), open(t, dir)
	trail, records := macs(t, c)
	first := records.Primary()
	old, public := bind(t, c, p256, here)
	record, _ := records.Sum(first, []byte("m"))
	line, _ := trail.Sum(first, []byte("m"))

	if err := sealed.Rotate(file, file, quiet); err != nil {
		t.Fatal(err)
	}
	wantUses(t, c, "P") // nothing changes before Reload
	reload(t, c, true)
	wantUses(t, c, "oP")
	reload(t, c, false)
	if records.Primary() == first || !c.Stale(old) {
		t.Errorf("primary %s, stale %t", records.Primary(), c.Stale(old))
	}
	if again, known := records.Sum(first, []byte("m")); !known || again != record {
		t.Error("codes of before do not fit")
	}
	renewed, err := c.Rebind(t.Context(), here, here, old)
	if err != nil || c.Stale(renewed) {
		t.Fatalf("Rebind: %v", err)
	}

	if err := sealed.Retire(file, file, primary(c), quiet); err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	if changed, err := c.Reload(func() error { return refused }); changed || !errors.Is(err, refused) {
		t.Errorf("Reload: changed %t, %v", changed, err)
	}
	wantUses(t, c, "oP")
	reload(t, c, true)
	for name, c := range map[string]*sealed.Custodian{"running": c, "opened again": open(t, dir)} {
		wantUses(t, c, "Pv")
		if _, err := c.Open(t.Context(), here, old); err == nil {
			t.Errorf("%s: a retired key opens", name)
		}
		signer, err := c.Open(t.Context(), here, renewed)
		if err != nil || publicDigest(t, signer.Public()) != publicDigest(t, public) {
			t.Errorf("%s: %v", name, err)
		}
		trail, records := macs(t, c)
		if again, known := trail.Sum(first, []byte("m")); !known || again != line {
			t.Errorf("%s: an old line does not verify", name)
		}
		if _, known := records.Sum(first, []byte("m")); known {
			t.Errorf("%s: a retired key authenticates records", name)
		}
	}
}

// A keyset takes more than one rotation and retirement.
func TestRotateAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, c := keysetIn(dir), open(t, dir)
	for i, want := range []string{"oP", "Pv", "ovP", "vPv"} {
		var err error
		if i%2 == 0 {
			err = sealed.Rotate(file, file, quiet)
		} else {
			err = sealed.Retire(file, file, primary(c), quiet)
		}
		if err != nil {
			t.Fatal(err)
		}
		reload(t, c, true)
		wantUses(t, c, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// A retired key's material is in the file no more.
func TestRetiredKeyIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, c := keysetIn(dir), open(t, dir)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	material := value.FindSubmatch(before)[1]
	if err := sealed.Rotate(file, file, quiet); err != nil {
		t.Fatal(err)
	}
	if err := sealed.Retire(file, file, primary(c), quiet); err == nil || !strings.Contains(err.Error(), "not the one that is in use") {
		t.Errorf("retired for another primary key: %v", err)
	}
	between, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(between, material) {
		t.Fatalf("the key went too early: %v", err)
	}
	reload(t, c, true)
	if err := sealed.Retire(file, file, primary(c), quiet); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file)
	if err != nil || bytes.Contains(after, material) || len(value.FindAll(after, -1)) != 2 {
		t.Errorf("the retired key is in the file: %v", err)
	}
}

func TestOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, out := keysetIn(dir), filepath.Join(dir, "next.json")
	if err := sealed.Create(file); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	if err := sealed.Rotate(file, out, quiet); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Create": sealed.Create(file), "Rotate": sealed.Rotate(file, out, quiet), "Retire": sealed.Retire(file, out, primary(c), quiet),
	} {
		if err == nil || !strings.Contains(err.Error(), "is there already") {
			t.Errorf("%s over a file: %v", name, err)
		}
	}
	same, err := os.ReadFile(file)
	if again, _ := os.ReadFile(out); err != nil || !bytes.Equal(same, whole) || !bytes.Equal(again, written) {
		t.Error("a file was changed")
	}
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := os.Rename(out, file); err != nil {
		t.Fatal(err)
	}
	reload(t, c, true)
	wantUses(t, c, "oP")
	// A file that a link leads to is changed, not the link.
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := sealed.Rotate(link, link, quiet); err != nil {
		t.Fatal(err)
	}
	reload(t, c, true)
	wantUses(t, c, "ooP")
}

// primaryMember says in a keyset file which key is the primary one.
func primaryMember(t *testing.T, id string) []byte {
	t.Helper()
	n, err := strconv.ParseUint(id, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `"primaryKeyId":%d`, n)
}

// What would lose keys is not taken up.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, c := keysetIn(dir), open(t, dir)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := sealed.Rotate(file, file, quiet); err != nil {
		t.Fatal(err)
	}
	reload(t, c, true)
	ids, _ := uses(c)
	second, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(t.TempDir(), "keyset.json")
	if err := sealed.Create(stranger); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(stranger)
	if err != nil {
		t.Fatal(err)
	}
	back := bytes.Replace(second, primaryMember(t, ids[1]), primaryMember(t, ids[0]), 1)
	if bytes.Equal(back, second) {
		t.Fatalf("no primary in %s", value.ReplaceAll(second, nil))
	}
	ref, _ := bind(t, c, p256, here)
	for name, content := range map[string][]byte{
		"the one before": first, "another one": foreign, "an older primary key": back, "cut": second[:len(second)-3],
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		changed, err := c.Reload(permit)
		if err == nil || changed || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: changed %t, %v", name, changed, err)
		} else if strings.Contains(err.Error(), string(value.FindSubmatch(second)[1])) {
			t.Errorf("%s: key material in the error", name)
		}
		wantUses(t, c, "oP")
		if _, err := c.Open(t.Context(), here, ref); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reload(permit); err == nil {
		t.Error("no file, no error")
	}
}

// Keys are sealed and opened, and codes made, while the keyset changes.
func TestReloadWhileInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, c := keysetIn(dir), open(t, dir)
	mac, err := c.MAC("test 1")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			ref, _ := bind(t, c, p256, here)
			for {
				select {
				case <-done:
					return
				default:
				}
				var err error
				if ref, err = c.Rebind(t.Context(), here, here, ref); err != nil {
					t.Error(err)
					return
				}
				id := mac.Primary()
				if _, known := mac.Sum(id, []byte("m")); !known {
					t.Errorf("the primary key %s is not known", id)
				}
			}
		})
	}
	for range 8 {
		if err := sealed.Rotate(file, file, quiet); err != nil {
			t.Fatal(err)
		}
		reload(t, c, true)
	}
	close(done)
	users.Wait()
	if n := len(c.Keys()); n != 9 {
		t.Errorf("%d keys", n)
	}
}

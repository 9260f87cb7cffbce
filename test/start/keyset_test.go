package start_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

var keyMaterial = regexp.MustCompile(`"value":"([^"]+)"`)

// status waits until the status of the keyset says something, and returns it.
func status(t *testing.T, dataDir, args, want string) (out string) {
	t.Helper()
	if !kit.Until(func() bool {
		out = must(t, dataDir, "keyset status"+args)
		return strings.Contains(out, want)
	}) {
		t.Errorf("keyset status does not say %q: %s", want, out)
	}
	return out
}

const (
	needless      = "no record needs the older keys"
	compactionDue = "done but for compaction at the next start"
)

// references returns the sealed keys in a store.
func references(t *testing.T, dataDir string) (refs [][]byte) {
	t.Helper()
	store, err := bolt.Open(filepath.Join(dataDir, server.StoreFile), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Inspect(t.Context(), func(r keystore.Record, unreadable error) error {
		refs = append(refs, r.Ref)
		return unreadable
	})
	if err := errors.Join(err, store.Close()); err != nil || len(refs) == 0 {
		t.Fatalf("%d references, %v", len(refs), err)
	}
	return refs
}

// TestKeyset: keys are rotated and retired beside a running service and without one.
// Nothing is lost, lines say it, and the material of a retired key is in no file.
func TestKeyset(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true})
	csr := s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	start.CopyData(t, s.DataDir, backup)
	sealedBefore := references(t, backup)
	first := keyMaterial.FindStringSubmatch(string(kit.Read(t, s.DataDir, server.KeysetFile)))[1]
	for i, running := range []bool{true, false} {
		if running {
			s = s.Again()
		} else if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		rotateAndRetire(t, s.DataDir, i+1)
		if running {
			if got := s.Must(200, "GET", start.CSRPath, ""); got != csr {
				t.Errorf("%s, was %s", got, csr)
			}
			s.Must(200, "GET", "/readyz", "")
		}
	}
	now := string(kit.Read(t, s.DataDir, server.KeysetFile))
	if strings.Contains(now, first) {
		t.Error("the retired key is in the keyset")
	}
	for _, m := range keyMaterial.FindAllStringSubmatch(now, -1) {
		if text := s.Stdout.String() + s.Stderr.String(); strings.Contains(text, m[1]) || strings.Contains(text, first) {
			t.Error("key material in the log")
		}
	}
	again := s.Again()
	if out := must(t, s.DataDir, "keyset status"); strings.Contains(out, compactionDue) {
		t.Errorf("after the next start: %s", out)
	}
	store := kit.Read(t, s.DataDir, server.StoreFile)
	for _, ref := range sealedBefore {
		if bytes.Contains(store, ref) {
			t.Error("what was sealed with a retired key is still in the store's file")
		}
	}
	if got := again.Must(200, "GET", start.CSRPath, ""); got != csr {
		t.Errorf("%s, was %s", got, csr)
	}
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
	wantOldBackup(t, backup, start.Options{Binary: start.Binary(t), Config: again.Config(), BuiltInAdmin: true}, filepath.Join(s.DataDir, server.KeysetFile))
}

// rotateAndRetire gives a store another sealing key, for the n-th time.
func rotateAndRetire(t *testing.T, dataDir string, n int) {
	t.Helper()
	must(t, dataDir, "keyset rotate")
	status(t, dataDir, "", needless)
	out := must(t, dataDir, "keyset retire")
	if strings.Count(out, "primary") != 1 || strings.Count(out, "verifies older lines") != n || !strings.Contains(out, compactionDue) {
		t.Errorf("keyset retire prints %s", out)
	}
	wantLine(t, dataDir, "keyset.rotate", n)
	wantLine(t, dataDir, "keyset.retire", n)
	must(t, dataDir, "audit verify")
	if out := must(t, dataDir, "store check"); !strings.Contains(out, " 0 problems") {
		t.Errorf("store check prints %s", out)
	}
	if out, exit := command(t, dataDir, "keyset create"); exit != 1 || !strings.Contains(out, "is there, and only its own keyset opens its keys") {
		t.Errorf("keyset create: %d %s", exit, out)
	}
}

// wantOldBackup: a backup opens with the keyset that was kept in it, and not with a later
// one.
func wantOldBackup(t *testing.T, backup string, o start.Options, laterKeyset string) {
	t.Helper()
	mixed := filepath.Join(t.TempDir(), "mixed")
	start.CopyData(t, backup, mixed)
	kit.CopyFile(t, laterKeyset, filepath.Join(mixed, server.KeysetFile))
	o.DataDir = backup
	if err := start.Launch(t, o).WaitReady(); err != nil {
		t.Fatal(err)
	}
	must(t, backup, "audit verify")
	o.DataDir = mixed
	if text := start.Refused(t, o); !strings.Contains(text, "another sealing keyset") {
		t.Errorf("a store with the keyset of another time: %s", text)
	}
}

// secret is a folder as kubelet makes it of a Secret.
type secret struct {
	dir string
	n   int
}

// put swaps a file in for the one before.
func (s *secret) put(t *testing.T, from string) {
	t.Helper()
	s.n++
	next := filepath.Join(s.dir, fmt.Sprint("..", s.n))
	if err := os.Mkdir(next, 0o755); err != nil {
		t.Fatal(err)
	}
	kit.CopyFile(t, from, filepath.Join(next, "keyset.json"))
	kit.Chmod(t, next, "keyset.json", 0o440)
	if err := os.Chown(filepath.Join(next, "keyset.json"), 0, service); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(s.dir, "..data")
	temp := link + "_tmp"
	if err := os.Symlink(filepath.Base(next), temp); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, link); err != nil {
		t.Fatal(err)
	}
}

// TestKeysetInSecret: where the service cannot write the keyset, an operator puts each
// new one in place, and the running service takes it up, unless that would lose keys.
func TestKeysetInSecret(t *testing.T) {
	t.Parallel()
	dir := worldFolder(t)
	mounted := &secret{dir: filepath.Join(dir, "secret")}
	run(t, 0, dir, fmt.Sprintf("mkdir -m 700 data; chown %d:%d data; mkdir -m 700 op; mkdir -m 755 secret; ln -s ..data/keyset.json secret/keyset.json", service, service))
	data, first := filepath.Join(dir, "data"), filepath.Join(dir, "op", "1")
	must(t, data, "keyset create --out "+first)
	mounted.put(t, first)
	config := start.Config(t, "sealing: {keyset_file: "+filepath.Join(mounted.dir, "keyset.json")+"}\n")
	run(t, 0, dir, fmt.Sprintf("cp -r %s etc; chmod -R a+rX etc; sed -i s:%s:%s/etc: etc/config.yaml", filepath.Dir(config), filepath.Dir(config), dir))
	config = filepath.Join(dir, "etc", "config.yaml")
	s := start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: data, Config: config, Edit: as(service)})
	csr := s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	settings := " --config " + config
	for _, verb := range []string{"rotate", "retire"} {
		if verb == "retire" {
			status(t, data, settings, needless)
		}
		out, exit := command(t, data, "keyset "+verb+settings, as(service))
		if exit != 1 || !strings.Contains(out, "keyset "+verb+" --out FILE") {
			t.Errorf("keyset %s: %d %s", verb, exit, out)
		}
		next := filepath.Join(dir, "op", verb)
		must(t, data, "keyset "+verb+settings+" --out "+next)
		if out, exit := command(t, data, "keyset "+verb+settings+" --out "+next); exit != 1 || !strings.Contains(out, "is there already") {
			t.Errorf("keyset %s over a file: %d %s", verb, exit, out)
		}
		mounted.put(t, next)
		wantLine(t, data, "keyset."+verb, 1)
	}
	out := status(t, data, settings, "verifies older lines")
	// The first keyset would lose keys: the one in use stays.
	mounted.put(t, first)
	s.WantLog("the keyset before stays in use")
	status(t, data, settings, "the keyset before stays in use")
	if got := s.Must(200, "GET", start.CSRPath, ""); got != csr {
		t.Errorf("%s, was %s", got, csr)
	}
	mounted.put(t, filepath.Join(dir, "op", "retire"))
	if !kit.Until(func() bool { return must(t, data, "keyset status"+settings) == out }) {
		t.Errorf("the right keyset is not taken up again")
	}
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	must(t, data, "audit verify"+settings)
	if err := exec.Command("grep", "-rqF", keyMaterial.FindStringSubmatch(string(kit.Read(t, "", first)))[1], data).Run(); err == nil {
		t.Error("key material in data_dir")
	}
}

// TestRetirementGoesOn: the start goes on with a retirement that a crash ended, unless
// the primary key is another one since.
func TestRetirementGoesOn(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	must(t, s.DataDir, "keyset rotate")
	primary := strings.Fields(status(t, s.DataDir, "", needless))[1]
	marker := filepath.Join(s.DataDir, server.RetiringFile)
	for _, test := range []struct{ of, want string }{{"00000000", needless}, {primary, compactionDue}} {
		s.Kill()
		if err := os.WriteFile(marker, []byte(test.of), 0o600); err != nil {
			t.Fatal(err)
		}
		s = s.Again()
		kit.Eventually(t, "the retirement is still marked", func() bool {
			_, err := os.Stat(marker)
			return errors.Is(err, os.ErrNotExist)
		})
		status(t, s.DataDir, "", test.want)
	}
	wantLine(t, s.DataDir, "keyset.retire", 1)
}

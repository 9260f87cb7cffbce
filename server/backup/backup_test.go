package backup_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"

	"attestcsr/keystore/ownfile"
	"attestcsr/server/backup"
	"attestcsr/test/kit"
)

func layout() backup.Layout {
	return backup.Layout{
		Store: "store.db", Keyset: "keyset", Trail: "audit", Small: []string{"users"},
		IsTrail: func(name string) bool { return strings.HasSuffix(name, ".jsonl") && !strings.Contains(name, "/") },
	}
}

// contents of a backup, in the order of writing.
var contents = []struct{ name, text string }{
	{"store.db", strings.Repeat("the store ", 7_000)}, {"keyset", "a keyset"}, {"users", ""}, {"audit/a-1.jsonl", "a line\n"}, {"audit/a-2.jsonl", "another\n"},
}

func given() (files []backup.File) {
	for _, c := range contents {
		files = append(files, backup.File{Name: c.name, Size: int64(len(c.text)), Content: strings.NewReader(c.text + "what came later")})
	}
	return files
}

// fixture is a backup in a file, and what opens it.
type fixture struct {
	text     []byte
	manifest backup.Manifest
	identity *age.X25519Identity
	opener   backup.Opener
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{identity: identity, opener: backup.Opener{IdentityFile: kit.Overwrite(t, t.TempDir(), "identity", "# mine\n"+identity.String()+"\n")}}
	var to bytes.Buffer
	m := backup.Manifest{Created: time.Unix(1_700_000_000, 0).UTC(), Hostname: "esx-01", Revision: 7, Records: 3, Keyset: "01234567", Without: []string{"a file"}}
	if f.manifest, err = backup.Write(&to, []age.Recipient{identity.Recipient()}, m, given()); err != nil {
		t.Fatal(err)
	}
	f.text = to.Bytes()
	return f
}

// seal encrypts what a stranger may have written, who knows the recipient.
func (f fixture) seal(t testing.TB, text []byte) []byte {
	t.Helper()
	var to bytes.Buffer
	w, err := age.Encrypt(&to, f.identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Bytes()
}

// wantRefused: neither a check nor a restore takes the file, and nothing of it stays.
func (f fixture) wantRefused(t *testing.T, what string, text []byte) {
	t.Helper()
	dir := t.TempDir()
	file := kit.Overwrite(t, dir, "backup.age", string(text))
	if u, err := backup.Unpack(file, f.opener, layout()); err == nil || u != nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%s: unpacked: %v", what, err)
	}
	folder, err := backup.NewFolder(filepath.Join(dir, "new"), "unfinished", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := folder.Unpack(file, f.opener, layout()); err == nil {
		t.Errorf("%s: restored", what)
	}
	if err := folder.Remove(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%s: left behind: %v, %v", what, entries, err)
	}
}

// TestRoundTrip: what was written comes back, into files without names and into a folder.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	file := kit.Overwrite(t, t.TempDir(), "backup.age", string(f.text))
	u, err := backup.Unpack(file, f.opener, layout())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if !reflect.DeepEqual(u.Manifest, f.manifest) || len(u.Manifest.Files) != len(contents) || !u.Manifest.Has("keyset") || u.Manifest.Has("manifest.json") {
		t.Errorf("%+v, want %+v", u.Manifest, f.manifest)
	}
	store, err := os.ReadFile(backup.Path(u.Store))
	if err != nil || string(store) != contents[0].text || string(u.Keyset) != contents[1].text {
		t.Errorf("%d bytes of the store, keyset %q: %v", len(store), u.Keyset, err)
	}
	if entries, err := fs.ReadDir(u.Trail, "."); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	for range 2 { // each open is its own reader
		if text, err := fs.ReadFile(u.Trail, "a-2.jsonl"); err != nil || string(text) != "another\n" {
			t.Errorf("%q, %v", text, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "new")
	folder, err := backup.NewFolder(dir, "unfinished", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup.NewFolder(dir, "unfinished", ""); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("a restore that has not ended: %v", err)
	}
	if _, err := folder.Unpack(file, f.opener, layout()); err != nil {
		t.Fatal(err)
	}
	kit.Read(t, dir, "unfinished")
	if err := folder.Finish(); err != nil {
		t.Fatal(err)
	}
	for _, c := range contents {
		info, err := os.Stat(filepath.Join(dir, c.name))
		if err != nil || info.Mode() != 0o600 || string(kit.Read(t, dir, c.name)) != c.text {
			t.Errorf("%s: %v, %v", c.name, info, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := backup.NewFolder(dir, "unfinished", ""); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a folder that is not empty: %v", err)
	}
}

// TestDamage: a backup that was cut short or changed is none, wherever that was.
func TestDamage(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tries := 0
	for at := 0; at < len(f.text); at += kit.Effort(1999, 97) {
		f.wantRefused(t, fmt.Sprintf("cut at %d of %d", at, len(f.text)), f.text[:at])
		changed := bytes.Clone(f.text)
		changed[at] ^= 1
		f.wantRefused(t, fmt.Sprintf("byte %d of %d", at, len(f.text)), changed)
		tries += 2
	}
	f.wantRefused(t, "the last byte is missing", f.text[:len(f.text)-1])
	f.wantRefused(t, "a byte more", append(bytes.Clone(f.text), 0))
	kit.Count(t, "damaged backups tried", tries+2)
}

// member is a member of a tar archive.
type member struct {
	tar.Header
	text string
}

func regular(name, text string) member {
	return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text)), Mode: 0o600}, text}
}

func archive(t testing.TB, all ...member) []byte {
	t.Helper()
	var to bytes.Buffer
	w := tar.NewWriter(&to)
	for _, m := range all {
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Bytes()
}

// describing is a manifest of members.
func describing(all ...member) member {
	m := backup.Manifest{Format: 1}
	for _, one := range all {
		sum := sha256.Sum256([]byte(one.text))
		m.Files = append(m.Files, backup.Entry{Name: one.Name, Size: int64(len(one.text)), SHA256: hex.EncodeToString(sum[:])})
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return regular("manifest.json", string(text))
}

// hostile are archives that a stranger may have encrypted for a recipient.
func hostile(t testing.TB) map[string][]byte {
	store, users := regular("store.db", "x"), regular("users", "y")
	odd := func(edit func(*member)) []byte {
		m := regular("users", "")
		edit(&m)
		return archive(t, store, m, describing(store, m))
	}
	manifest := func(text string) []byte { return archive(t, store, regular("manifest.json", text)) }
	all := map[string][]byte{
		"nothing":                   {},
		"no archive":                []byte(strings.Repeat("no archive", 200)),
		"no manifest":               archive(t, store, users),
		"no store":                  archive(t, users, describing(users)),
		"the same name twice":       archive(t, store, store, describing(store, store)),
		"another digest":            archive(t, store, users, describing(store, regular("users", "z"))),
		"a file less":               archive(t, store, describing(store, users)),
		"a file more":               archive(t, store, users, describing(store)),
		"another order":             archive(t, store, users, describing(users, store)),
		"a file after the manifest": archive(t, store, describing(store), users),
		"a second manifest":         archive(t, store, describing(store), describing(store)),
		"something after the end":   append(archive(t, store, describing(store)), 1),
		"zeros after the end":       append(archive(t, store, describing(store)), make([]byte, 512)...),
		"a symbolic link":           odd(func(m *member) { m.Typeflag, m.Linkname = tar.TypeSymlink, "/etc/passwd" }),
		"a hard link":               odd(func(m *member) { m.Typeflag, m.Linkname = tar.TypeLink, "store.db" }),
		"a folder":                  odd(func(m *member) { m.Typeflag = tar.TypeDir }),
		"a device":                  odd(func(m *member) { m.Typeflag = tar.TypeChar }),
		"a pipe":                    odd(func(m *member) { m.Typeflag = tar.TypeFifo }),
		"an extended header":        odd(func(m *member) { m.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"} }),
		"a long small file":         odd(func(m *member) { m.text = strings.Repeat("x", backup.MaxSmall+1); m.Size = int64(len(m.text)) }),
		"a manifest of no format":   manifest(`{"files":[]}`),
		"a newer manifest":          manifest(`{"format":2,"shape":"round"}`),
		"a manifest that is none":   manifest(`[]`),
		"a member twice":            manifest(strings.Replace(describing(store).text, `"format":1`, `"format":1,"format":1`, 1)),
		"an unknown member":         manifest(strings.Replace(describing(store).text, `"format":1`, `"format":1,"x":1`, 1)),
	}
	for _, name := range []string{
		"..", "../x", "/etc/x", "audit/../../x.jsonl", "audit//x.jsonl", "./users", "audit/x/y.jsonl", "audit", "other", "audit/x.db", "users\x00x", "manifest.json/x", "AUDIT/x.jsonl",
	} {
		m := regular(strings.TrimRight(name, "\x00"), "x")
		if strings.Contains(name, "\x00") {
			continue // the format has no such name
		}
		all["the name "+name] = archive(t, store, m, describing(store, m))
	}
	return all
}

func TestHostile(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	all := hostile(t)
	for _, what := range slices.Sorted(maps.Keys(all)) {
		f.wantRefused(t, what, f.seal(t, all[what]))
	}
	kit.Count(t, "hostile backups refused", len(all))
	store := regular("store.db", "x")
	whole := kit.Overwrite(t, t.TempDir(), "whole", string(f.seal(t, archive(t, store, describing(store)))))
	u, err := backup.Unpack(whole, f.opener, layout())
	if err != nil {
		t.Fatalf("the same way, and not hostile: %v", err)
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzArchive: what is taken is what a manifest describes, under names that have a place.
func FuzzArchive(f *testing.F) {
	for _, text := range hostile(f) {
		if len(text) < 64<<10 { // others are slow to change
			f.Add(text)
		}
	}
	var whole bytes.Buffer
	if _, err := backup.WriteArchive(&whole, backup.Manifest{}, given()[1:]); err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Bytes())
	f.Fuzz(func(t *testing.T, text []byte) {
		var taken []backup.Entry
		m, err := backup.ReadArchive(bytes.NewReader(text), layout(), func(name string, content io.Reader) error {
			sum := sha256.New()
			n, err := io.Copy(sum, content)
			taken = append(taken, backup.Entry{Name: name, Size: n, SHA256: hex.EncodeToString(sum.Sum(nil))})
			if dir, base := filepath.Split(name); name != "store.db" && name != "keyset" && name != "users" && (dir != "audit/" || base == ".." || !strings.HasSuffix(base, ".jsonl")) {
				t.Errorf("taken: %q", name)
			}
			return err
		})
		if err == nil && !slices.Equal(m.Files, taken) {
			t.Errorf("%v, and the manifest says %v", taken, m.Files)
		}
	})
}

// TestFolderStays: a restore that fails leaves a folder that was there as it was.
func TestFolderStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	folder, err := backup.NewFolder(dir, "unfinished", "")
	if err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, dir, "store.db", "x")
	if err := folder.Remove(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := backup.NewFolder(filepath.Join(dir, "no", "parent"), "unfinished", ""); err == nil {
		t.Error("a folder in one that is not there")
	}
	if _, err := backup.NewFolder(kit.Overwrite(t, dir, "file", ""), "unfinished", ""); err == nil {
		t.Error("a file")
	}
	if os.Geteuid() != 0 {
		return
	}
	folder, err = backup.NewFolder(filepath.Join(dir, "given"), "unfinished", "54321:54322")
	if err != nil {
		t.Fatal(err)
	}
	kit.Overwrite(t, filepath.Join(dir, "given"), "store.db", "x")
	if err := folder.Finish(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"given", "given/store.db"} {
		if owner, is := ownfile.OwnerOf(os.Stat(filepath.Join(dir, name))); !is || owner.UID != 54321 || owner.GIDs[0] != 54322 {
			t.Errorf("%s: %+v", name, owner)
		}
	}
}

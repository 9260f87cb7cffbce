package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"attestcsr/server/backup"
	"attestcsr/test/kit"
)

const passphrase = "correct horse battery staple"

var at = time.Date(2026, 11, 29, 8, 16, 59, 0, time.FixedZone("", 3600))

// write writes a backup for recipients, as the service does.
func write(recipients []string, to io.Writer) error {
	all, err := backup.Recipients(recipients)
	if err == nil {
		_, err = backup.Write(to, all, backup.Manifest{}, given())
	}
	return err
}

func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// TestPassphrase: the file opens with the passphrase alone, here and for any other program
// that knows age.
func TestPassphrase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := kit.Overwrite(t, dir, "secret", passphrase+"\n")
	to := backup.Destination{File: filepath.Join(dir, "backup.age"), PassphraseFile: secret}
	saved, err := to.Save(at, write)
	if err != nil || saved.File != to.File {
		t.Fatal(saved, err)
	}
	u, err := backup.Unpack(saved.File, backup.Opener{PassphraseFile: secret}, layout())
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Close(); err != nil {
		t.Error(err)
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := age.Decrypt(bytes.NewReader(kit.Read(t, dir, "backup.age")), identity); err != nil {
		t.Errorf("with the library: %v", err)
	}
	f := newFixture(t)
	whole := string(kit.Read(t, dir, "backup.age"))
	costly := strings.Replace(whole, " 16\n", " 30\n", 1)
	if costly == whole {
		t.Fatal("the header does not say how much work it takes")
	}
	for _, c := range []struct {
		what, file string
		with       backup.Opener
		want       string
	}{
		{"another passphrase", saved.File, backup.Opener{PassphraseFile: kit.Overwrite(t, dir, "wrong", passphrase+"!")}, "does not open"},
		{"an identity", saved.File, f.opener, "does not open"},
		{"a passphrase for a recipient's", kit.Overwrite(t, dir, "other.age", string(f.text)), backup.Opener{PassphraseFile: secret}, "does not open"},
		{"too much work", kit.Overwrite(t, dir, "costly.age", costly), backup.Opener{PassphraseFile: secret}, "too much work"},
		{"no passphrase", saved.File, backup.Opener{PassphraseFile: kit.Overwrite(t, dir, "empty", "\n")}, "one line"},
		{"two lines", saved.File, backup.Opener{PassphraseFile: kit.Overwrite(t, dir, "two", "a\nb")}, "one line"},
		{"a long file", saved.File, backup.Opener{PassphraseFile: kit.Overwrite(t, dir, "long", strings.Repeat("x", 65<<10))}, "longer"},
		{"no identity", saved.File, backup.Opener{IdentityFile: secret}, "no identity of age"},
		{"no file", saved.File, backup.Opener{IdentityFile: secret + "x"}, "no such file"},
		{"no backup", saved.File + "x", backup.Opener{PassphraseFile: secret}, "no such file"},
	} {
		if _, err := backup.Unpack(c.file, c.with, layout()); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), passphrase) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	to.PassphraseFile = kit.Overwrite(t, dir, "short", "fifteen letters")
	if _, err := to.Save(at, write); err == nil || !strings.Contains(err.Error(), "16 characters") {
		t.Errorf("a short passphrase: %v", err)
	}
}

// TestRecipients: what is no public key is refused before anything is made, and not quoted.
func TestRecipients(t *testing.T) {
	t.Parallel()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	public := identity.Recipient().String()
	for _, c := range []struct {
		what string
		all  []string
	}{
		{"none", nil}, {"empty", []string{""}}, {"a secret", []string{identity.String()}}, {"half", []string{public[:40]}},
		{"two in one", []string{public + "\n" + public}}, {"many", slices.Repeat([]string{public}, 21)}, {"of ssh", []string{"ssh-ed25519 AAAA"}},
	} {
		dir := t.TempDir()
		to := backup.Destination{File: filepath.Join(dir, "b"), Recipients: c.all}
		if _, err := to.Save(at, write); err == nil || strings.Contains(err.Error(), "AGE-SECRET") || len(names(t, dir)) != 0 {
			t.Errorf("%s: %v, %v", c.what, err, names(t, dir))
		}
	}
	post, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if all, err := backup.Recipients([]string{post.Recipient().String()}); err != nil || len(all) != 1 {
		t.Errorf("post-quantum: %v", err)
	}
}

// TestSave: a file is replaced by a whole backup or stays as it was, and what is no backup
// is not replaced.
func TestSave(t *testing.T) {
	t.Parallel()
	dir, f := t.TempDir(), newFixture(t)
	old := string(f.text)
	to := backup.Destination{File: kit.Overwrite(t, dir, "backup.age", old), Recipients: []string{f.identity.Recipient().String()}}
	secret := kit.Overwrite(t, t.TempDir(), "secret", passphrase)
	failure := errors.New("half-way")
	for _, c := range []struct {
		passphrase string
		write      func([]string, io.Writer) error
		want       string
	}{
		{"", func([]string, io.Writer) error { return failure }, "half-way"},
		{"", func(r []string, to io.Writer) error { return errors.Join(write(r, to), failure) }, "half-way"},
		{secret, func(r []string, to io.Writer) error { return errors.Join(write(r, to), failure) }, "half-way"},
		{secret, func(_ []string, to io.Writer) error { _, err := io.WriteString(to, "no age file"); return err }, "age"},
		{secret, func(r []string, to io.Writer) error { // cut short
			var all bytes.Buffer
			if err := write(r, &all); err != nil {
				return err
			}
			_, err := to.Write(all.Bytes()[:all.Len()-100])
			return err
		}, "corrupted"},
	} {
		to := to
		to.PassphraseFile = c.passphrase
		if _, err := to.Save(at, c.write); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %s: %v", c.want, err)
		}
		if all := names(t, dir); string(kit.Read(t, dir, "backup.age")) != old || len(all) != 1 {
			t.Errorf("the file before is changed, or something is left: %q", all)
		}
	}
	if _, err := to.Save(at, write); err != nil || string(kit.Read(t, dir, "backup.age")) == old {
		t.Errorf("not replaced: %v", err)
	}
	if info, err := os.Stat(to.File); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for name, text := range map[string]string{"empty": "", "short": "age", "other": strings.Repeat("precious ", 10)} {
		to.File = kit.Overwrite(t, dir, name, text)
		if _, err := to.Save(at, write); err == nil || !strings.Contains(err.Error(), "is no backup") || string(kit.Read(t, dir, name)) != text {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range []string{dir, os.DevNull, filepath.Join(dir, "no", "folder")} {
		to.File = path
		if _, err := to.Save(at, write); err == nil {
			t.Errorf("%s was replaced", path)
		}
	}
	if all := names(t, dir); len(all) != 4 {
		t.Errorf("left: %q", all)
	}
}

// TestSeries: the newest of the own files stay, and every file of others. Nothing goes when
// the new one fails.
func TestSeries(t *testing.T) {
	t.Parallel()
	dir, f := t.TempDir(), newFixture(t)
	others := []string{
		"attestcsr-esx-01-old-20200101T000000Z.age", "attestcsr-esx-02-20200101T000000Z.age", "attestcsr-esx-01-20200101T000000Z.age.bak",
		"attestcsr-esx-01-20200101T000000Z", "attestcsr-esx-01-20201301T000000Z.age", "attestcsr-esx-01-.age", "notes", ".attestcsr-backup-1.tmp.bak",
	}
	for _, name := range others {
		kit.Overwrite(t, dir, name, "")
	}
	to := backup.Destination{Dir: dir, Hostname: "esx-01", Keep: 2, Recipients: []string{f.identity.Recipient().String()}}
	var removed []string
	for day := range 4 {
		saved, err := to.Save(at.AddDate(0, 0, day), write)
		if want := fmt.Sprintf("attestcsr-esx-01-202611%02dT071659Z.age", 29+day); err != nil || day < 2 && filepath.Base(saved.File) != want {
			t.Fatalf("%+v, %v, want %s", saved, err, want)
		}
		removed = append(removed, saved.Removed...)
	}
	if want := []string{filepath.Join(dir, "attestcsr-esx-01-20261129T071659Z.age"), filepath.Join(dir, "attestcsr-esx-01-20261130T071659Z.age")}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
	left, young := kit.Overwrite(t, dir, ".attestcsr-backup-1.tmp", "of a command that was killed"), kit.Overwrite(t, dir, ".attestcsr-backup-2.tmp", "of another command")
	if err := os.Chtimes(left, time.Time{}, time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	to.Keep = 1
	if _, err := to.Save(at.AddDate(0, 0, 9), func([]string, io.Writer) error { return errors.New("fails") }); err == nil {
		t.Error("a backup that fails")
	}
	all := names(t, dir)
	for _, name := range append(others, "attestcsr-esx-01-20261201T071659Z.age", "attestcsr-esx-01-20261202T071659Z.age", filepath.Base(young)) {
		if !slices.Contains(all, name) {
			t.Errorf("%s is gone", name)
		}
	}
	if len(all) != len(others)+3 {
		t.Errorf("left: %q", all)
	}
}

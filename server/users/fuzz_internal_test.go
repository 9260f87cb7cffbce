package users

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/handler/auth"
)

// FuzzPasswordFile: a password is the one line of its file, or none at all; what
// is wrong is said with the file's name and without its content.
func FuzzPasswordFile(f *testing.F) {
	for _, seed := range []string{"secret\n", "secret", "secret\r\n", "", "\n", "two\nlines\n", "a\x00b", "\xff\xfe", strings.Repeat("x", 4097), " blank \n", "\r\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		secret, err := readPassword(file)
		if err != nil {
			if secret != nil || !strings.Contains(err.Error(), file) || strings.Contains(strings.ReplaceAll(err.Error(), file, ""), string(content)) && len(content) > 20 {
				t.Fatalf("%q: %q, %v", content, secret, err)
			}
			return
		}
		if len(secret) == 0 || len(secret) > 4096 || bytes.ContainsAny(secret, "\r\n\x00") || !bytes.HasPrefix(content, secret) {
			t.Fatalf("%q gave %q", content, secret)
		}
		if rest := string(content[len(secret):]); len(content) <= 4096 && rest != "" && rest != "\n" && rest != "\r\n" && rest != "\r" {
			t.Fatalf("%q gave %q", content, secret)
		}
	})
}

// FuzzAdminHash: the built-in admin's file gives the hash of one user, admin, or
// an error that names it and says what to do.
func FuzzAdminHash(f *testing.F) {
	const hash = "$2a$04$abcdefghijklmnopqrstuuxLwJ4hRtlJ9rZ9nYk8ZQO7s6r7M5b5K"
	for _, seed := range []string{"admin:" + hash + "\n", "admin:" + hash, "root:" + hash, "admin:", "admin", "", ":", "admin:" + hash + "\nroot:x", "\x00", "admin:$2a$99$x", " admin:x"} {
		f.Add([]byte(seed))
	}
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), AdminHashFile)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Files{DataDir: filepath.Dir(file), Log: log}.readAdminHash()
		if err != nil {
			if got != nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), hash) {
				t.Fatalf("%q, %v", got, err)
			}
			return
		}
		if want, ok := bytes.CutPrefix(bytes.TrimSpace(content), []byte("admin:")); !ok || !bytes.Equal(got, want) {
			t.Fatalf("%q gave %q", content, got)
		}
		// What is no hash lets nobody in.
		if err := bcrypt.CompareHashAndPassword(got, []byte("secret")); err == nil && len(got) != len(hash) {
			t.Fatalf("%q lets the password in", got)
		}
	})
}

// FuzzEdit: of a users file that is right, an edit changes the line of one user and nothing
// else, and the file is right afterwards.
func FuzzEdit(f *testing.F) {
	hash := "$2a$10$" + strings.Repeat("a", 53)
	for _, seed := range []string{"", "HASH", "alice:HASH", "alice:HASH\n", "# alice:HASH\nalice:HASH\n\nbob:HASH", "  \n#", "alicia:HASH\nali:HASH\n", "a b:HASH\n", "alice:HASH\r\n"} {
		f.Add(strings.ReplaceAll(seed, "HASH", hash), "alice")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		before, err := auth.ParseUsers([]byte(text))
		if err != nil || auth.CheckName(name) != nil {
			return
		}
		others := func(text []byte) (lines []string) {
			for line := range strings.Lines(string(text)) {
				if line = strings.TrimSuffix(line, "\n"); !strings.HasPrefix(line, name+":") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		for _, line := range []string{name + ":" + hash, ""} {
			edited := edit([]byte(text), name, line)
			after, err := auth.ParseUsers(edited)
			if err != nil || slices.Contains(after.Names(), name) != (line != "") || !slices.Equal(others(edited), others([]byte(text))) {
				t.Fatalf("%q, of %q %q: %q, %v", text, name, line, edited, err)
			}
			want := slices.DeleteFunc(before.Names(), func(n string) bool { return n == name })
			if got := slices.DeleteFunc(after.Names(), func(n string) bool { return n == name }); !slices.Equal(got, want) {
				t.Fatalf("%q has the users %q, had %q", edited, got, want)
			}
		}
	})
}

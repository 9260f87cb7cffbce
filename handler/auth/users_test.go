package auth_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"attestcsr/handler/auth"
)

// Digests of "secret", by htpasswd -nbB -C 4 and by hand for other prefixes.
const saltAndDigest = "aM9kT1Vv7Vx5ZJYc8nNq1uO0h8J2mXyqk4a9S1b7Ww3dC5eF6gH2i"

func TestParseUsers(t *testing.T) {
	t.Parallel()
	good := "$2y$05$" + saltAndDigest
	tests := []struct {
		name, file string
		err        string // empty: accepted
		users      []string
	}{
		{name: "one user", file: "admin:" + good + "\n", users: []string{"admin"}},
		{name: "no newline at the end", file: "admin:" + good, users: []string{"admin"}},
		{name: "comments, blank lines, order", file: "# users\n\nzoe:" + good + "\n   \n#bob:x\namy:" + good + "\n", users: []string{"amy", "zoe"}},
		{name: "prefixes", file: "a:$2a$04$" + saltAndDigest + "\nb:$2b$17$" + saltAndDigest + "\ny:$2y$10$" + saltAndDigest, users: []string{"a", "b", "y"}},
		{name: "space and umlaut inside a name", file: "Jörg Müller:" + good, users: []string{"Jörg Müller"}},
		{name: "longest name", file: strings.Repeat("n", 255) + ":" + good, users: []string{strings.Repeat("n", 255)}},

		{name: "empty", file: ""},
		{name: "duplicate", file: "a:" + good + "\nb:" + good + "\na:" + good, err: "line 3: this user has a line already"},
		{name: "no colon", file: "a:" + good + "\nadmin\n", err: "line 2: it has no colon"},
		{name: "a colon in the name, as the service's own principals have", file: "system:service:" + good, err: "line 1: the hash is not bcrypt"},
		{name: "no name", file: ":" + good, err: "line 1: it has no user name"},
		{name: "name too long", file: strings.Repeat("n", 256) + ":" + good, err: "line 1: the user name is longer than 255 bytes"},
		{name: "space before name", file: " a:" + good, err: "line 1: the user name begins or ends with a space"},
		{name: "byte order mark", file: "\ufeffa:" + good, err: "line 1: it begins with a byte order mark"},
		{name: "carriage return", file: "a:" + good + "\r\n", err: "line 1: it holds a control character"},
		{name: "NUL", file: "a\x00:" + good, err: "line 1: it holds a control character"},
		{name: "not UTF-8", file: "a\xff:" + good, err: "line 1: it is not UTF-8"},
		{name: "plain text", file: "a:hunter2", err: "line 1: the hash is not bcrypt"},
		{name: "2x", file: "a:$2x$05$" + saltAndDigest, err: "line 1: the hash is not bcrypt"},
		{name: "cost 3", file: "a:$2y$03$" + saltAndDigest, err: "line 1: the cost of the hash is not between 4 and 17"},
		{name: "cost 18", file: "a:$2y$18$" + saltAndDigest, err: "line 1: the cost of the hash is not between 4 and 17"},
		{name: "cost not a number", file: "a:$2y$1x$" + saltAndDigest, err: "line 1: the hash is not bcrypt"},
		{name: "truncated", file: "a:" + good[:59], err: "line 1: the hash is not bcrypt"},
		{name: "character outside the alphabet", file: "a:" + good[:59] + "=", err: "line 1: the hash is not bcrypt"},
		{name: "too large", file: strings.Repeat("#\n", 1<<19) + "#", err: "larger than 1048576 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			users, err := auth.ParseUsers([]byte(tt.file))
			if tt.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := users.Names(); !slices.Equal(got, tt.users) {
					t.Fatalf("names %q, want %q", got, tt.users)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("error %v, want %q", err, tt.err)
			}
			if users != nil {
				t.Fatal("users beside an error")
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "$") {
				t.Fatalf("error %q quotes the hash", err)
			}
		})
	}
}

func TestParseUsersBound(t *testing.T) {
	t.Parallel()
	var file strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&file, "%d:$2y$%02d$%s\n", i, 9+i%4, saltAndDigest)
	}
	users := parse(t, file.String())
	if n, cost := len(users.Names()), users.LowestCost(); n != 10_000 || cost != 9 {
		t.Fatalf("%d users, lowest cost %d, want 10000 and 9", n, cost)
	}
	_, err := auth.ParseUsers([]byte(file.String() + "more:$2y$05$" + saltAndDigest))
	if err == nil || !strings.Contains(err.Error(), "line 10001: there are more than 10000 users") {
		t.Fatalf("error %v", err)
	}
}

func TestHash(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("п", 36) // 72 bytes
	hash, err := auth.Hash(longest)
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost != 10 {
		t.Fatalf("cost %d, %v, want 10", cost, err)
	}
	if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(longest)); err != nil {
		t.Fatal(err)
	}
	parse(t, "admin:"+hash)
	for password, warned := range map[string]bool{longest: true, "пароль78": true, "12345678": false, "a long passphrase ~": false} {
		if warning, err := auth.CheckPassword(password); err != nil || strings.Contains(warning, "not ASCII") != warned {
			t.Errorf("%s: %q, %v", password, warning, err)
		}
	}
	for name, password := range map[string]string{
		"empty": "", "73 bytes": strings.Repeat("x", 73), "not UTF-8": "12345678\xff\xfe",
		"7 characters of 14 bytes": strings.Repeat("п", 7), "byte order mark": "\ufeffsecretpassword12",
	} {
		hash, err := auth.Hash(password)
		if err == nil || hash != "" {
			t.Fatalf("%s: hash %q, error %v", name, hash, err)
		}
		if password != "" && strings.Contains(err.Error(), password) {
			t.Fatalf("%s: the error quotes the password", name)
		}
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte("admin:$2y$05$" + saltAndDigest + "\n"))
	f.Add([]byte("# comment\n\na:$2a$04$" + saltAndDigest + "\nb:$2b$17$" + saltAndDigest))
	f.Add([]byte("a:$2y$05$" + saltAndDigest + "\na:$2y$05$" + saltAndDigest))
	f.Add([]byte("a:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="))
	f.Add([]byte("\u0085:$2y$05$" + saltAndDigest))
	f.Add([]byte("a\x00b:\r\n::"))
	f.Fuzz(func(t *testing.T, file []byte) {
		users, err := auth.ParseUsers(file)
		if err != nil {
			if users != nil {
				t.Fatal("users beside an error")
			}
			for line := range strings.Lines(string(file)) {
				if _, hash, _ := strings.Cut(strings.TrimSpace(line), ":"); len(hash) >= 20 && strings.Contains(err.Error(), hash) {
					t.Fatalf("error %q quotes a hash", err)
				}
			}
			return
		}
		names := users.Names()
		if cost := users.LowestCost(); cost < 4 || cost > 17 {
			t.Fatalf("lowest cost %d", cost)
		}
		for _, name := range names {
			_, header, _ := strings.Cut(basic(name, "password"), ": ")
			if user, password, err := auth.ParseBasic(header); err != nil || user != name || password != "password" {
				t.Fatalf("user %q cannot authenticate: %q, %v", name, user, err)
			}
		}
	})
}

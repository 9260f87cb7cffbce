package auth_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"attestcsr/handler/auth"
)

func TestParseBasic(t *testing.T) {
	t.Parallel()
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	tests := []struct {
		name, header, user, password string
		refused                      bool
	}{
		{name: "usual", header: "Basic " + encode("admin:secret"), user: "admin", password: "secret"},
		{name: "scheme without case", header: "bAsIc " + encode("admin:secret"), user: "admin", password: "secret"},
		{name: "several spaces", header: "Basic   " + encode("admin:secret"), user: "admin", password: "secret"},
		{name: "colon in the password", header: "Basic " + encode("admin:a:b:"), user: "admin", password: "a:b:"},
		{name: "empty password", header: "Basic " + encode("admin:"), user: "admin"},
		{name: "beyond ASCII", header: "Basic " + encode("Jörg:пароль"), user: "Jörg", password: "пароль"},
		{name: "control character in the password", header: "Basic " + encode("admin:a\tb"), user: "admin", password: "a\tb"},
		{name: "longest", header: "Basic " + encode(strings.Repeat("u", 255)+":"+strings.Repeat("p", 1024)), user: strings.Repeat("u", 255), password: strings.Repeat("p", 1024)},

		{name: "nothing", header: "", refused: true},
		{name: "scheme alone", header: "Basic", refused: true},
		{name: "other scheme", header: "Bearer " + encode("admin:secret"), refused: true},
		{name: "tab after the scheme", header: "Basic\t" + encode("admin:secret"), refused: true},
		{name: "not base64", header: "Basic admin:secret", refused: true},
		{name: "URL alphabet", header: "Basic " + base64.URLEncoding.EncodeToString([]byte("a:\xc3\xbf\xc3\xbf>>>")), refused: true},
		{name: "stray bits", header: "Basic YTpiYx==", refused: true},
		{name: "line break inside", header: "Basic YWRt\naW46c2VjcmV0", refused: true},
		{name: "space after", header: "Basic " + encode("admin:secret") + " ", refused: true},
		{name: "no colon", header: "Basic " + encode("admin"), refused: true},
		{name: "empty user", header: "Basic " + encode(":secret"), refused: true},
		{name: "NUL in the user", header: "Basic " + encode("ad\x00min:secret"), refused: true},
		{name: "C1 control in the user", header: "Basic " + encode("ad\u0085min:secret"), refused: true},
		{name: "user not UTF-8", header: "Basic " + encode("\xff:secret"), refused: true},
		{name: "password not UTF-8", header: "Basic " + encode("admin:\xff"), refused: true},
		{name: "user too long", header: "Basic " + encode(strings.Repeat("u", 256)+":p"), refused: true},
		{name: "password too long", header: "Basic " + encode("u:"+strings.Repeat("p", 1025)), refused: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			user, password, err := auth.ParseBasic(tt.header)
			if (err != nil) != tt.refused || user != tt.user || password != tt.password {
				t.Fatalf("%q, %q, %v", user, password, err)
			}
			if encoding := strings.HasSuffix(tt.name, "not UTF-8"); err != nil && strings.Contains(err.Error(), "UTF-8") != encoding {
				t.Fatalf("error %v", err)
			}
		})
	}
}

func FuzzParseBasic(f *testing.F) {
	for _, seed := range []string{"Basic YWRtaW46c2VjcmV0", "basic  Og==", "Basic YTpiYx==", "Bearer x", "Basic", "Basic YQ\n==", "Basic \xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		user, password, err := auth.ParseBasic(header)
		if err != nil {
			if user != "" || password != "" {
				t.Fatal("credentials beside a refusal")
			}
			return
		}
		if user == "" || len(user) > 255 || len(password) > 1024 || !utf8.ValidString(user+password) ||
			strings.ContainsFunc(user, unicode.IsControl) || strings.Contains(user, ":") {
			t.Fatalf("accepted %q, %q", user, password)
		}
		// One text stands for given credentials, so that no two are the same.
		scheme, encoded, _ := strings.Cut(header, " ")
		if want := base64.StdEncoding.EncodeToString([]byte(user + ":" + password)); !strings.EqualFold(scheme, "basic") || strings.TrimLeft(encoded, " ") != want {
			t.Fatalf("accepted %q for %q", header, want)
		}
	})
}

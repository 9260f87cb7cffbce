package auth_test

import (
	"testing"

	"attestcsr/handler/auth"
)

func BenchmarkAuthenticate(b *testing.B) {
	a := newAuth(auth.Config{Users: usersOf(b, "amy", "secret")})
	for name, header := range map[string]string{
		"remembered password": basic("amy", "secret"),
		"session header":      "vmware-api-session-id: " + login(b, a, "amy", "secret", esx),
		"session cookie":      "Cookie: vmware-api-session-id=" + login(b, a, "amy", "secret", esx),
		"nothing":             "Accept: */*",
	} {
		r := request(header)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := a.Authenticate(b.Context(), r, from(here), esx)
				if (err != nil) != (name == "nothing") {
					b.Fatal(err)
				}
			}
		})
	}
}

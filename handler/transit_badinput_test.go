package handler_test

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"attestcsr/test/kit"
)

// vaultErrors reads an error document of the dialect.
func (a answer) vaultErrors(t testing.TB) string {
	t.Helper()
	doc := decode[struct{ Errors []string }](t, a)
	if doc.Errors == nil || a.header.Get("Content-Type") != asJSON || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %s", a.header, a.body)
	}
	return strings.Join(doc.Errors, "; ")
}

type transitBad struct {
	name, path, body string
	method           string // "": POST
	header           http.Header
	status           int // 0: 400
	says             string
}

func badSigns(ca, curve string) []transitBad {
	const at = transitSign + "attestation"
	input := func(members string) string { return `{"input":"YQ==",` + members + `}` }
	long := base64.StdEncoding.EncodeToString(make([]byte, 1<<20+1))
	digests := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	all := []transitBad{
		{name: "no body", path: at, says: "failed to parse JSON input: the body is not a JSON object"},
		{name: "a list", path: at, body: "[]", says: "not a JSON object"},
		{name: "half a body", path: at, body: `{"input":"YQ==`, says: "malformed at byte"},
		{name: "two bodies", path: at, body: `{}{}`, says: "malformed at byte 2"},
		{name: "UTF-16", path: at, body: "\xff\xfe{\x00}\x00", says: "UTF-16"},
		{name: "no input", path: at, body: `{"inptu":"YQ=="}`, says: "missing input"},
		{name: "a number as input", path: at, body: `{"input":1}`, says: "input must be a string, not a number"},
		{name: "input that is no base64", path: at, body: `{"input":"a b"}`, says: "input must be base64"},
		{name: "URL-safe base64", path: at, body: `{"input":"-_-_"}`, says: "input must be base64"},
		{name: "base64 without padding", path: at, body: `{"input":"YQ"}`, says: "input must be base64"},
		{name: "the same member twice", path: at, body: `{"input":"YQ==","input":"Yg=="}`, says: "input occurs more than once"},
		{name: "a byte more than 1 MiB", path: at, body: `{"input":"` + long + `"}`, says: "input must be at most 1048576 bytes"},
		{name: "a body over 2 MiB", path: at, body: `{"input":"` + long + long + `"}`, status: 413, says: "larger than 2097152 bytes"},
		{name: "a yes", path: at, body: input(`"prehashed":"yes"`), says: "prehashed must be true or false, also as a string, not another string"},
		{name: "a number for yes", path: at, body: input(`"prehashed":1`), says: "prehashed must be"},
		{name: "a version with a fraction", path: at, body: input(`"key_version":1.5`), says: "key_version must be an integer"},
		{name: "a version in words", path: at, body: input(`"key_version":"latest"`), says: "key_version must be an integer"},
		{name: "a version that was not yet", path: at, body: input(`"key_version":"2"`), says: "key_version must be one of 1"},
		{name: "another scheme", path: at, body: input(`"signature_algorithm":"rsa"`), says: "signature_algorithm must be pss or pkcs1v15"},
		{name: "another marshaling", path: at, body: input(`"marshaling_algorithm":"der"`), says: "marshaling_algorithm must be asn1 or jws"},
		{name: "a shorter salt", path: at, body: input(`"salt_length":20`), says: "salt_length must be"},
		{name: "a salt for another hash", path: at, body: input(`"salt_length":"32","hash_algorithm":"sha2-512"`), says: "salt_length must be"},
		{name: "several problems", path: at, body: input(`"signature_algorithm":"a","marshaling_algorithm":"b","hash_algorithm":"c"`), says: "hash_algorithm must be sha2-256, sha2-384 or sha2-512; signature_algorithm must be pss or pkcs1v15; marshaling"},
		{name: "an empty batch", path: at, body: `{"batch_input":[]}`, says: "missing batch input to process"},
		{name: "a batch of 101", path: at, body: `{"batch_input":[` + strings.Repeat(`{"input":"YQ=="},`, 100) + `{"input":"YQ=="}]}`, says: "at most 100 entries"},
		{name: "a batch that is none", path: at, body: `{"batch_input":{"input":"YQ=="}}`, says: "batch_input must be a list, not an object"},
		{name: "a batch of texts", path: at, body: `{"batch_input":["YQ==","Yg=="]}`, says: "batch_input[0] must be an object, not a string; batch_input[1] must"},
		{name: "a batch of a great many", path: at, body: `{"batch_input":[` + strings.Repeat("1,", 300_000) + `1]}`, says: "and 4064 more"},
		{name: "the key of a CA", path: transitSign + ca, body: `{"input":"YQ=="}`, says: "key must not sign"},
		{name: "a key that is not there", path: transitSign + "nsx-none", body: `{"input":"YQ=="}`, says: "signing key not found"},
		{name: "a key of no kind", path: transitSign + "web", body: `{"input":"YQ=="}`, says: "signing key not found"},
		{name: "a name with a control character", path: transitSign + "nsx-%00", body: `{"input":"YQ=="}`, says: "signing key not found"},
		{name: "compressed", path: at, body: `{"input":"YQ=="}`, header: headers("Content-Encoding", "gzip"), says: "Content-Encoding"},
	}
	for _, hash := range []string{"sha1", "sha2-224", "sha3-256", "none", "SHA2-256", "sha2-256x"} {
		all = append(all,
			transitBad{name: hash, path: at, body: input(`"hash_algorithm":"` + hash + `"`), says: "hash_algorithm must be"},
			transitBad{name: hash + " in the path", path: at + "/" + hash, body: `{"input":"YQ=="}`, says: "hash_algorithm must be"})
	}
	for _, n := range []int{0, 31, 33, 48, 64} {
		for _, key := range []string{"attestation", curve} {
			all = append(all, transitBad{name: "a digest of another length", path: transitSign + key, body: `{"prehashed":true,"input":"` + digests(n) + `"}`, says: "input, which is prehashed, must be 32 bytes long"})
		}
	}
	return all
}

func badVerifies() []transitBad {
	const at = transitVerify + "attestation"
	input := func(members string) string { return `{"input":"YQ==",` + members + `}` }
	all := []transitBad{
		{name: "no signature", path: at, body: `{"input":"YQ=="}`, says: "missing 'signature'"},
		{name: "an HMAC", path: at, body: input(`"hmac":"vault:v1:YQ=="`), says: "HMACs are not supported"},
		{name: "both", path: at, body: input(`"hmac":"vault:v1:YQ==","signature":"vault:v1:YQ=="`), says: "HMACs are not supported"},
		{name: "a batch of which one has none", path: at, body: `{"batch_input":[{"input":"YQ==","signature":"vault:v1:YQ=="},{"input":"YQ=="}]}`, says: "some elements of batch_input are missing 'signature'"},
		{name: "a version that was not yet", path: at, body: input(`"signature":"vault:v2:YQ=="`), says: "key_version must be from 1 to 1"},
		{name: "no key", path: transitVerify + "nsx-none", body: input(`"signature":"vault:v1:YQ=="`), says: "signing key not found"},
	}
	for _, s := range []string{"", "YQ==", "vault:v1", "vault:1:YQ==", "vault:v0:YQ==", "vault:v-1:YQ==", "vault:v01:YQ==", "vault:v1x:YQ==", "Vault:v1:YQ==", "vault:v99999999999999999999:YQ=="} {
		all = append(all, transitBad{name: "signature " + s, path: at, body: input(`"signature":"` + s + `"`), says: "signature must begin with vault:vN:"})
	}
	for _, s := range []string{"YQ", "-_-_", "YQ== "} {
		all = append(all, transitBad{name: "signature " + s, path: at, body: input(`"signature":"vault:v1:` + s + `"`), says: "signature must be base64"})
	}
	return all
}

// Other paths, methods and headers, and logins.
func badRequests() []transitBad {
	const login = userpassLogin + "admin"
	all := []transitBad{
		{name: "a namespace", path: transitKeys + "/attestation", method: "GET", header: headers("X-Vault-Namespace", "team/"), status: 404, says: "there are no namespaces here"},
		{name: "a namespace at a login", path: login, body: `{"password":"x"}`, header: headers("X-Vault-Namespace", "root"), status: 404, says: "there are no namespaces here"},
		{name: "a read of no key", path: transitKeys + "/nsx-none", method: "GET", status: 404},
		{name: "a read of a name of no kind", path: transitKeys + "/web", method: "GET", status: 404},
		{name: "a list that is none", path: transitKeys, method: "GET", status: 405, says: "unsupported operation"},
		{name: "a list of nothing", path: transitKeys + "?list=false", method: "GET", status: 405, says: "unsupported operation"},
		{name: "a key to make", path: transitKeys + "/new", body: `{"type":"rsa-2048"}`, status: 405, says: "unsupported operation"},
		{name: "a key to delete", path: transitKeys + "/attestation", method: "DELETE", status: 405, says: "unsupported operation"},
		{name: "a sign to read", path: transitSign + "attestation", method: "GET", status: 405, says: "unsupported operation"},
		{name: "no password", path: login, body: `{}`, says: "missing password"},
		{name: "no login", path: login, says: "not a JSON object"},
		{name: "a password that is none", path: login, body: `{"password":["x"]}`, says: "password must be a string"},
		{name: "a wrong password", path: login, body: `{"password":"x"}`, says: "invalid username or password"},
		{name: "an unknown user", path: userpassLogin + "eve", body: `{"password":"x"}`, says: "invalid username or password"},
		{name: "a user that cannot be", path: userpassLogin + "%ff", body: `{"password":"x"}`, says: "invalid username or password"},
		{name: "a long login", path: login, body: `{"password":"` + strings.Repeat("x", 64<<10) + `"}`, status: 413, says: "larger than 65536 bytes"},
	}
	for _, path := range []string{
		"/v1", "/v1/", "/v1/transit", "/v1/transit/", transitKeys + "/", transitKeys + "/attestation/", transitKeys + "/attestation/rotate", transitKeys + "/attestation/config",
		transitSign, transitSign + "/sha2-256", transitSign + "attestation/", transitSign + "attestation/sha2-256/x", transitVerify + "attestation/sha2-256/x",
		"/v1/transit/encrypt/attestation", "/v1/transit/export/signing-key/attestation", "/v1/transit/hmac/attestation", "/v1/transit/backup/attestation", "/v1/sys/mounts",
		"/v1/auth/userpass/login/", "/v1/auth/userpass/login/admin/x", "/v1/auth/token/create", "/V1/transit/keys", "//v1/transit/keys",
	} {
		if strings.HasPrefix(path, "/v1") {
			all = append(all, transitBad{name: "path " + path, path: path, body: "{}", status: 404})
		}
	}
	return all
}

// TestTransitBadInput: a clear error in the form of the dialect, the same for POST and PUT,
// and no signature.
func TestTransitBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	v := s.vault("admin", adminPassword)
	ca, curve := s.nsxKey(t, `"algorithm":"EC","is_ca":true`), s.nsxKey(t, `"algorithm":"EC"`)
	before := strings.Count(s.get("/metrics"), "\n")
	for _, bad := range append(append(badSigns(ca, curve), badVerifies()...), badRequests()...) {
		methods := []string{"POST", "PUT"}
		if bad.method != "" {
			methods = []string{bad.method}
		}
		for _, method := range methods {
			a := s.do(call{method: method, path: bad.path, body: bad.body, raw: true, anonymous: true, lines: together(tokenHeader(v.token), bad.header)})
			status := bad.status
			if status == 0 {
				status = http.StatusBadRequest
			}
			if text := a.vaultErrors(t); a.status != status || !strings.Contains(text, bad.says) || bad.says == "" && text != "" {
				t.Errorf("%s %s: %d %.300s, want %d %s", method, bad.name, a.status, text, status, bad.says)
			}
			if a.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
				t.Errorf("%s: no Allow", bad.name)
			}
		}
	}
	if metrics := s.get("/metrics"); strings.Contains(metrics, `outcome="signed"} 1`) || strings.Count(metrics, "\n") < before {
		t.Error("something was signed")
	}
	if log := s.log.String(); strings.Contains(log, `"level":"ERROR"`) || strings.Contains(log, v.token) {
		t.Error("the log has an error of the service, or a token")
	}
}

// Headers that clients send and that mean nothing here.
func TestTransitHeaders(t *testing.T) {
	t.Parallel()
	v := newStack(t).vault("admin", adminPassword)
	for _, h := range []http.Header{
		headers("X-Vault-Request", "true", "X-Vault-Wrap-TTL", "60s", "X-Vault-MFA", "x", "X-Vault-Policy-Override", "true", "X-Vault-Namespace", ""),
		headers("Content-Type", "text/plain"), headers("Content-Type", "application/json; charset=utf-8"), headers("Content-Encoding", "identity"),
	} {
		a := v.do(call{method: "PUT", path: transitSign + "attestation", raw: true, anonymous: true, body: kit.JSON(map[string]string{"input": "YQ=="}), lines: together(tokenHeader(v.token), h)})
		if a.status != http.StatusOK {
			t.Errorf("%v: %d %s", h, a.status, a.body)
		}
	}
}

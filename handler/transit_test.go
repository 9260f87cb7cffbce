package handler_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// TestTransitSign: every kind of key × hash × scheme × marshaling, of data and of a digest,
// verifies by the library with the public key that a read shows, and by a verify. With one
// bit of the input changed it does not.
func TestTransitSign(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	v := s.vault("admin", adminPassword)
	kinds := map[string]string{
		"attestation": "rsa-2048", s.nsxKey(t, `"key_size":3072`): "rsa-3072", s.nsxKey(t, `"algorithm":"EC","key_size":256`): "ecdsa-p256",
		s.nsxKey(t, `"algorithm":"EC","key_size":384`): "ecdsa-p384", s.nsxKey(t, `"algorithm":"EC","key_size":521`): "ecdsa-p521",
	}
	listed := data[struct{ Keys []string }](t, v, "LIST", transitKeys, "").Keys
	if slices.Sort(listed); !slices.Equal(listed, slices.Sorted(maps.Keys(kinds))) {
		t.Errorf("listed %q", listed)
	}
	message := []byte("what is signed")
	for name, kind := range kinds {
		if key := data[vaultKey](t, v, "GET", transitKeys+"/"+name, ""); key.Name != name || key.Type != kind || key.LatestVersion != 1 || key.MinDecryption != 1 ||
			len(key.Keys) != 1 || !key.Signing || key.Encryption || key.Exportable {
			t.Errorf("read of %s: %+v", name, key)
		}
		public := v.public(t, name, 1)
		for hash, h := range vaultHashes {
			for _, scheme := range []string{"", "pss", "pkcs1v15"} {
				for _, marshaling := range []string{"", "asn1", "jws"} {
					for _, prehashed := range []bool{false, true} {
						digest := digestOf(h, message)
						input := message
						if prehashed {
							input = digest
						}
						body := map[string]any{"input": input, "prehashed": prehashed, "signature_algorithm": scheme, "marshaling_algorithm": marshaling}
						made := data[signed](t, v, "PUT", transitSign+name+"/"+hash, kit.JSON(body))
						if err := check(public, scheme, marshaling, h, digest, made.Signature); err != nil || made.KeyVersion != 1 || !strings.HasPrefix(made.Signature, "vault:v1:") {
							t.Fatalf("%s %s %s %s %v: %v %+v", kind, hash, scheme, marshaling, prehashed, err, made)
						}
						body["signature"] = made.Signature
						if found := data[verified](t, v, "POST", transitVerify+name+"/"+hash, kit.JSON(body)); found.Valid == nil || !*found.Valid {
							t.Errorf("%s %s %s %s %v: not valid", kind, hash, scheme, marshaling, prehashed)
						}
						input = bytes.Clone(input)
						input[0] ^= 1
						body["input"] = input
						if found := data[verified](t, v, "POST", transitVerify+name+"/"+hash, kit.JSON(body)); found.Valid == nil || *found.Valid {
							t.Errorf("%s %s %s %s %v: valid for another input", kind, hash, scheme, marshaling, prehashed)
						}
					}
				}
			}
		}
	}
	if log := s.log.String(); strings.Contains(log, v.token) || !strings.Contains(log, `"dialect":"transit"`) || strings.Contains(log, `"level":"ERROR"`) {
		t.Error("the log has a token, or an error, or nothing of the dialect")
	}
}

// Clients write the same in many ways: a signature by each verifies as PSS with SHA-256,
// unless a member says otherwise.
func TestTransitForms(t *testing.T) {
	t.Parallel()
	v := newStack(t).vault("admin", adminPassword)
	public := v.public(t, "attestation", 1)
	message := []byte("message")
	digest := digestOf(crypto.SHA256, message)
	data64, digest64 := base64.StdEncoding.EncodeToString(message), base64.StdEncoding.EncodeToString(digest)
	for name, body := range map[string]string{
		"input alone":              `{"input":"` + data64 + `"}`,
		"everything as null":       `{"input":"` + data64 + `","prehashed":null,"key_version":null,"hash_algorithm":null,"salt_length":null,"batch_input":null,"signature_algorithm":null,"context":null}`,
		"strings for all":          `{"input":"` + digest64 + `","prehashed":"true","key_version":"0","salt_length":"32"}`,
		"version 1":                `{"input":"` + data64 + `","key_version":1}`,
		"empty strings":            `{"input":"` + data64 + `","prehashed":"","key_version":"","hash_algorithm":"","signature_algorithm":"","marshaling_algorithm":"","salt_length":""}`,
		"members of later clients": `{"input":"` + data64 + `","mount_point":"transit","context":"YQ==","x":{"y":[1]}}`,
		"older name of the hash":   `{"input":"` + data64 + `","algorithm":"sha2-256"}`,
		"a line break":             `{"input":"` + data64[:4] + `\r\n` + data64[4:] + `"}`,
		"salts":                    `{"input":"` + data64 + `","salt_length":32}`,
		"salt as hash":             `{"input":"` + data64 + `","salt_length":"hash"}`,
		"salt auto":                `{"input":"` + data64 + `","salt_length":"auto"}`,
	} {
		for _, path := range []string{transitSign + "attestation", transitSign + "attestation/sha2-256"} {
			a := v.send("POST", path, body)
			if a.status != http.StatusOK {
				t.Errorf("%s: %d %s", name, a.status, a.body)
				continue
			}
			if err := check(public, "pss", "", crypto.SHA256, digest, decode[secret[signed]](t, a).Data.Signature); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	// The hash in the path counts before that in the body.
	made := data[signed](t, v, "POST", transitSign+"attestation/sha2-512", `{"input":"`+data64+`","hash_algorithm":"sha2-384","algorithm":"sha2-256"}`)
	if err := check(public, "pss", "", crypto.SHA512, digestOf(crypto.SHA512, message), made.Signature); err != nil {
		t.Error(err)
	}
	// One MiB of data is the longest.
	long := bytes.Repeat([]byte("x"), 1<<20)
	made = data[signed](t, v, "POST", transitSign+"attestation", kit.JSON(map[string]any{"input": long}))
	if err := check(public, "pss", "", crypto.SHA256, digestOf(crypto.SHA256, long), made.Signature); err != nil {
		t.Error(err)
	}
	if a := v.send("POST", transitSign+"attestation", kit.JSON(map[string]any{"input": append(long, 'x')})); a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "1048576 bytes") {
		t.Errorf("a byte more: %d %s", a.status, a.body)
	}
}

func TestTransitBatch(t *testing.T) {
	t.Parallel()
	v := newStack(t).vault("admin", adminPassword)
	public := v.public(t, "attestation", 1)
	one := digestOf(crypto.SHA256, []byte("a"))
	made := data[batch[signed]](t, v, "PUT", transitSign+"attestation", `{"input":"ignored","batch_input":[{"input":"YQ==","reference":"first"},{"input":"!","reference":"second"},{},null,{"input":""}]}`).Results
	if len(made) != 5 || made[0].Reference != "first" || made[1].Reference != "second" || made[0].KeyVersion != 1 || check(public, "", "", crypto.SHA256, one, made[0].Signature) != nil ||
		made[1].Signature != "" || !strings.Contains(made[1].Error, "base64") || made[2].Error != "missing input" || made[3].Error != "missing input" || made[4].Signature == "" {
		t.Fatalf("%+v", made)
	}
	found := data[batch[verified]](t, v, "PUT", transitVerify+"attestation", kit.JSON(map[string]any{"batch_input": []map[string]string{
		{"input": "YQ==", "signature": made[0].Signature, "reference": "good"}, {"input": "Yg==", "signature": made[0].Signature}, {"input": "YQ==", "signature": "x"},
	}})).Results
	if len(found) != 3 || !*found[0].Valid || found[0].Reference != "good" || *found[1].Valid || *found[2].Valid || !strings.Contains(found[2].Error, "vault:v") {
		t.Fatalf("%+v", found)
	}
	// As in Vault, the answer is 200 also where nothing was signed.
	if none := data[batch[signed]](t, v, "PUT", transitSign+"attestation", `{"batch_input":[{"input":"!"}]}`).Results; len(none) != 1 || none[0].Error == "" {
		t.Errorf("%+v", none)
	}
	whole := `{"batch_input":[` + strings.Repeat(`{"input":"YQ=="},`, 99) + `{"input":"YQ=="}]}`
	made = data[batch[signed]](t, v, "PUT", transitSign+"attestation", whole).Results
	for i, m := range made {
		if err := check(public, "", "", crypto.SHA256, one, m.Signature); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(made) != 100 {
		t.Errorf("%d results", len(made))
	}
}

// What is signed while the key is replaced says with which version.
func TestTransitVersions(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{freshKeys: true})
	v := s.vault("admin", adminPassword)
	first := data[signed](t, v, "POST", transitSign+"attestation", `{"input":"YQ=="}`)
	request := s.createCSR(validSpec)
	chain := issueFor(t, newTestCA(t), request)
	for range 2 { // the second is a renewal
		if a := s.do(call{method: "PUT", path: certificatePath, body: kit.JSON(map[string]string{"certificate": chain})}); a.status != http.StatusNoContent {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	second := data[signed](t, v, "POST", transitSign+"attestation", `{"input":"YQ==","key_version":2}`)
	if first.KeyVersion != 1 || second.KeyVersion != 2 || !strings.HasPrefix(second.Signature, "vault:v2:") {
		t.Fatalf("%+v %+v", first, second)
	}
	key := data[vaultKey](t, v, "GET", transitKeys+"/attestation", "")
	if key.LatestVersion != 2 || len(key.Keys) != 2 || key.MinDecryption != 1 || key.Keys["2"].Chain == "" {
		t.Errorf("%+v", key)
	}
	for version, made := range map[int]signed{1: first, 2: second} {
		if err := check(v.public(t, "attestation", version), "", "", crypto.SHA256, digestOf(crypto.SHA256, []byte("a")), made.Signature); err != nil {
			t.Errorf("version %d: %v", version, err)
		}
		if found := data[verified](t, v, "POST", transitVerify+"attestation", kit.JSON(map[string]string{"input": "YQ==", "signature": made.Signature})); !*found.Valid {
			t.Errorf("version %d is not valid", version)
		}
	}
	if swapped := data[verified](t, v, "POST", transitVerify+"attestation", kit.JSON(map[string]string{"input": "YQ==", "signature": strings.Replace(first.Signature, "v1", "v2", 1)})); *swapped.Valid {
		t.Error("valid under another version")
	}
	for _, version := range []string{"1", "3", "-1", `"1"`} {
		a := v.send("POST", transitSign+"attestation", `{"input":"YQ==","key_version":`+version+`}`)
		if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "key_version must be one of 2") {
			t.Errorf("version %s: %d %s", version, a.status, a.body)
		}
	}
}

func TestTransitRate(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{rate: 2})
	v := s.vault("admin", adminPassword)
	body := `{"batch_input":[{"input":"YQ=="},{"input":"YQ=="},{"input":"YQ=="},{"input":"YQ=="},{"input":"YQ=="},{"input":"YQ=="}]}`
	data[batch[signed]](t, v, "POST", transitSign+"attestation", body)
	a := v.send("POST", transitSign+"attestation", `{"input":"YQ=="}`)
	if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); a.status != http.StatusTooManyRequests || err != nil || seconds < 1 || seconds > 10 || !strings.Contains(string(a.body), "signing.rate") {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := v.send("GET", transitKeys+"/attestation", ""); a.status != http.StatusOK {
		t.Errorf("a read beyond the rate: %d", a.status)
	}
}

// A token lasts as long as sessions do, and any use renews it.
func TestTransitTokens(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	s := newStack(t, func(c *handler.Config) {
		c.Auth = newAuth(auth.Config{Users: users(t, "admin", adminPassword), Privileges: privileges, Now: clock.Now, IdleTimeout: time.Hour, Lifetime: 90 * time.Minute})
	})
	v := s.vault("admin", adminPassword)
	type token struct {
		ID         string
		Policies   []string
		Meta       map[string]string
		ExpireTime time.Time `json:"expire_time"`
	}
	look := func(v vault) (found token, status int) {
		a := v.send("GET", lookupPath, "")
		if a.status != http.StatusOK {
			return found, a.status
		}
		found.ID, found.Policies = "", nil
		all := decode[secret[map[string]any]](t, a)
		found.ID, _ = (*all.Data)["id"].(string)
		found.ExpireTime, _ = time.Parse(time.RFC3339Nano, (*all.Data)["expire_time"].(string))
		return found, a.status
	}
	before, _ := look(v)
	clock.Advance(45 * time.Minute)
	if a := v.send("PUT", "/v1/auth/token/renew-self", `{"increment":"24h"}`); a.status != http.StatusOK || decode[secret[struct{}]](t, a).Auth.ClientToken != v.token {
		t.Fatalf("renew: %d %s", a.status, a.body)
	}
	after, _ := look(v)
	if before.ID != v.token || after.ExpireTime.Sub(before.ExpireTime) != 30*time.Minute { // of its life, not of its idle time
		t.Errorf("before %v, after %v", before.ExpireTime, after.ExpireTime)
	}
	other := s.vault("admin", adminPassword)
	if a := other.send("POST", "/v1/auth/token/revoke-self", ""); a.status != http.StatusNoContent || len(a.body) > 0 {
		t.Errorf("revoke: %d %s", a.status, a.body)
	}
	clock.Advance(50 * time.Minute)
	for name, gone := range map[string]vault{"revoked": other, "over": v} {
		if _, status := look(gone); status != http.StatusForbidden {
			t.Errorf("%s: %d", name, status)
		}
		a := gone.send("POST", transitSign+"attestation", `{"input":"YQ=="}`)
		if a.status != http.StatusForbidden || string(a.body) != `{"errors":["permission denied"]}` || a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s: %d %v %s", name, a.status, a.header, a.body)
		}
	}
}

func TestTransitHealth(t *testing.T) {
	t.Parallel()
	var broken error
	s := newStack(t, func(c *handler.Config) {
		c.Version = "1.2.3"
		c.Ready = func(context.Context) error { return broken }
	})
	for _, test := range []struct {
		err    error
		query  string
		status int
		says   string
	}{
		{nil, "", 200, `"sealed":false,"standby":false,`},
		{nil, "?standbyok=true&activecode=204&sealedcode=299", 204, ""},
		{nil, "?activecode=500", 400, `{"errors":["activecode must be a status from 200 to 499"]}`},
		{errors.New("no disk"), "?sealedcode=x", 400, `{"errors":["sealedcode must be a status from 200 to 599"]}`},
		{errors.New("no disk"), "", 503, `"sealed":true,`},
		{errors.New("no disk"), "?activecode=204&sealedcode=299", 299, `"version":"1.2.3","cluster_name":"attestcsr"`},
	} {
		broken = test.err
		for _, method := range []string{"GET", "HEAD"} {
			a := s.do(call{method: method, path: transitHealth + test.query, anonymous: true, raw: true})
			if a.status != test.status || method == "GET" && !strings.Contains(string(a.body), test.says) || strings.Contains(string(a.body), "no disk") {
				t.Errorf("%s %s, %v: %d %s", method, test.query, test.err, a.status, a.body)
			}
		}
	}
}

// Keys are of those who may use them, and the names of others are not told.
func TestTransitLists(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	name := s.nsxKey(t, `"algorithm":"EC","key_size":256`)
	s.nsxKey(t, `"algorithm":"EC","key_size":256,"is_ca":true`) // never signs
	for user, test := range map[string]struct {
		password string
		keys     []string
	}{
		"admin": {adminPassword, []string{"attestation", name}}, "viewer": {viewerPassword, []string{name}}, "hosts": {hostsPassword, []string{"attestation"}},
	} {
		v := s.vault(user, test.password)
		if got := data[struct{ Keys []string }](t, v, "GET", transitKeys+"?list=true", "").Keys; !slices.Equal(got, test.keys) {
			t.Errorf("%s: %q", user, got)
		}
		if a := v.send("POST", transitSign+name, `{"input":"YQ=="}`); (a.status == http.StatusOK) != (user == "admin") {
			t.Errorf("%s signs: %d %s", user, a.status, a.body)
		}
	}
	empty := newStack(t, func(c *handler.Config) {
		c.Auth = newAuth(auth.Config{Users: users(t, "viewer", viewerPassword), Privileges: func(string) []csr.Privilege { return []csr.Privilege{csr.PolicyCertificateRead} }})
	}).vault("viewer", viewerPassword)
	if a := empty.send("LIST", transitKeys, ""); a.status != http.StatusNotFound || string(a.body) != `{"errors":[]}` {
		t.Errorf("an empty list: %d %s", a.status, a.body)
	}
}

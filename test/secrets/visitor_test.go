package secrets_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// visitor does what clients do, well and badly, and keeps all that it is told.
type visitor struct {
	*custody
	s              *start.Instance
	user, password string
	// After login: of the ESX dialect, of the NSX dialect, and of that of Vault.
	id, cookie, token, vault string
}

// send sends a request, as the user unless an edit says otherwise, and keeps the
// answer as one of the place.
func (v *visitor) send(place, method, path, body string, edits ...start.Edit) start.Answer {
	v.t.Helper()
	a, err := v.s.Do(method, path, body, append([]start.Edit{start.As(v.user, v.password)}, edits...)...)
	if err != nil {
		v.t.Fatal(err)
	}
	v.collect(place, fmt.Appendf(nil, "%d %v\n%s\n", a.Status, a.Header, a.Body))
	return a
}

// ok is send for a request that has to succeed.
func (v *visitor) ok(method, path, body string, edits ...start.Edit) string {
	v.t.Helper()
	a := v.send("answers", method, path, body, edits...)
	if a.Status >= 300 {
		v.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	return a.Body
}

// fails is send for a request that must not succeed.
func (v *visitor) fails(place, method, path, body string, edits ...start.Edit) {
	v.t.Helper()
	if a := v.send(place, method, path, body, edits...); a.Status < 400 || a.Status == 500 {
		v.t.Errorf("%s %.80s: %d", method, path, a.Status)
	}
}

// headers sends a request without credentials but those among the given header fields.
func headers(namesAndValues ...string) start.Edit {
	return func(r *http.Request) {
		start.Anonymous(r)
		for i := 0; i < len(namesAndValues); i += 2 {
			if namesAndValues[i] == "Content-Type" {
				r.Header.Del("Content-Type")
			}
			r.Header.Add(namesAndValues[i], namesAndValues[i+1])
		}
	}
}

// esx and nsx send a request with the session of a dialect.
func (v *visitor) esx() start.Edit { return start.Session(v.id) }

func (v *visitor) nsx() start.Edit {
	return headers("Cookie", "JSESSIONID="+v.cookie, "X-XSRF-TOKEN", v.token)
}

// login makes a session of each kind.
func (v *visitor) login() {
	v.t.Helper()
	made := v.send(inLogins, "POST", start.SessionPath, "")
	if err := json.Unmarshal([]byte(made.Body), &v.id); err != nil || v.id == "" {
		v.t.Fatalf("login: %d %v", made.Status, err)
	}
	v.text("session id", v.id, inLogins, inEchoes)
	older := v.send(inLogins, "POST", "/rest/com/vmware/cis/session", "")
	v.text("session id of /rest", start.Member(v.t, older.Body, "value"), inLogins, inEchoes)
	made = v.send(inLogins, "POST", start.NSXLogin, form(v.user, v.password), headers("Content-Type", start.FormType))
	cookies := (&http.Response{Header: made.Header}).Cookies()
	if len(cookies) != 1 {
		v.t.Fatalf("login: %d %v", made.Status, cookies)
	}
	v.cookie = v.text("JSESSIONID", cookies[0].Value, inLogins, inEchoes)
	v.token = v.text("XSRF token", made.Header.Get("X-XSRF-TOKEN"), inLogins, inEchoes)
	made = v.send(inLogins, "POST", "/v1/auth/userpass/login/"+v.user, kit.JSON(map[string]string{"password": v.password}))
	var answer struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	if err := json.Unmarshal([]byte(made.Body), &answer); err != nil || answer.Auth.Token == "" {
		v.t.Fatalf("login: %d %v", made.Status, err)
	}
	v.vault = v.text("token of Vault's dialect", answer.Auth.Token, inLogins, inEchoes)
}

func form(user, password string) string {
	return url.Values{"j_username": {user}, "j_password": {password}}.Encode()
}

// work goes through every operation of both dialects, in the session of each.
func (v *visitor) work() {
	v.t.Helper()
	request, err := kit.ParseCSR(start.Member(v.t, v.ok("POST", start.CSRPath, start.ValidSpec), "csr"))
	if err != nil {
		v.t.Fatal(err)
	}
	leaf := kit.NewCA(v.t, "CA", time.Now()).Issue(v.t, "esx-01.example.com", request.PublicKey)
	v.ok("PUT", start.CertificatePath, kit.JSON(map[string]string{"certificate": kit.PEM(leaf)}))
	v.ok("GET", start.CertificatePath, "")
	v.ok("POST", start.CSRPath, start.ValidSpec)
	v.ok("GET", start.CSRPath, "", v.esx())
	for id, size := range map[string]string{"one": "256", "two": "384", "three": "521"} {
		v.send("answers", "DELETE", start.NSXCSRs+"/"+id, "") // of a life before
		v.ok("POST", start.NSXCSRs+"/"+id+"?action=create", strings.Replace(start.ECSpec("a.example.com"), "256", size, 1))
	}
	v.ok("POST", start.NSXCSRs+"/one?action=self_sign", "")
	v.ok("POST", start.NSXCSRs+"?action=self_sign", start.ECSpec("a.example.com"))
	v.ok("GET", start.NSXCSRs+"/two/pem-file", "")
	v.ok("GET", start.NSXCSRs, "", v.nsx())
	v.ok("GET", start.NSXCertificates, "", v.nsx())
	v.ok("GET", start.SessionPath, "", v.esx())
	// These two answer with the token of who asks.
	v.send(inLogins, "GET", "/v1/auth/token/lookup-self", "", headers("X-Vault-Token", v.vault))
	v.send(inLogins, "POST", "/v1/auth/token/renew-self", "", headers("Authorization", "Bearer "+v.vault))
	v.ok("GET", "/v1/transit/keys?list=true", "", headers("X-Vault-Token", v.vault))
	v.ok("POST", "/v1/transit/sign/attestation", `{"input":"YQ=="}`, headers("X-Vault-Token", v.vault))
	v.ok("GET", "/metrics", "")
	v.ok("GET", "/readyz", "")
}

// blunder sends secrets where they do not belong: every way of getting something
// wrong that people and programs have.
func (v *visitor) blunder() {
	v.t.Helper()
	v.sendWrongCredentials()
	// The answer quotes some of these to who sent it; nobody else is to learn it. Ids
	// of objects are left out: whose they are, the log says.
	for _, text := range []string{v.password, v.id, v.token, v.vault} {
		v.sendInBodies(text)
		v.sendInPaths(text)
	}
}

// sendWrongCredentials sends wrong passwords, few enough not to be throttled, logins
// that are no forms, and credentials in the wrong place or of the wrong kind.
func (v *visitor) sendWrongCredentials() {
	v.t.Helper()
	guess := v.text("guessed password", "guess"+rand.Text())
	v.fails("answers", "GET", start.CSRPath, "", start.As(v.user, guess))
	v.fails("answers", "GET", start.NSXCSRs, "", start.As(v.password, "x"))
	v.fails("answers", "POST", start.SessionPath, "", start.As(v.id, v.cookie))
	isForm := headers("Content-Type", start.FormType)
	v.fails("answers", "POST", start.NSXLogin, form(v.password, v.user), isForm)
	v.fails("answers", "POST", start.NSXLogin, form(v.user, guess), isForm)
	v.fails("answers", "POST", start.NSXLogin, form(v.user, v.password), headers("Content-Type", "text/plain"))
	v.fails("answers", "POST", start.NSXLogin+"?"+form(v.user, v.password), "", isForm)
	v.fails("answers", "POST", start.NSXLogin, form(v.user, v.password)+"&%zz="+v.password, isForm)
	v.fails("answers", "POST", start.NSXLogin, url.QueryEscape(v.password)+"=1", isForm)
	escaped := url.QueryEscape(v.password)
	for _, h := range [][]string{
		{"Authorization", "Basic " + v.user + ":" + escaped}, {"Authorization", "Bearer " + v.id}, {"Authorization", v.id},
		{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(v.user+":"+v.password)), "Authorization", "x"},
		{"vmware-api-session-id", v.cookie}, {"vmware-api-session-id", escaped}, {"Cookie", "vmware-api-session-id=" + v.token},
		{"Cookie", "JSESSIONID=" + v.id, "X-XSRF-TOKEN", v.cookie}, {"X-XSRF-TOKEN", v.token}, {"X-Api-Key", v.id, "Proxy-Authorization", "Basic " + v.id},
	} {
		v.fails("answers", "GET", start.CSRPath, "", headers(h...))
		v.fails("answers", "GET", start.NSXCSRs, "", headers(h...))
	}
	v.fails("answers", "POST", start.NSXCSRs+"/x?action=create", "", headers("Cookie", "JSESSIONID="+v.cookie, "X-XSRF-TOKEN", v.id))
}

// sendInBodies sends a text in bodies that are refused.
func (v *visitor) sendInBodies(text string) {
	v.t.Helper()
	quoted := kit.JSON(text)
	for _, body := range []string{
		`{"organization":` + quoted, `{"organization":[` + quoted + `]}`, `{` + quoted + `:1}`, quoted, text,
		`{"organization":` + quoted + `,"organization":1}`, strings.Replace(start.ValidSpec, `"US"`, quoted, 1),
		strings.Replace(start.ValidSpec, `"pki@example.com"`, quoted, 1), strings.Replace(start.ValidSpec, "}", `,"subject_alt_name":[" ",`+quoted+`]}`, 1),
		`{"certificate":` + quoted + `}`, `{"pem_encoded":` + quoted + `}`, strings.Repeat(" ", 64<<10) + quoted,
		`{"subject":{"attributes":[{"key":` + quoted + `,"value":"x"}]}}`, `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":` + quoted + `}`,
		`{"subject":{"attributes":[{"key":"CN","value":"x"}]},"key_size":` + quoted + `}`, `{"tags":{` + quoted + `:1}}`,
	} {
		v.fails(inEchoes, "POST", start.CSRPath, body)
		v.fails(inEchoes, "PUT", start.CertificatePath, body)
		v.fails(inEchoes, "POST", start.NSXCSRs+"/x?action=create", body)
		v.fails(inEchoes, "POST", start.NSXCSRs+"/two?action=import", body)
		v.fails(inEchoes, "POST", start.NSXCSRs+"/two?action=upload", body, start.Header("Content-Type", "multipart/form-data; boundary="+v.id[:32]))
		v.fails(inEchoes, "POST", "/v1/transit/sign/attestation", body, headers("X-Vault-Token", v.vault))
	}
}

// sendInPaths sends a text in paths, parameters and a header field.
func (v *visitor) sendInPaths(text string) {
	v.t.Helper()
	escaped := url.QueryEscape(text)
	for _, path := range []string{
		start.CSRPath + "?" + escaped, start.CSRPath + "?" + escaped + "=1", start.CSRPath + "?x=" + escaped, start.CSRPath + "?x=%zz" + escaped,
		start.NSXCSRs + "?page_size=" + escaped, start.NSXCSRs + "?sort_by=" + escaped, start.NSXCSRs + "?sort_ascending=" + escaped,
		start.NSXCSRs + "?cursor=" + escaped, start.NSXCSRs + "?included_fields=" + escaped,
		"/api/session/" + url.PathEscape(text), "/policy/" + url.PathEscape(text), "/v1/transit/keys/" + url.PathEscape(text),
	} {
		v.fails(inEchoes, "GET", path, "")
	}
	v.fails(inEchoes, "POST", "/v1/transit/sign/attestation/"+url.PathEscape(text), "{}", headers("X-Vault-Token", v.vault))
	v.fails(inEchoes, "LIST", "/v1/transit/keys", "", headers("X-Vault-Token", v.vault, "X-Vault-Namespace", url.PathEscape(text)))
	v.fails(inEchoes, "POST", start.NSXCSRs+"/two?action="+escaped, "")
	v.fails(inEchoes, "POST", start.NSXCSRs+"/two?action=self_sign&days_valid="+escaped, "")
	v.fails(inEchoes, "POST", "/rest/com/vmware/cis/session?~action="+escaped, "")
	v.fails(inEchoes, "POST", start.CSRPath, start.ValidSpec, start.Header("Content-Type", "text/"+text))
}

// sendKey sends a private key where a certificate belongs. No answer quotes it.
func (v *visitor) sendKey() {
	v.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		v.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		v.t.Fatal(err)
	}
	v.key("a client's own private key, sent to "+filepath.Base(v.s.DataDir)+v.user, der)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	quoted := kit.JSON(text)
	for _, body := range []string{
		`{"certificate":` + quoted + `}`, `{"pem_encoded":` + quoted + `}`, text, `{"private_key":` + quoted + `}`,
		strings.Replace(start.ValidSpec, `"Example Ltd"`, quoted, 1), `{"subject":{"attributes":[{"key":"CN","value":` + quoted + `}]}}`,
	} {
		v.fails("answers", "PUT", start.CertificatePath, body)
		v.fails("answers", "POST", start.CSRPath, body)
		v.fails("answers", "POST", start.NSXCSRs+"/x?action=create", body)
		v.fails("answers", "POST", start.NSXCSRs+"/two?action=import", body)
	}
	upload, contentType := start.Upload("key.pem", text)
	v.fails("answers", "POST", start.NSXCSRs+"/two?action=upload", upload, contentType)
}

// sign uses the signer socket, well and badly.
func (v *visitor) sign(socket string) {
	v.t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		v.t.Fatal(err)
	}
	defer c.Close()
	client := agent.NewClient(c)
	keys, err := client.List()
	if err != nil || len(keys) != 1 {
		v.t.Fatalf("the signer lists %d keys, %v", len(keys), err)
	}
	signature, err := client.SignWithFlags(keys[0], []byte(v.password), agent.SignatureFlagRsaSha256)
	if err != nil {
		v.t.Fatal(err)
	}
	v.collect("answers", slices.Concat([]byte(keys[0].String()), signature.Blob))
	own, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		v.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		v.t.Fatal(err)
	}
	v.key("a client's own private key, sent to the signer", der)
	_, unsigned := client.SignWithFlags(keys[0], []byte(v.password), 0)
	_, unknown := client.Sign(&agent.Key{Format: v.password, Blob: []byte(v.password)}, []byte(v.id))
	_, extended := client.Extension(v.password, []byte(v.id))
	for _, err := range []error{unsigned, unknown, extended, client.Lock([]byte(v.password)), client.Add(agent.AddedKey{PrivateKey: own, Comment: v.id})} {
		if err == nil {
			v.t.Error("the signer does what it must not do")
			continue
		}
		v.collect("answers", []byte(err.Error()))
	}
}

// live is what a caller with every privilege does.
func (v *visitor) live() {
	v.t.Helper()
	v.login()
	v.work()
	v.blunder()
	v.sendKey()
	v.send("answers", "DELETE", start.SessionPath, "", v.esx())
	v.send("answers", "GET", "/api/session/destroy", "", v.nsx())
	v.send("answers", "DELETE", start.SessionPath, "", v.esx()) // again: a 401
}

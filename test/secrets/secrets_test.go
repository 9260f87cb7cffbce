package secrets_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// Names of places where one of the secrets belongs.
const (
	inLogins = "answers to logins"
	inEchoes = "answers that quote the client"
)

// custody is what a test learns of secrets, and the places in which they may not be.
type custody struct {
	t       *testing.T
	dir     string // of the test
	data    string // data_dir, in it
	binary  string
	secrets []secret
	ders    map[string][]byte // PKCS#8 of private keys, by name
	places  map[string][]byte
}

func (c *custody) text(name, text string, allowed ...string) string {
	c.secrets = append(c.secrets, secret{name: name, text: text, allowed: allowed})
	return text
}

func (c *custody) key(name string, der []byte, allowed ...string) {
	if _, known := c.ders[name]; known {
		return
	}
	c.ders[name] = der
	c.secrets = append(c.secrets, secretsOf(c.t, name, der, allowed...)...)
}

// collect adds to what is searched at a place.
func (c *custody) collect(place string, text []byte) {
	c.places[place] = append(c.places[place], text...)
}

// collectFiles takes every file of the data directory as it is now.
func (c *custody) collectFiles(dir string) {
	c.t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path) // under it
		c.collect("data_dir/"+name, content)
		c.collect("names of files", []byte(path+"\n"))
		n++
		return err
	})
	if err != nil || n < 4 {
		c.t.Fatalf("%d files, %v", n, err)
	}
}

// collectProcess takes what the kernel shows of a process.
func (c *custody) collectProcess(pid int) {
	c.t.Helper()
	for _, name := range []string{"cmdline", "environ", "status", "comm"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil || len(content) == 0 {
			c.t.Errorf("/proc/PID/%s: %d bytes, %v", name, len(content), err)
		}
		c.collect("/proc/PID/"+name, content)
	}
}

// collectKeys opens the store of a service that has ended as its documentation
// says it is made, and takes every private key out of it. The custodian itself
// gives none away.
func (c *custody) collectKeys(dir string) {
	c.t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, server.KeysetFile))
	if err != nil {
		c.t.Fatal(err)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		c.t.Fatal(err)
	}
	primitive, err := aead.New(handle)
	if err != nil {
		c.t.Fatal(err)
	}
	store, err := bolt.Open(filepath.Join(dir, server.StoreFile), bolt.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer store.Close()
	found := 0
	err = store.Refs(c.t.Context(), func(slot keystore.Slot, ref keystore.Ref) error {
		record, err := store.Get(c.t.Context(), slot)
		if err != nil || len(ref) == 0 {
			return err
		}
		digest := sha256.Sum256(record.Payload)
		var associated []byte
		for _, part := range [][]byte{[]byte("attestcsr private key"), []byte(slot.Collection), []byte(slot.ID), {1}, digest[:]} {
			associated = binary.BigEndian.AppendUint32(associated, uint32(len(part)))
			associated = append(associated, part...)
		}
		der, err := primitive.Decrypt(ref[1:], associated)
		if err != nil {
			return err
		}
		found++
		sum := sha256.Sum256(der)
		c.key(fmt.Sprintf("key of %s (%x)", slot, sum[:4]), der)
		return nil
	})
	if err != nil || found < 3 {
		c.t.Fatalf("%d private keys, %v", found, err)
	}
}

// collectKeyset takes the sealing key itself: the last 32 bytes of its message.
func (c *custody) collectKeyset(dir string) {
	c.t.Helper()
	var file struct {
		Key []struct{ KeyData struct{ Value []byte } }
	}
	content, err := os.ReadFile(filepath.Join(dir, server.KeysetFile))
	if err == nil {
		err = json.Unmarshal(content, &file)
	}
	if err != nil || len(file.Key) != 1 || len(file.Key[0].KeyData.Value) < 32 {
		c.t.Fatalf("%v", err)
	}
	value := file.Key[0].KeyData.Value
	c.secrets = append(c.secrets, secret{name: "sealing key", bytes: value[len(value)-32:], allowed: []string{"data_dir/" + server.KeysetFile}})
}

func (c *custody) collectServerKey(dir string) {
	c.t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, server.OwnKeyFile))
	block, _ := pem.Decode(content)
	if err != nil || block == nil {
		c.t.Fatal(err)
	}
	c.key("TLS key", block.Bytes, "data_dir/"+server.OwnKeyFile)
}

// visitor does what clients do, well and badly, and keeps all that it is told.
type visitor struct {
	*custody
	s              *start.Instance
	user, password string
}

// send sends a request and keeps the answer as one of the place.
func (v *visitor) send(place, method, path, body string, h http.Header) start.RawAnswer {
	v.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, v.s.URL+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if req.Header = h.Clone(); h == nil {
		req.Header = http.Header{}
		req.SetBasicAuth(v.user, v.password)
	}
	if req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := v.s.Client.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	v.collect(place, fmt.Appendf(nil, "%s %v\n%s\n", resp.Status, resp.Header, content))
	return start.RawAnswer{Status: resp.StatusCode, Header: resp.Header, Body: string(content)}
}

// ok is send for a request that has to succeed, as the user.
func (v *visitor) ok(method, path, body string) string {
	v.t.Helper()
	a := v.send("answers", method, path, body, nil)
	if a.Status >= 300 {
		v.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	return a.Body
}

// fails is send for a request that must not succeed.
func (v *visitor) fails(place, method, path, body string, h http.Header) {
	v.t.Helper()
	if a := v.send(place, method, path, body, h); a.Status < 400 || a.Status == 500 {
		v.t.Errorf("%s %.80s: %d", method, path, a.Status)
	}
}

func header(namesAndValues ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(namesAndValues); i += 2 {
		h.Add(namesAndValues[i], namesAndValues[i+1])
	}
	return h
}

func basicOf(user, password string) http.Header {
	return header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// login makes a session of each kind and returns what they are carried in.
func (v *visitor) login() (esx, nsx http.Header) {
	v.t.Helper()
	made := v.send(inLogins, "POST", start.SessionPath, "", nil)
	var id string
	if err := json.Unmarshal([]byte(made.Body), &id); err != nil || id == "" {
		v.t.Fatalf("login: %d %v", made.Status, err)
	}
	esx = header("vmware-api-session-id", v.text("session id", id, inLogins))
	var legacy struct{ Value string }
	if err := json.Unmarshal([]byte(v.send(inLogins, "POST", "/rest/com/vmware/cis/session", "", nil).Body), &legacy); err != nil {
		v.t.Fatal(err)
	}
	v.text("session id of /rest", legacy.Value, inLogins)
	form := url.Values{"j_username": {v.user}, "j_password": {v.password}}.Encode()
	made = v.send(inLogins, "POST", "/api/session/create", form, header("Content-Type", start.FormType))
	cookies := (&http.Response{Header: made.Header}).Cookies()
	if len(cookies) != 1 {
		v.t.Fatalf("login: %d %v", made.Status, cookies)
	}
	cookie := v.text("JSESSIONID", cookies[0].Value, inLogins)
	token := v.text("XSRF token", made.Header.Get("X-XSRF-TOKEN"), inLogins)
	return esx, header("Cookie", "JSESSIONID="+cookie, "X-XSRF-TOKEN", token)
}

// work goes through every operation of both dialects, in the session of each.
func (v *visitor) work(esx, nsx http.Header) {
	v.t.Helper()
	const spec = `{"subject":{"attributes":[{"key":"CN","value":"a.example.com"}]},"algorithm":"EC","key_size":%d}`
	request := start.Member(v.t, v.ok("POST", start.CSRPath, start.ValidSpec), "csr")
	chain, err := json.Marshal(map[string]string{"certificate": v.issue(request)})
	if err != nil {
		v.t.Fatal(err)
	}
	v.ok("PUT", start.CertificatePath, string(chain))
	v.ok("GET", start.CertificatePath, "")
	v.ok("POST", start.CSRPath, start.ValidSpec)
	v.send("answers", "GET", start.CSRPath, "", esx)
	for id, size := range map[string]int{"one": 256, "two": 384, "three": 521} {
		v.send("answers", "DELETE", start.NSXPath+"/csrs/"+id, "", nil) // of a life before
		v.ok("POST", start.NSXPath+"/csrs/"+id+"?action=create", fmt.Sprintf(spec, size))
	}
	v.ok("POST", start.NSXPath+"/csrs/one?action=self_sign", "")
	v.ok("POST", start.NSXPath+"/csrs?action=self_sign", fmt.Sprintf(spec, 256))
	v.ok("GET", start.NSXPath+"/csrs/two/pem-file", "")
	v.send("answers", "GET", start.NSXPath+"/csrs", "", nsx)
	v.send("answers", "GET", start.NSXPath+"/certificates", "", nsx)
	v.send("answers", "GET", start.SessionPath, "", esx)
	v.ok("GET", "/metrics", "")
	v.ok("GET", "/readyz", "")
}

// issue is the CA.
func (v *visitor) issue(request string) string {
	v.t.Helper()
	block, _ := pem.Decode([]byte(request))
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		v.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		v.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: parsed.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}}, parsed.PublicKey, key)
	if err != nil {
		v.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// blunder sends secrets where they do not belong: every way of getting something
// wrong that people and programs have.
func (v *visitor) blunder(esx, nsx http.Header) {
	v.t.Helper()
	id, cookie, token := esx.Get("vmware-api-session-id"), strings.TrimPrefix(nsx.Get("Cookie"), "JSESSIONID="), nsx.Get("X-XSRF-TOKEN")
	guess := v.text("guessed password", "guess"+rand.Text())
	// Wrong passwords, few enough not to be throttled.
	v.fails("answers", "GET", start.CSRPath, "", basicOf(v.user, guess))
	v.fails("answers", "GET", start.NSXPath+"/csrs", "", basicOf(v.password, "x"))
	v.fails("answers", "POST", start.SessionPath, "", basicOf(id, cookie))
	form := func(user, password string) string {
		return url.Values{"j_username": {user}, "j_password": {password}}.Encode()
	}
	v.fails("answers", "POST", "/api/session/create", form(v.password, v.user), header("Content-Type", start.FormType))
	v.fails("answers", "POST", "/api/session/create", form(v.user, guess), header("Content-Type", start.FormType))
	// Forms that are none.
	v.fails("answers", "POST", "/api/session/create", form(v.user, v.password), header("Content-Type", "text/plain"))
	v.fails("answers", "POST", "/api/session/create?"+form(v.user, v.password), "", header("Content-Type", start.FormType))
	v.fails("answers", "POST", "/api/session/create", form(v.user, v.password)+"&%zz="+v.password, header("Content-Type", start.FormType))
	v.fails("answers", "POST", "/api/session/create", url.QueryEscape(v.password)+"=1", header("Content-Type", start.FormType))
	// Credentials in the wrong place or of the wrong kind.
	for _, h := range []http.Header{
		header("Authorization", "Basic "+v.user+":"+url.QueryEscape(v.password)), header("Authorization", "Bearer "+id), header("Authorization", id),
		header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(v.user+":"+v.password)), "Authorization", "x"),
		header("vmware-api-session-id", cookie), header("vmware-api-session-id", url.QueryEscape(v.password)), header("Cookie", "vmware-api-session-id="+token),
		header("Cookie", "JSESSIONID="+id, "X-XSRF-TOKEN", cookie), header("X-XSRF-TOKEN", token), header("X-Api-Key", id, "Proxy-Authorization", "Basic "+id),
	} {
		v.fails("answers", "GET", start.CSRPath, "", h)
		v.fails("answers", "GET", start.NSXPath+"/csrs", "", h)
	}
	v.fails("answers", "POST", start.NSXPath+"/csrs/x?action=create", "", header("Cookie", "JSESSIONID="+cookie, "X-XSRF-TOKEN", id))
	// Bodies and parameters with a secret in them. The answer quotes some of them to
	// who sent it; nobody else is to learn it. Ids of objects are left out: whose
	// they are, the log says.
	for _, text := range []string{v.password, id, token} {
		quoted, err := json.Marshal(text)
		if err != nil {
			v.t.Fatal(err)
		}
		escaped := url.QueryEscape(text)
		for _, body := range []string{
			`{"organization":` + string(quoted), `{"organization":[` + string(quoted) + `]}`, `{` + string(quoted) + `:1}`, string(quoted), text,
			`{"organization":` + string(quoted) + `,"organization":1}`, strings.Replace(start.ValidSpec, `"US"`, string(quoted), 1),
			strings.Replace(start.ValidSpec, `"pki@example.com"`, string(quoted), 1), strings.Replace(start.ValidSpec, "}", `,"subject_alt_name":[" ",`+string(quoted)+`]}`, 1),
			`{"certificate":` + string(quoted) + `}`, `{"pem_encoded":` + string(quoted) + `}`, strings.Repeat(" ", 64<<10) + string(quoted),
			`{"subject":{"attributes":[{"key":` + string(quoted) + `,"value":"x"}]}}`, `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":` + string(quoted) + `}`,
			`{"subject":{"attributes":[{"key":"CN","value":"x"}]},"key_size":` + string(quoted) + `}`, `{"tags":{` + string(quoted) + `:1}}`,
		} {
			v.fails(inEchoes, "POST", start.CSRPath, body, nil)
			v.fails(inEchoes, "PUT", start.CertificatePath, body, nil)
			v.fails(inEchoes, "POST", start.NSXPath+"/csrs/x?action=create", body, nil)
			v.fails(inEchoes, "POST", start.NSXPath+"/csrs/two?action=import", body, nil)
			v.fails(inEchoes, "POST", start.NSXPath+"/csrs/two?action=upload", body, header("Authorization", basicOf(v.user, v.password).Get("Authorization"), "Content-Type", "multipart/form-data; boundary="+id[:32]))
		}
		for _, query := range []string{"?" + escaped, "?" + escaped + "=1", "?x=" + escaped, "?x=%zz" + escaped} {
			v.fails(inEchoes, "GET", start.CSRPath+query, "", nil)
		}
		for _, query := range []string{"?page_size=", "?sort_by=", "?sort_ascending=", "?cursor=", "?included_fields="} {
			v.fails(inEchoes, "GET", start.NSXPath+"/csrs"+query+escaped, "", nil)
		}
		v.fails(inEchoes, "POST", start.NSXPath+"/csrs/two?action="+escaped, "", nil)
		v.fails(inEchoes, "POST", start.NSXPath+"/csrs/two?action=self_sign&days_valid="+escaped, "", nil)
		v.fails(inEchoes, "POST", "/rest/com/vmware/cis/session?~action="+escaped, "", nil)
		v.fails(inEchoes, "GET", "/api/session/"+url.PathEscape(text), "", nil)
		v.fails(inEchoes, "GET", "/policy/"+url.PathEscape(text), "", nil)
		v.fails(inEchoes, "POST", start.CSRPath, start.ValidSpec, header("Authorization", basicOf(v.user, v.password).Get("Authorization"), "Content-Type", "text/"+text))
	}
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
	quoted, err := json.Marshal(text)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, body := range []string{
		`{"certificate":` + string(quoted) + `}`, `{"pem_encoded":` + string(quoted) + `}`, text, `{"private_key":` + string(quoted) + `}`,
		strings.Replace(start.ValidSpec, `"Example Ltd"`, string(quoted), 1), `{"subject":{"attributes":[{"key":"CN","value":` + string(quoted) + `}]}}`,
	} {
		v.fails("answers", "PUT", start.CertificatePath, body, nil)
		v.fails("answers", "POST", start.CSRPath, body, nil)
		v.fails("answers", "POST", start.NSXPath+"/csrs/x?action=create", body, nil)
		v.fails("answers", "POST", start.NSXPath+"/csrs/two?action=import", body, nil)
	}
	var upload bytes.Buffer
	parts := multipart.NewWriter(&upload)
	part, err := parts.CreateFormFile("file", "key.pem")
	if err == nil {
		_, err = io.WriteString(part, text)
	}
	if err != nil || parts.Close() != nil {
		v.t.Fatal(err)
	}
	v.fails("answers", "POST", start.NSXPath+"/csrs/two?action=upload", upload.String(),
		header("Authorization", basicOf(v.user, v.password).Get("Authorization"), "Content-Type", parts.FormDataContentType()))
}

// TestSecrets: what the service keeps secret is in no log, answer, metric, crash
// dump, process listing or file but the one that is there for it. It is searched
// for as bytes and in the usual encodings.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := &custody{t: t, dir: dir, data: filepath.Join(dir, "data"), binary: start.Binary(t), ders: map[string][]byte{}, places: map[string][]byte{}}
	c.firstLife()
	c.lastLife()
	c.search()
}

// command runs a command and returns what it prints.
func (c *custody) command(stdin string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(c.binary, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%v: %v %s", args, err, out)
	}
	c.collect("what commands print", append([]byte(strings.Join(args, " ")+"\n"), out...))
	return strings.TrimSpace(string(out))
}

func (c *custody) initialPassword() string {
	c.t.Helper()
	content, err := os.ReadFile(filepath.Join(c.data, server.InitialPasswordFile))
	if err != nil {
		c.t.Fatal(err)
	}
	return c.text("password of admin", strings.TrimSpace(string(content)), "data_dir/"+server.InitialPasswordFile, inEchoes)
}

// firstLife is that of the built-in admin. /proc shows the environment to the
// tests' own user where core dumps are allowed.
func (c *custody) firstLife() {
	t := c.t
	t.Helper()
	kit.Overwrite(t, c.dir, "admin.yaml", start.NoPool)
	config := []string{"--config", filepath.Join(c.dir, "admin.yaml")}
	s := start.LaunchBinary(t, c.binary, c.data, append(config, "--log-level", "debug", "--allow-core-dumps", "true")...)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	c.collectKeyset(c.data)
	c.collectServerKey(c.data)
	v := &visitor{custody: c, s: s, user: server.AdminName, password: c.initialPassword()}
	c.collectFiles(c.data)
	v.live()
	esx, _ := v.login()
	c.command("", "reset-password", "--data-dir", c.data)
	v.password = c.initialPassword()
	c.collectFiles(c.data)
	// With the new password ends the session; to try the password would be guessing.
	kit.Eventually(t, "the new password", func() bool { return v.send("answers", "GET", start.CSRPath, "", esx).Status == http.StatusUnauthorized })
	v.blunder(v.login())
	c.collectProcess(s.Cmd.Process.Pid)
	c.command("", append([]string{"healthcheck", "--data-dir", c.data, "--listen", strings.TrimPrefix(s.URL, "https://")}, config...)...)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	c.collectOutput(s)
	c.collectFiles(c.data)
	c.collectKeys(c.data)
}

// lastLife is that of users with a file, logs in the other format, and ends in a
// crash.
func (c *custody) lastLife() {
	t := c.t
	t.Helper()
	alice := c.text("password of alice", `al"ice\ <&> é `+rand.Text(), inEchoes)
	bob := c.text("password of bob", "bob'%s\t"+rand.Text(), inEchoes)
	kit.Overwrite(t, c.dir, "users", "alice:"+c.command(alice+"\n", "hash-password")+"\nbob:"+c.command(bob+"\n", "hash-password")+"\n")
	kit.Overwrite(t, c.dir, "users.yaml", start.NoPool+"log: {level: debug, format: text}\nauth:\n  users_file: "+filepath.Join(c.dir, "users")+
		"\n  privileges:\n    alice: [SECURITY_MGMT, \"policy_certificate:crud\"]\n")
	config := []string{"--config", filepath.Join(c.dir, "users.yaml")}
	c.command("", append([]string{"config", "show"}, config...)...)
	c.command("", append([]string{"config", "check"}, config...)...)
	cmd := exec.Command(c.binary, start.ServeArgs(c.data, config...)...)
	cmd.Env = append(os.Environ(), "GOTRACEBACK=crash")
	s := start.LaunchCommand(t, cmd, c.data)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	v := &visitor{custody: c, s: s, user: "alice", password: alice}
	v.live()
	other := &visitor{custody: c, s: s, user: "bob", password: bob}
	other.blunder(other.login())
	// It crashes while it makes keys.
	esx, _ := v.login()
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		for {
			if _, _, err := s.Do("POST", start.CSRPath, start.ValidSpec, esx.Get("vmware-api-session-id")); err != nil {
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	if err := s.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-s.Exited
	<-busy
	if crash := s.Stderr.String(); !strings.Contains(crash, "SIGQUIT") || strings.Count(crash, "goroutine ") < 5 {
		t.Errorf("that is no crash: %s", crash)
	}
	c.collectOutput(s)
	c.collectFiles(c.data)
	c.collectKeys(c.data)
}

// live is what a caller with every privilege does.
func (v *visitor) live() {
	v.t.Helper()
	esx, nsx := v.login()
	v.work(esx, nsx)
	v.blunder(esx, nsx)
	v.sendKey()
	v.send("answers", "DELETE", start.SessionPath, "", esx)
	v.send("answers", "GET", "/api/session/destroy", "", nsx)
	v.send("answers", "DELETE", start.SessionPath, "", esx) // again: a 401
}

func (c *custody) collectOutput(s *start.Instance) {
	c.collect("stdout", []byte(s.Stdout.String()))
	c.collect("stderr", []byte(s.Stderr.String()))
}

// search looks for every secret at every place.
func (c *custody) search() {
	t := c.t
	t.Helper()
	// What the client said itself may come back to it.
	for i := range c.secrets {
		if strings.HasPrefix(c.secrets[i].name, "session id") || strings.Contains(c.secrets[i].name, "token") || c.secrets[i].name == "JSESSIONID" {
			c.secrets[i].allowed = append(c.secrets[i].allowed, inEchoes)
		}
	}
	s := newSearcher(t, c.secrets)
	used := map[string]bool{}
	for place, text := range c.places {
		for i, where := range s.find(text) {
			used[place] = true
			if one := c.secrets[i]; !slices.Contains(one.allowed, place) {
				t.Errorf("%s is in %s: %s", one.name, place, where)
			}
		}
	}
	for _, place := range []string{"data_dir/" + server.InitialPasswordFile, "data_dir/" + server.KeysetFile, "data_dir/" + server.OwnKeyFile, inLogins, inEchoes} {
		if !used[place] {
			t.Errorf("nothing was found in %s, where it belongs", place)
		}
	}
	kit.Count(t, "secrets searched for", len(c.secrets))
	kit.Count(t, "places searched", len(c.places))
	kit.Count(t, "bytes searched", s.bytes)
	kit.Count(t, "planted secrets found", s.wantFound(t, c.places["stdout"], c.ders))
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"attestcsr/keystore/keystoretest"
)

// auditLine is what a reader of the trail sees of a line.
type auditLine struct {
	Stream    string `json:"stream"`
	Seq       uint64 `json:"seq"`
	Event     string `json:"event"`
	User      string `json:"user"`
	Method    string `json:"method"`
	Address   string `json:"address"`
	RequestID string `json:"request_id"`
	Operation string `json:"operation"`
	Route     string `json:"route"`
	Slot      string `json:"slot"`
	Outcome   string `json:"outcome"`
	CSR       string `json:"csr_sha256"`
}

func auditFiles(t *testing.T, dataDir, stream string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dataDir, auditDir, stream+"-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// auditLines reads a stream, without the lines that open files.
func auditLines(t *testing.T, dataDir, stream string) []auditLine {
	t.Helper()
	var all []auditLine
	for _, name := range auditFiles(t, dataDir, stream) {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(content) {
			var l auditLine
			if !bytes.HasSuffix(line, []byte("\n")) {
				continue // is being written
			}
			if err := json.Unmarshal(line, &l); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if l.Event == "change" || l.Event == "refusal" {
				all = append(all, l)
			}
		}
	}
	return all
}

// verifyAudit runs "attestcsr audit verify" and returns what it prints.
func verifyAudit(t *testing.T, dataDir string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command("attestcsr", append([]string{"audit", "verify", "--data-dir", dataDir}, args...)...).CombinedOutput()
	return string(out), err
}

// TestAudit: who did what is in the trail, and no secret is.
func TestAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	overwrite(t, dir, "config.yaml", noPool+"auth:\n  privileges:\n    admin: [SECURITY_MGMT]\n")
	s := start(t, data, "--config", filepath.Join(dir, "config.yaml"))
	password := s.password
	s.must(201, "POST", csrPath, validSpec)
	session := strings.Trim(s.must(201, "POST", sessionPath, ""), "\"\n")
	if status, _, err := s.do("DELETE", csrPath, "", session); err != nil || status != 204 {
		t.Fatal(status, err)
	}
	s.must(403, "GET", "/policy/api/v1/infra/csrs", "")
	s.password = "hunter2-wrong"
	s.must(401, "GET", csrPath, "")
	if status, _, err := s.do("GET", csrPath, "", strings.Repeat("ab", 32)); err != nil || status != 401 {
		t.Fatal(status, err)
	}
	form := url.Values{"j_username": {"mistyped-password"}, "j_password": {"hunter2"}}
	response, err := s.client.PostForm(s.url+"/api/session/create", form)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 401 && response.StatusCode != 403 {
		t.Fatal(response.Status)
	}

	eventually(t, "two changes beside the first", func() bool { return len(auditLines(t, data, "changes")) == 3 })
	changes := auditLines(t, data, "changes")
	if l := changes[0]; l.Operation != "certificate.prepare" || l.Method != "service" || l.User != "system:service" {
		t.Errorf("%+v", l)
	}
	if l := changes[1]; l.Operation != "csr.create" || l.User != "admin" || l.Method != "basic" || l.Address != "127.0.0.1" ||
		l.Slot != "esx/attestation/csr" || l.Outcome != "committed" || len(l.CSR) != 64 || !strings.Contains(s.stdout.String(), l.RequestID) {
		t.Errorf("%+v", l)
	}
	if l := changes[2]; l.Operation != "csr.delete" || l.Method != "session" || l.CSR != changes[1].CSR {
		t.Errorf("%+v", l)
	}
	eventually(t, "four refusals", func() bool { return len(auditLines(t, data, "refusals")) == 4 })
	var got []string
	for _, l := range auditLines(t, data, "refusals") {
		got = append(got, strings.Join([]string{l.User, l.Method, l.Address, l.Operation + l.Route, l.Outcome}, " "))
		if !strings.Contains(s.stdout.String(), l.RequestID) || l.RequestID == "" {
			t.Errorf("the log has no request %q", l.RequestID)
		}
	}
	slices.Sort(got)
	want := []string{
		" form 127.0.0.1 POST /api/session/create unauthenticated",
		" session 127.0.0.1 GET " + csrPath + " unauthenticated",
		"admin basic 127.0.0.1 GET " + csrPath + " unauthenticated",
		"admin basic 127.0.0.1 named_csr.list unauthorized",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if out, err := verifyAudit(t, data); err != nil {
		t.Errorf("while it runs: %v\n%s", err, out)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	out, err := verifyAudit(t, data)
	if err != nil || !strings.Contains(out, "changes: 4 lines in 1 files, sequence 1 to 4") || strings.Count(out, ": whole\n") != 2 {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range slices.Concat(auditFiles(t, data, "changes"), auditFiles(t, data, "refusals")) {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{password, "hunter2", "mistyped-password", session, strings.Repeat("ab", 32), "Palo Alto", "BEGIN"} {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s holds %q", name, secret)
			}
		}
	}

	file := auditFiles(t, data, "changes")[0]
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, filepath.Join(data, auditDir), filepath.Base(file), strings.Replace(string(content), `"user":"admin"`, `"user":"other"`, 1))
	out, err = verifyAudit(t, data)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(out, file+":3: line 3, or what stood before it, was changed") {
		t.Errorf("%v\n%s", err, out)
	}
}

// createEC creates a named CSR of an EC key and returns the id of the request.
func (s *instance) createEC(life, client, i int) (requestID string, status int, err error) {
	path := fmt.Sprintf("%s/policy/api/v1/infra/csrs/%d-%d-%d?action=create", s.url, life, client, i)
	body := `{"subject": {"attributes": [{"key": "CN", "value": "web"}]}, "algorithm": "EC", "key_size": 256}`
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, path, strings.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("admin", s.password)
	resp, err := s.client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("X-Request-Id"), resp.StatusCode, err
}

// TestAuditAfterKill ends the service with SIGKILL during creates, again and again
// on the same data: what was acknowledged has exactly one line, whole lines only,
// in a chain that verifies.
func TestAuditAfterKill(t *testing.T) {
	t.Parallel()
	kills := keystoretest.Effort(8, 200)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	binary := productBinary(t)
	overwrite(t, dir, "password", "swordfish")
	overwrite(t, dir, "config.yaml", noPool)
	args := []string{"--admin-password-file", filepath.Join(dir, "password"), "--config", filepath.Join(dir, "config.yaml")}
	acknowledged := map[string]bool{}
	for n := range kills {
		s := launchBinary(t, binary, data, args...)
		if err := s.waitReady(); err != nil {
			t.Fatal(err)
		}
		s.password = "swordfish"
		var mu sync.Mutex
		var clients sync.WaitGroup
		first := make(chan struct{})
		begun := sync.OnceFunc(func() { close(first) })
		for c := range 3 {
			clients.Go(func() {
				for i := 0; ; i++ {
					id, status, err := s.createEC(n, c, i)
					if err != nil {
						return
					}
					if status != 200 && status != 201 {
						t.Errorf("create: %d", status)
						return
					}
					mu.Lock()
					acknowledged[id] = true
					mu.Unlock()
					begun()
				}
			})
		}
		select {
		case <-first:
		case <-time.After(time.Minute):
			t.Fatal("no create is answered")
		}
		time.Sleep(time.Duration(n*137%450) * time.Millisecond)
		s.kill()
		clients.Wait()
		if s.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("not killed: %v", s.cmd.ProcessState)
		}
		if out, err := verifyAudit(t, data); err != nil {
			t.Fatalf("after kill %d: %v\n%s", n+1, err, out)
		}
	}
	last := launchBinary(t, binary, data, args...)
	if err := last.waitReady(); err != nil {
		t.Fatal(err)
	}
	if err := last.stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := verifyAudit(t, data); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	seen := map[string]int{}
	for _, l := range auditLines(t, data, "changes") {
		if l.Operation == "named_csr.create" {
			seen[l.RequestID]++
		}
	}
	for id := range acknowledged {
		if seen[id] != 1 {
			t.Errorf("request %s was acknowledged and has %d lines", id, seen[id])
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("request %s has %d lines", id, n)
		}
	}
	if len(acknowledged) < kills {
		t.Errorf("only %d creates were acknowledged", len(acknowledged))
	}
	keystoretest.Count(t, "kills beside an audit trail", kills)
	t.Logf("%d acknowledged, %d lines", len(acknowledged), len(seen))
}

// TestAuditBlocked: nobody reads the standard output that the trail goes to.
// Changes go on until the outbox has as many as may wait, then they get a 503 and
// reads go on; when somebody reads again, so do changes.
func TestAuditBlocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	overwrite(t, dir, "config.yaml", noPool+"audit: {output: stdout, outbox_bound: 20}\nlog: {level: error}\n")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data := filepath.Join(dir, "data")
	s := &instance{t: t, dataDir: data, stdout: &keystoretest.Buffer{}, stderr: &keystoretest.Buffer{}, exited: make(chan struct{})}
	s.cmd = exec.Command("attestcsr", "serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--config", filepath.Join(dir, "config.yaml"))
	s.cmd.Stdout, s.cmd.Stderr = w, s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		s.err = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(s.kill)
	if err := s.waitReady(); err != nil {
		t.Fatal(err)
	}
	password, err := os.ReadFile(filepath.Join(data, initialPasswordFile))
	if err != nil {
		t.Fatal(err)
	}
	s.password = strings.TrimSpace(string(password))

	made := 0
	for status := 200; status == 200 || status == 201; made++ {
		if _, status, err = s.createEC(0, 0, made); err != nil {
			t.Fatal(err)
		}
		if status == 503 {
			break
		}
		if made > 2000 { // a pipe holds some hundred lines
			t.Fatal("changes go on for ever")
		}
	}
	if made < 20 {
		t.Errorf("refused after %d changes", made)
	}
	status := func(method, path, body string) int {
		t.Helper()
		got, _, err := s.do(method, path, body, "")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, request := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", csrPath, validSpec, 503}, {"DELETE", csrPath, "", 503}, {"GET", certificatePath, "", 200}, {"GET", "/readyz", "", 503}, {"GET", "/healthz", "", 200},
	} {
		if got := status(request.method, request.path, request.body); got != request.want {
			t.Errorf("%s %s: %d, want %d", request.method, request.path, got, request.want)
		}
	}
	var out keystoretest.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&out, r)
	}()
	eventually(t, "changes go on", func() bool { return status("POST", csrPath, validSpec) == 201 })
	if got := status("GET", "/readyz", ""); got != 200 {
		t.Errorf("readiness: %d", got)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	<-read
	lines := strings.Count(out.String(), `"event":"change"`)
	if want := made + 2; lines != want { // the first certificate, and the last CSR
		t.Errorf("%d lines, want %d", lines, want)
	}
	collected := t.TempDir()
	for _, stream := range []string{"changes", "refusals"} {
		var of strings.Builder
		for line := range strings.Lines(out.String()) {
			if strings.HasPrefix(line, `{"v":1,"stream":"`+stream+`"`) {
				of.WriteString(line)
			}
		}
		overwrite(t, collected, stream+"-000001.jsonl", of.String())
	}
	if out, err := verifyAudit(t, data, "--audit-output", "stdout", collected); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := verifyAudit(t, data, "--audit-output", "stdout"); err == nil || !strings.Contains(out, "name a directory") {
		t.Errorf("%v\n%s", err, out)
	}
}

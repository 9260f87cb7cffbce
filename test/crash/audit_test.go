package crash_test

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

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// auditLine is what a reader of the trail sees of a line.
type auditLine struct {
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
	names, err := filepath.Glob(filepath.Join(dataDir, server.AuditDir, stream+"-*.jsonl"))
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
func verifyAudit(t *testing.T, dataDir string) (string, error) {
	t.Helper()
	out, err := exec.Command("attestcsr", "audit", "verify", "--data-dir", dataDir).CombinedOutput()
	return string(out), err
}

// TestAudit: who did what is in the trail, and no secret is.
func TestAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	kit.Overwrite(t, dir, "config.yaml", start.NoPool+"auth:\n  privileges:\n    admin: [SECURITY_MGMT]\n")
	s := start.Serve(t, data, "--config", filepath.Join(dir, "config.yaml"))
	secrets := []string{s.Password, "hunter2", "mistyped-password", strings.Repeat("ab", 32), "Palo Alto", "BEGIN"}
	secrets = append(secrets, makeAuditedRequests(t, s))

	kit.Eventually(t, "two changes beside the first", func() bool { return len(auditLines(t, data, "changes")) == 3 })
	kit.Eventually(t, "four refusals", func() bool { return len(auditLines(t, data, "refusals")) == 4 })
	wantAuditedRequests(t, s)
	if out, err := verifyAudit(t, data); err != nil {
		t.Errorf("while it runs: %v\n%s", err, out)
	}
	if err := s.Stop(); err != nil {
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
		for _, secret := range secrets {
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
	kit.Overwrite(t, filepath.Join(data, server.AuditDir), filepath.Base(file), strings.Replace(string(content), `"user":"admin"`, `"user":"other"`, 1))
	out, err = verifyAudit(t, data)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(out, file+":3: line 3, or a line before it, was changed") {
		t.Errorf("%v\n%s", err, out)
	}
}

// makeAuditedRequests makes two changes and four requests that are refused. It
// returns the id of the session that it used.
func makeAuditedRequests(t *testing.T, s *start.Instance) (session string) {
	t.Helper()
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	session = strings.Trim(s.Must(201, "POST", start.SessionPath, ""), "\"\n")
	if status, _, err := s.Do("DELETE", start.CSRPath, "", session); err != nil || status != 204 {
		t.Fatal(status, err)
	}
	s.Must(403, "GET", "/policy/api/v1/infra/csrs", "")
	s.Password = "hunter2-wrong"
	s.Must(401, "GET", start.CSRPath, "")
	if status, _, err := s.Do("GET", start.CSRPath, "", strings.Repeat("ab", 32)); err != nil || status != 401 {
		t.Fatal(status, err)
	}
	form := url.Values{"j_username": {"mistyped-password"}, "j_password": {"hunter2"}}
	response, err := s.Client.PostForm(s.URL+"/api/session/create", form)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 401 && response.StatusCode != 403 {
		t.Fatal(response.Status)
	}
	return session
}

// wantAuditedRequests checks the lines of makeAuditedRequests.
func wantAuditedRequests(t *testing.T, s *start.Instance) {
	t.Helper()
	changes := auditLines(t, s.DataDir, "changes")
	if l := changes[0]; l.Operation != "certificate.prepare" || l.Method != "service" || l.User != "system:service" {
		t.Errorf("%+v", l)
	}
	if l := changes[1]; l.Operation != "csr.create" || l.User != "admin" || l.Method != "basic" || l.Address != "127.0.0.1" ||
		l.Slot != "esx/attestation/csr" || l.Outcome != "committed" || len(l.CSR) != 64 || !strings.Contains(s.Stdout.String(), l.RequestID) {
		t.Errorf("%+v", l)
	}
	if l := changes[2]; l.Operation != "csr.delete" || l.Method != "session" || l.CSR != changes[1].CSR {
		t.Errorf("%+v", l)
	}
	var got []string
	for _, l := range auditLines(t, s.DataDir, "refusals") {
		got = append(got, strings.Join([]string{l.User, l.Method, l.Address, l.Operation + l.Route, l.Outcome}, " "))
		if !strings.Contains(s.Stdout.String(), l.RequestID) || l.RequestID == "" {
			t.Errorf("the log has no request %q", l.RequestID)
		}
	}
	slices.Sort(got)
	want := []string{
		" form 127.0.0.1 POST /api/session/create unauthenticated",
		" session 127.0.0.1 GET " + start.CSRPath + " unauthenticated",
		"admin basic 127.0.0.1 GET " + start.CSRPath + " unauthenticated",
		"admin basic 127.0.0.1 named_csr.list unauthorized",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// createEC creates a named CSR of an EC key and returns the id of the request.
func createEC(s *start.Instance, id string) (requestID string, status int, err error) {
	body := `{"subject": {"attributes": [{"key": "CN", "value": "web"}]}, "algorithm": "EC", "key_size": 256}`
	req, err := http.NewRequestWithContext(s.T.Context(), http.MethodPost, s.URL+"/policy/api/v1/infra/csrs/"+id+"?action=create", strings.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("admin", s.Password)
	resp, err := s.Client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("X-Request-Id"), resp.StatusCode, err
}

// createUntilKilled has three clients create CSRs until the service is killed some
// time after the first answer. It adds the ids of the requests that were answered.
func createUntilKilled(t *testing.T, s *start.Instance, life int, acknowledged map[string]bool) {
	t.Helper()
	var mu sync.Mutex
	var clients sync.WaitGroup
	first := make(chan struct{})
	answered := sync.OnceFunc(func() { close(first) })
	for c := range 3 {
		clients.Go(func() {
			for i := 0; ; i++ {
				id, status, err := createEC(s, fmt.Sprintf("%d-%d-%d", life, c, i))
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
				answered()
			}
		})
	}
	select {
	case <-first:
	case <-time.After(time.Minute):
		t.Fatal("no create is answered")
	}
	time.Sleep(time.Duration(life*137%450) * time.Millisecond)
	s.Kill()
	clients.Wait()
	if s.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v", s.Cmd.ProcessState)
	}
}

// TestAuditAfterKill ends the service with SIGKILL during creates, again and again
// on the same data: what was acknowledged has exactly one line, whole lines only,
// in a chain that verifies.
func TestAuditAfterKill(t *testing.T) {
	t.Parallel()
	kills := kit.Effort(8, 200)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	kit.Overwrite(t, dir, "password", "swordfish")
	kit.Overwrite(t, dir, "config.yaml", start.NoPool)
	run := func() *start.Instance {
		s := start.LaunchBinary(t, start.Binary(t), data, "--admin-password-file", filepath.Join(dir, "password"), "--config", filepath.Join(dir, "config.yaml"))
		if err := s.WaitReady(); err != nil {
			t.Fatal(err)
		}
		s.Password = "swordfish"
		return s
	}
	acknowledged := map[string]bool{}
	for n := range kills {
		createUntilKilled(t, run(), n, acknowledged)
		if out, err := verifyAudit(t, data); err != nil {
			t.Fatalf("after kill %d: %v\n%s", n+1, err, out)
		}
	}
	if err := run().Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := verifyAudit(t, data); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := map[string]int{}
	for _, l := range auditLines(t, data, "changes") {
		if l.Operation != "named_csr.create" {
			continue
		}
		if lines[l.RequestID]++; lines[l.RequestID] > 1 {
			t.Errorf("request %s has %d lines", l.RequestID, lines[l.RequestID])
		}
	}
	for id := range acknowledged {
		if lines[id] == 0 {
			t.Errorf("request %s was acknowledged and has no line", id)
		}
	}
	if len(acknowledged) < kills {
		t.Errorf("only %d creates were acknowledged", len(acknowledged))
	}
	kit.Count(t, "kills beside an audit trail", kills)
	t.Logf("%d acknowledged, %d lines", len(acknowledged), len(lines))
}

// TestAuditBlocked: the folder of the trail is gone. Changes go on until the outbox
// has as many as may wait, then they get a 503, and reads go on. When the folder is
// back, so are changes. The log has a copy of each line.
func TestAuditBlocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	kit.Overwrite(t, dir, "config.yaml", start.NoPool+"audit: {copy_to_log: true, outbox_bound: 20}\n")
	s := start.Serve(t, data, "--config", filepath.Join(dir, "config.yaml"))
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	rename(filepath.Join(data, server.AuditDir), filepath.Join(dir, "away"))
	kit.Overwrite(t, data, server.AuditDir, "not a folder")

	made := 0
	for status := 0; status != 503; made++ {
		var err error
		if _, status, err = createEC(s, fmt.Sprint(made)); err != nil {
			t.Fatal(err)
		}
		if made > 200 {
			t.Fatal("changes go on for ever")
		}
	}
	if made--; made < 20 { // the last was refused
		t.Errorf("refused after %d changes", made)
	}
	for _, request := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", start.CSRPath, start.ValidSpec, 503}, {"DELETE", start.CSRPath, "", 503}, {"GET", start.CertificatePath, "", 200}, {"GET", "/readyz", "", 503}, {"GET", "/healthz", "", 200},
	} {
		s.Must(request.want, request.method, request.path, request.body)
	}

	rename(filepath.Join(data, server.AuditDir), filepath.Join(dir, "file"))
	rename(filepath.Join(dir, "away"), filepath.Join(data, server.AuditDir))
	kit.Eventually(t, "changes go on", func() bool {
		status, _, err := s.Do("POST", start.CSRPath, start.ValidSpec, "")
		return err == nil && status == 201
	})
	s.Must(200, "GET", "/readyz", "")
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	want := made + 2 // the first certificate, and the last CSR
	if n := len(auditLines(t, data, "changes")); n != want {
		t.Errorf("%d lines, want %d", n, want)
	}
	if n := strings.Count(s.Stdout.String(), `"msg":"audit","line":{"v":1,"stream":"changes"`); n != want+1 { // and the line that opens the file
		t.Errorf("%d lines are copied to the log, want %d", n, want+1)
	}
	if out, err := verifyAudit(t, data); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

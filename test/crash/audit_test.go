package crash_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// auditEvents reads a stream without the lines that open files.
func auditEvents(t *testing.T, dataDir, stream string) []auditLine {
	t.Helper()
	lines, err := auditLines(dataDir, stream)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(lines, func(l auditLine) bool { return l.Event != "change" && l.Event != "refusal" })
}

// auditVerify runs "attestcsr audit verify" and returns what it prints.
func auditVerify(dataDir string) (string, error) {
	out, err := exec.Command("attestcsr", "audit", "verify", "--data-dir", dataDir).CombinedOutput()
	return string(out), err
}

// TestAudit: who did what is in the trail, no secret is, and "audit verify" finds a
// line that was edited.
func TestAudit(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), BuiltInAdmin: true, Settings: "auth:\n  privileges:\n    admin: [SECURITY_MGMT]\n"})
	password := s.Password
	session := makeAuditedRequests(t, s)
	kit.Eventually(t, "two changes beside the first", func() bool { return len(auditEvents(t, s.DataDir, "changes")) == 3 })
	kit.Eventually(t, "four refusals", func() bool { return len(auditEvents(t, s.DataDir, "refusals")) == 4 })
	wantAuditedRequests(t, s)
	wantAuditedSession(t, s, session)
	if out, err := auditVerify(s.DataDir); err != nil {
		t.Errorf("while it runs: %v\n%s", err, out)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	out, err := auditVerify(s.DataDir)
	if err != nil || !strings.Contains(out, "changes: 6 lines in 1 files, sequence 1 to 6") || strings.Count(out, ": whole\n") != len(audit.Streams()) {
		t.Errorf("%v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(s.DataDir, server.AuditDir, "*.jsonl"))
	if err != nil || len(files) != len(audit.Streams()) {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		content := string(kit.Read(t, filepath.Dir(file), filepath.Base(file)))
		secrets := []string{password, session, "hunter2", "mistyped-password", madeUpSession, "BEGIN"}
		if strings.HasPrefix(filepath.Base(file), "refusals") {
			secrets = append(secrets, "Palo Alto") // a change says whom its CSR is for
		}
		for _, secret := range secrets {
			if strings.Contains(content, secret) {
				t.Errorf("%s holds %q", file, secret)
			}
		}
		kit.Overwrite(t, filepath.Dir(file), filepath.Base(file), strings.Replace(content, `"user":"admin"`, `"user":"other"`, 1))
	}
	out, err = auditVerify(s.DataDir)
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, ":4: line 4, or a line before it, was changed") {
		t.Errorf("%v\n%s", err, out)
	}
}

// madeUpSession has the form of an id of a session.
const madeUpSession = "abababababababababababababababababababababababababababababababab"

// makeAuditedRequests makes two changes and four requests that are refused. It
// returns the id of the session that it used.
func makeAuditedRequests(t *testing.T, s *start.Instance) (session string) {
	t.Helper()
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	session = strings.Trim(s.Must(201, "POST", start.SessionPath, ""), "\"\n")
	s.Must(204, "DELETE", start.CSRPath, "", start.Session(session))
	s.Must(403, "GET", start.NSXCSRs, "")
	s.Must(401, "GET", start.CSRPath, "", start.As(start.User, "hunter2-wrong"))
	s.Must(401, "GET", start.CSRPath, "", start.Session(madeUpSession))
	form := url.Values{"j_username": {"mistyped-password"}, "j_password": {"hunter2"}}
	s.Must(401, "POST", start.NSXLogin, form.Encode(), start.Header("Content-Type", start.FormType), start.Anonymous)
	return session
}

// wantAuditedRequests checks the lines of makeAuditedRequests.
func wantAuditedRequests(t *testing.T, s *start.Instance) {
	t.Helper()
	changes := auditEvents(t, s.DataDir, "changes")
	if l := changes[0]; l.Operation != "certificate.prepare" || l.Method != "service" || l.User != "system:service" {
		t.Errorf("%+v", l)
	}
	if l := changes[1]; l.Operation != "csr.create" || l.User != "admin" || l.Method != "basic" || l.Address != "127.0.0.1" ||
		l.Subject != "CN=esx-01.example.com,OU=Hosts,O=Example Ltd,L=Palo Alto,ST=California,C=US" || l.Slot != "esx/attestation/csr" || l.Outcome != "committed" || len(l.CSR) != 64 || !strings.Contains(s.Stdout.String(), l.RequestID) {
		t.Errorf("%+v", l)
	}
	if l := changes[2]; l.Operation != "csr.delete" || l.Method != "session" || l.CSR != changes[1].CSR {
		t.Errorf("%+v", l)
	}
	var got []string
	for _, l := range auditEvents(t, s.DataDir, "refusals") {
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

// wantAuditedSession checks that the login has a line, and that the change that was made
// in its session names the same one.
func wantAuditedSession(t *testing.T, s *start.Instance, session string) {
	t.Helper()
	lines, err := auditLines(s.DataDir, "refusals")
	if err != nil {
		t.Fatal(err)
	}
	logins := slices.DeleteFunc(lines, func(l auditLine) bool { return l.Event != "login" })
	sum := sha256.Sum256([]byte(session))
	want := hex.EncodeToString(sum[:])[:16]
	if len(logins) != 1 || logins[0].User != start.User || logins[0].Method != "basic" || logins[0].Route != "POST "+start.SessionPath || logins[0].Session != want {
		t.Errorf("logins %+v, want one of the session %s", logins, want)
	}
	changes := auditEvents(t, s.DataDir, "changes")
	if changes[1].Session != "" || changes[2].Session != want {
		t.Errorf("sessions of the changes: %q and %q, want none and %q", changes[1].Session, changes[2].Session, want)
	}
}

// longestSpecs are bodies of creates that are as long as a body may be: for ESX with every
// part at its bound, for NSX with as many attributes as fit.
func longestSpecs(t *testing.T) (esx, nsx string) {
	t.Helper()
	long := func(n int) string { return strings.Repeat("𝔸", n) }
	var hosts []string
	for i := range 100 {
		hosts = append(hosts, fmt.Sprintf("h%03d.", i)+strings.Repeat(strings.Repeat("a", 60)+".", 4)+"com")
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil || len(b) > 64<<10 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		return string(b)
	}
	esx = encode(map[string]any{
		"common_name": long(64), "organization": long(64), "organization_unit": long(64), "locality": long(128), "state_or_province": long(128),
		"country": "US", "email_address": strings.Repeat("e", 64) + "@" + hosts[0][:180] + ".com", "subject_alt_name": hosts,
	})
	type attribute struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	attributes := []attribute{{"CN", `"\"`}}
	for range 100 {
		attributes = append(attributes, attribute{"L", strings.Repeat(`"`, 128)})
	}
	nsx = encode(map[string]any{
		"subject": map[string]any{"attributes": attributes}, "algorithm": "EC", "key_size": 256,
		"extensions": map[string]any{"subject_alt_names": map[string]any{"dns_names": hosts}},
	})
	return esx, nsx
}

// TestAuditOfLongestSpecs: the longest requests leave lines that verify, with the first
// names, their number and the digest of all.
func TestAuditOfLongestSpecs(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	esx, nsx := longestSpecs(t)
	s.Must(201, "POST", start.CSRPath, esx)
	id := url.PathEscape(strings.Repeat("ü", 127))
	s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", nsx)
	s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=self_sign", "")
	kit.Eventually(t, "three changes beside the first", func() bool { return len(auditEvents(t, s.DataDir, "changes")) == 4 })
	for i, l := range auditEvents(t, s.DataDir, "changes")[1:] {
		want := []int{101, 100, 100}[i]
		if l.Subject == "" || l.NamesCount != want || len(l.Names) < 10 || len(l.Names) >= want || len(l.NamesSHA256) != 64 {
			t.Errorf("%+v", l)
		}
	}
	if out, err := auditVerify(s.DataDir); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAuditBlocked: the folder of the trail is gone. Changes go on until the outbox
// has as many as may wait, then they get a 503, and reads go on. When the folder is
// back, so are changes. The log has a copy of each line.
func TestAuditBlocked(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Settings: "audit: {copy_to_log: true, outbox_bound: 20}\n"})
	folder := filepath.Join(s.DataDir, server.AuditDir)
	away := filepath.Join(t.TempDir(), "away")
	s.WaitForLines()
	kit.Rename(t, folder, away)
	kit.Overwrite(t, s.DataDir, server.AuditDir, "not a folder")

	made := 0
	for refused := false; !refused; made++ {
		a, err := s.Do("POST", fmt.Sprintf("%s/%d?action=create", start.NSXCSRs, made), start.ECSpec("web"))
		if err != nil || made > 200 {
			t.Fatalf("changes go on for ever: %d, %v", made, err)
		}
		refused = a.Status == 503
	}
	if made--; made < 20 { // the last was refused
		t.Errorf("refused after %d changes", made)
	}
	s.Must(503, "POST", start.CSRPath, start.ValidSpec)
	s.Must(503, "DELETE", start.CSRPath, "")
	s.Must(503, "GET", "/readyz", "")
	s.Must(200, "GET", "/healthz", "")
	s.Must(200, "GET", start.CertificatePath, "")

	kit.Remove(t, s.DataDir, server.AuditDir)
	kit.Rename(t, away, folder)
	kit.Eventually(t, "changes go on", func() bool {
		a, err := s.Do("POST", start.CSRPath, start.ValidSpec)
		return err == nil && a.Status == 201
	})
	s.Must(200, "GET", "/readyz", "")
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	want := made + 2 // the first certificate, and the last CSR
	if n := len(auditEvents(t, s.DataDir, "changes")); n != want {
		t.Errorf("%d lines, want %d", n, want)
	}
	if n := strings.Count(s.Stdout.String(), `"msg":"audit","line":{"v":2,"stream":"changes"`); n != want+3 { // and those of the file, the start and the stop
		t.Errorf("%d lines are copied to the log, want %d", n, want+3)
	}
	if out, err := auditVerify(s.DataDir); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

package handler_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/test/kit"
)

// checkReport is the answer to a check.
type checkReport struct {
	Accepted     bool           `json:"accepted"`
	Key          string         `json:"key"`
	Anchored     bool           `json:"anchored"`
	Unchanged    bool           `json:"unchanged"`
	Active       string         `json:"active"`
	Staged       *checkStaged   `json:"staged"`
	Certificates []checkedChain `json:"certificates"`
	Checks       []checkResult  `json:"checks"`
}

type checkStaged struct {
	Since  string `json:"since"`
	Active string `json:"active"`
	SHA256 string `json:"sha256"`
}

type checkedChain struct {
	Subject            string   `json:"subject"`
	Issuer             string   `json:"issuer"`
	Serial             string   `json:"serial"`
	NotBefore          string   `json:"not_before"`
	NotAfter           string   `json:"not_after"`
	KeyAlgorithm       string   `json:"key_algorithm"`
	KeyBits            int      `json:"key_bits"`
	SignatureAlgorithm string   `json:"signature_algorithm"`
	CA                 bool     `json:"ca"`
	Names              []string `json:"names"`
	SHA256             string   `json:"sha256"`
}

type checkResult struct {
	Check    string        `json:"check"`
	Result   string        `json:"result"`
	Messages []vapiMessage `json:"messages"`
}

// checkCall asks whether a chain would be set, or with an id whether it would be imported.
func checkCall(id, chain string) call {
	body := `{"kind":"certificate","certificate":` + kit.JSON(chain) + `}`
	if id != "" {
		body = `{"kind":"import","id":` + kit.JSON(id) + `,"certificate":` + kit.JSON(chain) + `}`
	}
	return call{method: "POST", path: checkPath, body: body}
}

// reportOf reads a report. It has every check, in order.
func reportOf(t testing.TB, a answer) checkReport {
	t.Helper()
	if a.status != http.StatusOK || a.header.Get("Content-Type") != asJSON || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	r := decode[checkReport](t, a)
	var checks []pkcs10.Check
	for _, c := range r.Checks {
		checks = append(checks, pkcs10.Check(c.Check))
		if !slices.Contains([]string{"passed", "failed", "warning", "not_made"}, c.Result) || c.Messages == nil || c.Result == "failed" && (r.Accepted || len(c.Messages) == 0) {
			t.Errorf("%+v in %s", c, a.body)
		}
		for _, m := range c.Messages {
			if m.ID == "" || m.Default == "" || m.Args == nil {
				t.Errorf("incomplete message %+v", m)
			}
		}
	}
	if !slices.Equal(checks, pkcs10.Checks()) || r.Certificates == nil {
		t.Errorf("checks %v in %s", checks, a.body)
	}
	return r
}

// failures are the messages of the checks that failed.
func (r checkReport) failures() (messages []string) {
	for _, c := range r.Checks {
		if c.Result != "failed" {
			continue
		}
		for _, m := range c.Messages {
			messages = append(messages, m.ID+": "+m.Default)
		}
	}
	return messages
}

func (r checkReport) result(check pkcs10.Check) checkResult {
	for _, c := range r.Checks {
		if c.Check == string(check) {
			return c
		}
	}
	return checkResult{}
}

// A check says when a certificate would become active, and which one waits for that.
func TestConsoleCheckStaged(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{freshKeys: true, wait: time.Hour})
	chain := issueFor(t, newTestCA(t), s.createCSR(validSpec))
	before := reportOf(t, s.do(checkCall("", chain)))
	active, err := time.Parse(time.RFC3339, before.Active)
	if left := time.Until(active); err != nil || left < 50*time.Minute || left > 62*time.Minute || before.Staged != nil {
		t.Errorf("%+v", before)
	}
	if a := s.setCertificate(chain); a.status != http.StatusNoContent {
		t.Fatalf("set: %d %s", a.status, a.body)
	}
	after := reportOf(t, s.do(checkCall("", chain)))
	if st := after.Staged; st == nil || st.Active != before.Active || st.SHA256 != after.Certificates[0].SHA256 || st.Since == "" || after.Key != "staged" || !after.Unchanged {
		t.Errorf("%+v, %+v", after, st)
	}
}

// A check says what a set would do, and does nothing.
func TestConsoleCheck(t *testing.T) {
	t.Parallel()
	s := newStackOf(t, setup{freshKeys: true})
	ca := newTestCA(t)
	initial, pending := s.installed(), s.createCSR(validSpec)
	chain := issueFor(t, ca, pending) + kit.PEM(ca.Cert)
	check := func(chain string) checkReport { t.Helper(); return reportOf(t, s.do(checkCall("", chain))) }

	r := check(chain)
	if !r.Accepted || r.Key != "pending" || r.Unchanged || r.Anchored || len(r.Certificates) != 2 || len(r.failures()) != 0 {
		t.Errorf("a good chain: %+v", r)
	}
	if c := r.Certificates; c[0].Subject != "CN=issued" || c[0].Issuer != "CN=Test CA" || c[1].Subject != "CN=Test CA" || !c[1].CA || c[0].KeyBits != 2048 || len(c[0].SHA256) != 64 {
		t.Errorf("certificates %+v", c)
	}
	if r.Active != "" || r.Staged != nil {
		t.Errorf("it waits: %q, %+v", r.Active, r.Staged)
	}
	if s.installed() != initial || s.do(call{method: "GET", path: csrPath}).member(t, "csr") != pending {
		t.Error("a check changed something")
	}
	if a := s.setCertificate(chain); a.status != http.StatusNoContent {
		t.Fatalf("set: %d %s", a.status, a.body)
	}
	if r := check(chain); !r.Accepted || r.Key != "installed" || !r.Unchanged {
		t.Errorf("the installed chain: %+v", r)
	}
	if r := check(issueFor(t, ca, pending)); !r.Accepted || r.Key != "installed" || r.Unchanged {
		t.Errorf("a renewal: %+v", r)
	}
	if r := check(initial); r.Accepted || r.Key != "" || r.result(pkcs10.CheckKey).Result != "failed" {
		t.Errorf("a chain for another key: %+v", r)
	}
	if r := check("rubbish"); r.Accepted || len(r.Certificates) != 0 || r.result(pkcs10.CheckEncoding).Result != "failed" || r.result(pkcs10.CheckKey).Result != "not_made" {
		t.Errorf("rubbish: %+v", r)
	}
}

// The kind import, in a session of the NSX dialect.
func TestConsoleCheckImport(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	const id = "sub/ject"
	named := s.nsxMake(id, quickSpec)
	ca := newTestCA(t)
	chain := issueFor(t, ca, *named.PEMEncoded)
	session := s.nsxLogin("reader", readerPassword)
	if r := reportOf(t, s.do(session.carry(checkCall(id, chain)))); !r.Accepted || r.Key != "pending" || len(r.Certificates) != 1 {
		t.Errorf("a good chain: %+v", r)
	}
	// A violation has its rule in the id, and the field and the value as arguments.
	stranger := kit.PEM(ca.Issue(t, "stranger", kit.NewKey(t).Public()))
	c := reportOf(t, s.do(session.carry(checkCall(id, stranger)))).result(pkcs10.CheckKey)
	if c.Result != "failed" || len(c.Messages) != 1 || c.Messages[0].ID != "attestcsr.csr.key_mismatch" || !slices.Equal(c.Messages[0].Args, []string{"certificate", "CN=stranger"}) ||
		!strings.HasPrefix(c.Messages[0].Default, `certificate 1 "CN=stranger" `) {
		t.Errorf("a chain for another key: %+v", c)
	}
	if a := s.importChain(id, chain, ""); a.status != http.StatusCreated {
		t.Fatalf("import: %d %s", a.status, a.body)
	}
	if a := s.do(checkCall(id, chain)); a.status != http.StatusNotFound || a.vapiError(t).ErrorType != "NOT_FOUND" {
		t.Errorf("the CSR was used up: %d %s", a.status, a.body)
	}
}

func TestConsoleBadInput(t *testing.T) {
	t.Parallel()
	s := newStack(t)
	of := func(name, body, says string, ids ...string) esxRefusal {
		return esxRefusal{name: name, call: call{body: body}, ids: ids, says: says}
	}
	for _, test := range []esxRefusal{
		of("nothing", `{}`, `"kind"`, missingField, missingField),
		of("no certificate", `{"kind":"certificate"}`, `"certificate" is missing`, missingField),
		of("unknown kind", `{"kind":"key","certificate":"x"}`, `"kind" must be certificate or import`, "attestcsr.console.kind"),
		of("import without an id", `{"kind":"import","certificate":"x"}`, `"id" is missing`, missingField),
		of("certificate with an id", `{"kind":"certificate","id":"x","certificate":"x"}`, `"id" goes with the kind import`, "attestcsr.console.id"),
		of("id that is none", `{"kind":"import","id":"..","certificate":"x"}`, `id ".." must be 1 to 255 bytes`, "attestcsr.csr.not_an_id"),
		of("empty id", `{"kind":"import","id":"","certificate":"x"}`, `id must be`, "attestcsr.csr.not_an_id"),
		of("types", `{"kind":1,"id":2,"certificate":["x"]}`, `"kind" must be a string, not a number`, unexpectedType, unexpectedType, unexpectedType),
		of("unknown member", `{"kind":"certificate","pem":"x"}`, `"pem"`, unknownField, missingField),
		{name: "query", call: call{path: checkPath + "?kind=import", body: `{}`}, ids: []string{unknownProperty}},
		{name: "Content-Type", call: call{body: `{}`, header: map[string]string{"Content-Type": "text/plain"}}, errorType: "INVALID_REQUEST", ids: []string{wrongMediaType}},
		{name: "too large", call: call{body: `{"certificate":"` + strings.Repeat("x", 64<<10) + `"}`}, status: 413, errorType: "INVALID_REQUEST"},
		{name: "absent CSR", call: checkCall("none", "x"), status: 404, errorType: "NOT_FOUND"},
		{name: "no credentials", call: call{anonymous: true}, status: 401, errorType: "UNAUTHENTICATED"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.call
			c.method = "POST"
			if c.path == "" {
				c.path = checkPath
			}
			if test.status == 0 {
				test.status = http.StatusBadRequest
			}
			if test.errorType == "" {
				test.errorType = "INVALID_ARGUMENT"
			}
			a := s.do(c)
			doc := a.vapiError(t)
			var ids []string
			for _, m := range doc.Messages {
				ids = append(ids, m.ID)
			}
			if a.status != test.status || doc.ErrorType != test.errorType || test.ids != nil && !slices.Equal(ids, test.ids) || !strings.Contains(doc.Messages[0].Default, test.says) {
				t.Errorf("%d %s", a.status, a.body)
			}
			if a.header.Get("Cache-Control") != "no-store" {
				t.Error("the answer may be stored")
			}
		})
	}
	if log := s.logged(s.do(checkCall("", "x"))); !strings.Contains(log, `"route":"`+checkPath+`"`) || !strings.Contains(log, `"user":"admin"`) {
		t.Errorf("log line %s", log)
	}
	if metrics := s.get("/metrics"); !strings.Contains(metrics, `attestcsr_http_request_duration_seconds_count{code="`+strconv.Itoa(http.StatusOK)+`",method="POST",route="`+checkPath+`"} 1`) {
		t.Error("the check is not counted under its route")
	}
}

package handler_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// newFuzzed is a stack that has a key of each size already: the fuzzer takes an
// input for one that hangs when a key is made for it.
func newFuzzed(f *testing.F, options ...option) *stack {
	f.Helper()
	s := newStack(f, options...)
	for _, size := range []int{2048, 3072, 4096} {
		s.createCSR(strings.Replace(validSpec, "{", fmt.Sprintf(`{"key_size":%d,`, size), 1))
	}
	return s
}

// wantOf is what a CSR has to say for a body that was accepted, read by another
// JSON library and by rules that are only as good as they must be for what is
// accepted.
func wantOf(body []byte, nsx bool) (wantedCSR, error) {
	if nsx {
		return wantOfNSX(body)
	}
	var b struct {
		KeySize      *int     `json:"key_size"`
		CommonName   *string  `json:"common_name"`
		Organization string   `json:"organization"`
		Unit         string   `json:"organization_unit"`
		Locality     string   `json:"locality"`
		State        string   `json:"state_or_province"`
		Country      string   `json:"country"`
		Email        string   `json:"email_address"`
		AltNames     []string `json:"subject_alt_name"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return wantedCSR{}, err
	}
	s := generated{want: wantedCSR{bits: 2048}}
	if b.KeySize != nil {
		s.want.bits = *b.KeySize
	}
	name := "esx-01.example.com"
	if b.CommonName != nil {
		name = *b.CommonName
	}
	for _, a := range []wantedAttribute{{"C", strings.ToUpper(b.Country)}, {"ST", b.State}, {"L", b.Locality}, {"O", b.Organization}, {"OU", b.Unit}, {"CN", name}} {
		if a.value != "" {
			s.want.subject = append(s.want.subject, a)
		}
	}
	if b.Email != "" {
		s.name(wantedName{mailTag, b.Email})
	}
	for _, text := range b.AltNames {
		scheme, _, hasAuthority := strings.Cut(text, "://")
		switch ip := net.ParseIP(text); {
		case hasAuthority && !strings.ContainsAny(scheme, `"@`), strings.HasPrefix(strings.ToLower(text), "urn:"):
			s.name(wantedName{uriTag, text})
		case strings.Contains(text, "@"):
			s.name(wantedName{mailTag, text})
		case ip != nil:
			s.name(wantedName{ipTag, string(shortest(ip))})
		default:
			s.name(wantedName{dnsTag, text})
		}
	}
	return s.want, nil
}

func wantOfNSX(body []byte) (wantedCSR, error) {
	var b struct {
		Subject struct {
			Attributes []struct{ Key, Value string }
		}
		KeySize    json.Number `json:"key_size"` // also a string
		Algorithm  string
		IsCA       bool `json:"is_ca"`
		Extensions struct {
			AltNames struct {
				DNS []string `json:"dns_names"`
				IP  []string `json:"ip_addresses"`
			} `json:"subject_alt_names"`
		}
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return wantedCSR{}, err
	}
	s := generated{want: wantedCSR{bits: 2048, ca: b.IsCA, curve: b.Algorithm == "EC"}}
	if s.want.curve {
		s.want.bits = 256
	}
	if size, err := b.KeySize.Int64(); err == nil {
		s.want.bits = int(size)
	}
	for _, a := range b.Subject.Attributes {
		if a.Key == "C" {
			a.Value = strings.ToUpper(a.Value)
		}
		s.want.subject = append(s.want.subject, wantedAttribute{a.Key, a.Value})
	}
	for _, name := range b.Extensions.AltNames.DNS {
		s.name(wantedName{dnsTag, name})
	}
	for _, text := range b.Extensions.AltNames.IP {
		s.name(wantedName{ipTag, string(shortest(net.ParseIP(text)))})
	}
	return s.want, nil
}

func shortest(ip net.IP) net.IP {
	if four := ip.To4(); four != nil {
		return four
	}
	return ip
}

// FuzzCreate: any body that is accepted becomes a CSR that crypto/x509 verifies
// and that says, in every field, what the body asks for; any that is refused is
// refused with a reason, and names a field where the body is JSON of an object.
func FuzzCreate(f *testing.F) {
	for n := range uint64(30) {
		spec := newGenerator(1, n).spec()
		f.Add([]byte(spec.body), spec.nsx)
	}
	for _, body := range []string{validSpec, "", "{}", "[]", `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"EC"}`} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	s := newFuzzed(f)
	f.Fuzz(func(t *testing.T, body []byte, nsx bool) {
		defer s.log.Reset()
		spec := generated{nsx: nsx, body: string(body)}
		if nsx {
			defer s.serve(call{method: http.MethodDelete, path: nsxPath("fuzzed")})
		}
		a := s.serve(spec.call("fuzzed"))
		s.witness.report(t)
		switch a.status {
		case http.StatusCreated:
			text, err := spec.pem(a)
			if err != nil {
				t.Fatal(err)
			}
			want, err := wantOf(body, nsx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := want.judge(text); err != nil {
				t.Fatal(err)
			}
		case http.StatusBadRequest:
			spec.checkReason(t, a)
		case http.StatusRequestEntityTooLarge:
			if len(body) <= 64<<10 {
				t.Fatalf("%d bytes are too many", len(body))
			}
		default:
			t.Fatalf("%d %s", a.status, a.body)
		}
	})
}

// checkReason fails unless an answer of 400 says what is wrong: a field, or where the
// body is no JSON.
func (s generated) checkReason(t *testing.T, a answer) {
	t.Helper()
	if s.nsx && *a.nsxError(t).Code == 220 || !s.nsx && a.vapiError(t).Messages[0].ID == invalidJSON {
		return
	}
	if named, _ := s.named(t, a); len(named) == 0 {
		t.Fatalf("refused without a reason: %s", a.body)
	}
}

// FuzzRequest: whatever somebody who may do everything sends, it is answered, in
// the words of the dialect that the path belongs to, it is no fault of the
// service's, and it is one line of the log that holds nothing unprintable.
func FuzzRequest(f *testing.F) {
	const form = "Content-Type: application/x-www-form-urlencoded"
	spec := `{"subject":{"attributes":[{"key":"CN","value":"x"}]},"algorithm":"EC"}`
	multipart := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n-----BEGIN CERTIFICATE-----\r\n--b--\r\n"
	for _, seed := range [][4]string{
		{"GET", csrPath, "", ""}, {"POST", csrPath, "Content-Type: application/json", validSpec}, {"DELETE", csrPath, "", "{}"},
		{"GET", certificatePath, "vapi-ctx-opid: \x1b[2J", ""}, {"PUT", certificatePath, "Content-Type: application/json; charset=UTF-8", `{"certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`},
		{"POST", sessionPath, "", ""}, {"POST", legacyPath + "?~action=get", "vmware-api-session-id: x", ""}, {"DELETE", legacyPath, "Cookie: vmware-api-session-id=x", ""},
		{"POST", nsxPath("a/b", "action=create"), "", spec}, {"GET", nsxPath("a/b") + "/pem-file", "", ""}, {"POST", nsxPath("a", "action=self_sign", "days_valid=3"), "", ""},
		{"POST", nsxPath("", "action=self_sign"), "", spec}, {"POST", nsxPath("a", "action=import"), "", `{"pem_encoded":"x"}`},
		{"POST", nsxPath("a", "action=upload"), "Content-Type: multipart/form-data; boundary=b", multipart},
		{"GET", nsxCSRs + "?page_size=1&sort_by=display_name&sort_ascending=false&included_fields=id,path&cursor=AWlh", "X-Forwarded-For: 198.51.100.7, x", ""},
		{"GET", nsxCertificates + "?cursor=%zz", "X-Forwarded-For: ::1%eth0", ""}, {"DELETE", nsxCertificates + "/x%00", "", ""},
		{"POST", checkPath, "Content-Type: application/json", `{"kind":"import","id":"a","certificate":"x"}`}, {"POST", checkPath, "Content-Type: application/json; charset=UTF-8", "\ufeff{\"kind\":7,\"kind\":\"\xff\"}"},
		{"PUT", transitSign + "attestation/sha2-256", "X-Vault-Token: x", `{"input":"YQ=="}`}, {"LIST", transitKeys, "X-Vault-Namespace: x", ""},
		{"POST", userpassLogin + "a%2Fb", "", `{"password":"x"}`}, {"GET", transitHealth + "?activecode=404", "", ""}, {"DELETE", transitKeys + "//x", "", ""},
		{"GET", legacyPath, "Cookie: vmware-api-session-id=", ""}, {"POST", sessionPath, "vmware-use-header-authn: true", ""},
		{"POST", "/api/session/create", form, "j_username=admin&j_password=x"}, {"GET", "/api/session/destroy", "Cookie: JSESSIONID=x", ""},
		{"GET", "/metrics", "", ""}, {"HEAD", "/readyz", "", ""}, {"OPTIONS", "*", "", ""}, {"BREW", "//api/../policy/%2e%2e/", "Host: x", ""},
		{"GET", "/policy/api/v1/infra/csrs//pem-file", "", ""}, {"GET", "http://other/policy;a=b?x", "X-Request-ID: a\tb", ""}, {"POST", "/rest/com/vmware/cis/session?%", "Transfer-Encoding: chunked", "0\r\n\r\n"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	s := newFuzzed(f, trusting("192.0.2.0/24"))
	f.Fuzz(func(t *testing.T, method, target, header, body string) {
		raw := method + " " + target + " HTTP/1.1\r\nHost: h\r\nAuthorization: Basic " +
			base64.StdEncoding.EncodeToString([]byte("admin:"+adminPassword)) + "\r\n" + header + "\r\n\r\n" + body
		if header == "" {
			raw = strings.Replace(raw, "\r\n\r\n\r\n", "\r\n\r\n", 1)
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return // the server's answer is that of net/http
		}
		r.RemoteAddr = "192.0.2.1:1234"
		if r.ContentLength == 0 && len(r.TransferEncoding) == 0 {
			r.Body = http.NoBody
			if body != "" {
				r = withBody(r, body)
			}
		}
		s.log.Reset()
		a := s.serveRequest(r)
		s.witness.report(t)
		checkLog(t, s.log.String(), a)
		switch {
		case a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "": // too many sessions
		case a.status >= 500 || a.status < 200:
			t.Fatalf("%d %s\n%s", a.status, a.body, s.log)
		}
		for name, values := range a.header {
			for _, value := range values {
				if strings.ContainsFunc(name+value, unicode.IsControl) {
					t.Fatalf("header %q: %q", name, value)
				}
			}
		}
		if a.status >= 400 {
			checkDocument(t, r.URL.Path, a)
		}
	})
}

func withBody(r *http.Request, body string) *http.Request {
	with := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Body, r.ContentLength = with.Body, with.ContentLength
	return r
}

func checkLog(t *testing.T, log string, a answer) {
	t.Helper()
	lines := 0
	for line := range strings.Lines(log) {
		var event struct {
			Msg       string `json:"msg"`
			Client    string `json:"client"`
			Status    int    `json:"status"`
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil || !utf8.ValidString(line) || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), unicode.IsControl) {
			t.Fatalf("log line %q: %v", line, err)
		}
		if event.Msg != "request" {
			continue
		}
		lines++
		if _, err := netip.ParseAddr(event.Client); err != nil {
			t.Fatalf("client %q: %v", event.Client, err)
		}
		if event.Status != a.status || event.RequestID == "" || event.RequestID != a.header.Get("X-Request-Id") {
			t.Fatalf("%s for an answer of %d", line, a.status)
		}
	}
	if lines != 1 {
		t.Fatalf("%d lines of the log:\n%s", lines, log)
	}
}

// checkDocument fails unless the error document is that of the path's dialect.
func checkDocument(t *testing.T, path string, a answer) {
	t.Helper()
	in := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
	switch {
	case !utf8.Valid(a.body):
		t.Fatalf("%q", a.body)
	case in("/policy"), path == "/api/session/create", path == "/api/session/destroy":
		a.nsxError(t)
	case path == transitHealth && strings.HasPrefix(string(a.body), `{"initialized":`): // a status that the client has chosen
	case in("/v1"):
		a.vaultErrors(t)
	case in("/rest"):
		if doc := decode[legacyError](t, a); !strings.HasPrefix(doc.Type, "com.vmware.vapi.std.errors.") || len(doc.Value.Messages) == 0 {
			t.Fatalf("%s", a.body)
		}
	default:
		a.vapiError(t)
	}
}

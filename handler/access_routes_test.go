package handler_test

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"attestcsr/csr"
	"attestcsr/handler"
	"attestcsr/test/kit"
)

// row is what one kind of request gets, whoever sends it. A row is a route as the
// handler has it, with one action where a route has several.
type row struct {
	route  string // "METHOD template" as the handler lists it; empty for a path that no route has
	method string // of the request, where it is not that of the route
	path   string
	body   string
	form   bool // the body is a form

	dialect dialect
	kind    rowKind
	needs   csr.Privilege
	op      csr.Operation   // for kind operation
	either  bool            // the console: who holds neither privilege is refused before the body is read
	or      []csr.Privilege // who holds one of these may as well
	key     string          // what stands in the log line behind the operation
	tells   bool            // the answer has the session id, for who sent it
	// allowed is what those get who may: requests are made so that nothing
	// changes, and the answer tells that the operation's own handler was reached.
	allowed want
}

// rowKind says who may.
type rowKind int

const (
	open      rowKind = iota // everybody, with or without credentials of any kind
	login                    // who sends a right password
	ofSession                // who sends a session
	operation                // who holds a privilege
)

// dialect is one set of documents and sessions.
type dialect struct {
	name     string // whose sessions count
	document func(d documented) string
}

// documented is an error as each dialect has it.
type documented struct {
	status            int
	errorType, id     string // vSphere
	args              string // vSphere: content of the list
	code              string // NSX
	module            string // NSX, unless policy
	message, message2 string // of vSphere and of NSX
	errors            string // of transit: content of the list
	details           bool   // NSX: the message again
}

var (
	inESX = dialect{"esx", func(d documented) string {
		return `{"error_type":"` + d.errorType + `","messages":[` + vsphere(d) + `]}`
	}}
	inLegacy = dialect{"esx", func(d documented) string {
		return `{"type":"com.vmware.vapi.std.errors.` + strings.ToLower(d.errorType) + `","value":{"messages":[` + vsphere(d) + `]}}`
	}}
	inTransit = dialect{"transit", func(d documented) string { return `{"errors":[` + d.errors + `]}` }}
	// The console takes sessions of both dialects.
	inConsole = dialect{"console", inESX.document}
	// The session of our own pages is one of them alone.
	inPage = dialect{"page", inESX.document}
	inNSX  = dialect{"nsx", func(d documented) string {
		status := strings.ReplaceAll(strings.ToUpper(http.StatusText(d.status)), " ", "_")
		module, details := "policy", ""
		if d.module != "" {
			module = d.module
		}
		if d.details {
			details = `,"details":"` + d.message2 + `"`
		}
		return `{"httpStatus":"` + status + `","error_code":` + d.code + `,"module_name":"` + module + `","error_message":"` + d.message2 + `"` + details + `}`
	}}
)

func vsphere(d documented) string {
	return `{"id":"` + d.id + `","default_message":"` + d.message + `","args":[` + d.args + `]}`
}

// want is an answer. The body is exact where it is no pattern.
type want struct {
	status      int
	contentType string
	body        string
	pattern     *regexp.Regexp
	allow       string         // Allow header
	cookie      *regexp.Regexp // the only line of Set-Cookie
	token       bool           // X-XSRF-TOKEN
	cached      string         // Cache-Control, where it is not no-store
	quiet       bool           // no challenge, which would make a browser ask for a password
}

const asJSON = "application/json"

func (d dialect) answer(e documented) want {
	if d.name == inTransit.name && e.status == http.StatusUnauthorized {
		e.status = http.StatusForbidden
	}
	return want{status: e.status, contentType: asJSON, body: d.document(e)}
}

// matching is an answer whose body varies.
func matching(status int, contentType, pattern string) want {
	return want{status: status, contentType: contentType, pattern: regexp.MustCompile(`(?s)^(?:` + pattern + `)$`)}
}

// The refusals of both dialects, and the answers that tell that an
// operation was reached.
var (
	unauthenticated = documented{status: 401, errorType: "UNAUTHENTICATED", id: "com.vmware.vapi.endpoint.method.authentication.required", message: "Authentication required.",
		code: "403", module: "common-services", message2: "The credentials were incorrect or the account specified has been locked.", errors: `"permission denied"`}
	forged = documented{status: 403, errorType: "UNAUTHORIZED", id: "attestcsr.forged", message: "Another site may have sent this request: its origin is not among the allowed_origins of the service, or the X-XSRF-TOKEN header is not that of the session.",
		code: "98", message2: "Another site may have sent this request: the X-XSRF-TOKEN header is not that of the session, or the origin is not among the allowed_origins of the service.",
		errors: `"permission denied: a page of another site sent this request, and its origin is not among the allowed_origins of the service"`}
	noPath = documented{status: 404, errorType: "NOT_FOUND", id: "com.vmware.vapi.rest.httpNotFound", message: "Not found.",
		code: "600", message2: "The requested path does not exist."}
	noMethod = documented{status: 405, errorType: "INVALID_REQUEST", id: "com.vmware.vapi.rest.httpMethodNotAllowed", message: "This path does not have that method: the Allow header lists those it has.",
		code: "255", message2: "This path does not have that method: the Allow header lists those it has.",
		errors: `"unsupported operation: the Allow header lists the methods that this path has"`}
	notObject = documented{status: 400, errorType: "INVALID_ARGUMENT", id: "vapi.protocol.server.rest.invalid_json_content", args: `"the body is not a JSON object"`, message: "Invalid JSON content: the body is not a JSON object."}
	notJSON   = documented{status: 400, code: "220", message2: "Failed to parse the JSON of the request body: the body is not a JSON object."}
	noQuery   = documented{status: 400, errorType: "INVALID_ARGUMENT", id: "vapi.protocol.server.rest.unsupported_property", args: `"foo"`, message: "Unsupported property with name: foo."}
)

func unauthorised(needs csr.Privilege) documented {
	return documented{status: 403, errorType: "UNAUTHORIZED", id: "vapi.security.authorization.invalid", message: "The user does not hold the privilege " + string(needs) + ".",
		code: "289", message2: "The user does not have permission for this operation on the feature policy_certificate.",
		errors: `"permission denied: the user does not hold the privilege ` + string(needs) + `"`}
}

func fieldError(problem string) documented {
	return documented{status: 400, code: "255", details: true, message2: "Field level validation errors: {" + problem + "}"}
}

func noObject(path string) documented {
	return documented{status: 404, code: "600", message2: "The requested object : " + path + " could not be found. Object identifiers are case sensitive."}
}

// accessRows are the rows of the matrix. csrID is a CSR of the NSX dialect that is
// there, certificateID a certificate, asset the path of an asset.
func accessRows(csrID, certificateID, asset string) []row {
	rows := slices.Concat(esxRows(), esxSessionRows(), consoleRows(csrID), consoleSessionRows(), pageRows(asset), nsxRows(csrID, certificateID), nsxSessionRows(), transitRows(), publishedRows(), opsRows(), pathlessRows())
	// HEAD follows GET, and OPTIONS is a method that no path has.
	allow := map[string][]string{}
	templates := map[string]row{}
	for _, r := range slices.Clone(rows) {
		method, template, _ := strings.Cut(r.route, " ")
		if r.route == "" || method == handler.NotFoundMethod {
			continue
		}
		templates[template] = r
		methods := []string{method}
		if method == http.MethodGet {
			methods = append(methods, http.MethodHead)
			head := r
			head.route, head.allowed.body, head.allowed.pattern = "HEAD "+template, "", nil
			rows = append(rows, head)
		}
		for _, m := range methods {
			if !slices.Contains(allow[template], m) {
				allow[template] = append(allow[template], m)
			}
		}
	}
	for template, r := range templates {
		refused := r.dialect.answer(noMethod)
		refused.allow = strings.Join(allow[template], ", ")
		for method, route := range map[string]string{"OPTIONS": "OPTIONS " + template, "PATCH": "", "TRACE": ""} {
			path, _, _ := strings.Cut(r.path, "?")
			rows = append(rows, row{route: route, method: method, path: path, dialect: r.dialect, allowed: refused})
		}
	}
	return rows
}

func esxRows() []row {
	may := func(needs csr.Privilege, route, path, body string, op csr.Operation, allowed want) row {
		return row{route: route, path: path, body: body, dialect: inESX, kind: operation, needs: needs, op: op, allowed: allowed}
	}
	return []row{
		may(csr.SecurityManagement, "POST "+csrPath, csrPath, "[", csr.CreateCSR, inESX.answer(notObject)),
		may(csr.SecurityRead, "GET "+csrPath, csrPath, "", csr.GetCSR, matching(200, asJSON, `\{"csr":"-----BEGIN CERTIFICATE REQUEST-----\\n[^"]*"\}`)),
		may(csr.SecurityManagement, "DELETE "+csrPath, csrPath+"?foo=1", "", csr.DeleteCSR, inESX.answer(noQuery)),
		may(csr.SecurityRead, "GET "+certificatePath, certificatePath, "", csr.GetCertificate, matching(200, asJSON, `\{"certificate":"-----BEGIN CERTIFICATE-----\\n[^"]*"\}`)),
		may(csr.SecurityManagement, "PUT "+certificatePath, certificatePath, "[", csr.SetCertificate, inESX.answer(notObject)),
	}
}

const aSession = `\{"user":"[a-z]+","created_time":"20[-0-9]{8}T[0-9:]{8}\.\d{3}Z","last_accessed_time":"20[-0-9]{8}T[0-9:]{8}\.\d{3}Z"\}`

// esxCookieSet is the cookie that a login sets, with the id in its answer or none.
func esxCookieSet(path, id string) *regexp.Regexp {
	return regexp.MustCompile(`^vmware-api-session-id=` + id + `; Path=` + path + `; Secure; HttpOnly; SameSite=Strict$`)
}

var nsxCookieSet = regexp.MustCompile(`^JSESSIONID=[0-9a-f]{64}; Path=/; Secure; HttpOnly; SameSite=Lax$`)

func (w want) withCookie(c *regexp.Regexp) want { w.cookie = c; return w }

func esxSessionRows() []row {
	const id, removed = "[0-9a-f]{64}", "; Max-Age=0"
	set, setLegacy := esxCookieSet("/api", id), esxCookieSet("/rest", id)
	unset, unsetLegacy := esxCookieSet("/api"+removed, ""), esxCookieSet("/rest"+removed, "")
	shown := matching(200, asJSON, `\{"value":`+aSession+`\}`)
	return []row{
		{route: "POST " + sessionPath, path: sessionPath, dialect: inESX, kind: login, allowed: matching(201, asJSON, `"[0-9a-f]{64}"`).withCookie(set)},
		{route: "GET " + sessionPath, path: sessionPath, dialect: inESX, kind: ofSession, allowed: matching(200, asJSON, aSession)},
		{route: "DELETE " + sessionPath, path: sessionPath, dialect: inESX, kind: ofSession, allowed: want{status: 204, cookie: unset}},
		{route: "POST " + legacyPath, path: legacyPath, dialect: inLegacy, kind: login, allowed: matching(200, asJSON, `\{"value":"[0-9a-f]{64}"\}`).withCookie(setLegacy)},
		{route: "POST " + legacyPath, path: legacyPath + "?~action=get", dialect: inLegacy, kind: ofSession, allowed: shown},
		{route: "POST " + legacyPath, path: legacyPath + "?~action=steal", dialect: inLegacy, allowed: inLegacy.answer(noPath)},
		{route: "GET " + legacyPath, path: legacyPath, dialect: inLegacy, kind: ofSession, allowed: shown},
		{route: "DELETE " + legacyPath, path: legacyPath, dialect: inLegacy, kind: ofSession, allowed: want{status: 200, cookie: unsetLegacy}},
	}
}

func consoleRows(csrID string) []row {
	check := func(body string, op csr.Operation, needs csr.Privilege, allowed want) row {
		return row{route: "POST " + checkPath, path: checkPath, body: body, dialect: inConsole, kind: operation, op: op, needs: needs, either: true, allowed: allowed}
	}
	refused := matching(200, asJSON, `\{"accepted":false,.*"check":"encoding","result":"failed".*\}`)
	read := func(path string, op csr.Operation, needs csr.Privilege, pattern string) row {
		return row{route: "GET " + path, path: path, dialect: inConsole, kind: operation, op: op, needs: needs, allowed: matching(200, asJSON, pattern)}
	}
	return []row{
		read("/console/state", "", "", `\{"user":"\w+","privileges":\[.*\],"now":.*\}`),
		read("/console/series", "", "", `\{"interval":10,.*\}`),
		read("/console/trail", csr.ReadTrail, csr.AuditRead, `\{"lines":\[\]\}`),
		read("/console/nsx/csrs", csr.ListNamedCSRs, csr.PolicyCertificateRead, `\{"objects":\[\{"id":"`+csrID+`",.*"total":1\}`),
		read("/console/nsx/certificates", csr.ListNamedCertificates, csr.PolicyCertificateRead, `\{"objects":\[\{"id":.*"total":1\}`),
		check("[", "", "", inESX.answer(notObject)),
		check(`{"kind":"certificate","certificate":"x"}`, csr.CheckCertificate, csr.SecurityManagement, refused),
		check(`{"kind":"import","id":"`+csrID+`","certificate":"x"}`, csr.CheckImport, csr.PolicyCertificateCRUD, refused),
		{route: "GET /openapi.json", path: "/openapi.json", dialect: inESX, allowed: matching(200, asJSON, `\{"openapi": "3\.1\..*\}\n`)},
		{route: "GET /openapi.yaml", path: "/openapi.yaml", dialect: inESX, allowed: matching(200, "application/yaml", `openapi: 3\.1\..*`)},
	}
}

// consoleSessionRows are those of our own pages. Their login reads its body and nothing
// that callers carry.
func consoleSessionRows() []row {
	login := func(body string, allowed want) row {
		return row{route: "POST " + consoleSession, path: consoleSession, body: body, dialect: inPage, allowed: allowed}
	}
	of := func(user, password string) string {
		return kit.JSON(map[string]string{"user": user, "password": password})
	}
	cookie := func(value string) *regexp.Regexp {
		return regexp.MustCompile(`^__Host-attestcsr-console=` + value + `; Path=/; Secure; HttpOnly; SameSite=Strict$`)
	}
	const someone = `\{"user":"[a-z]+","privileges":\[[^]]*\]\}`
	return []row{
		login(of("admin", adminPassword), matching(200, asJSON, someone).withCookie(cookie("[0-9a-f]{64}"))),
		login(of("admin", "wrong"), inESX.answer(unauthenticated)),
		login(of("eve", "wrong"), inESX.answer(unauthenticated)),
		login("[", inESX.answer(notObject)),
		{route: "GET " + consoleSession, path: consoleSession, dialect: inPage, kind: ofSession, allowed: matching(200, asJSON, someone)},
		{route: "DELETE " + consoleSession, path: consoleSession, dialect: inPage, kind: ofSession, allowed: want{status: 204, cookie: cookie("; Max-Age=0")}},
	}
}

// pageRows need no credentials: pages show nothing by themselves.
func pageRows(asset string) []row {
	const html = "text/html; charset=utf-8"
	file := matching(200, "text/css; charset=utf-8", `.*`)
	file.cached = "public, max-age=31536000, immutable"
	return []row{
		{route: "GET /", path: "/", dialect: inESX, allowed: matching(200, html, `<!DOCTYPE html>.*`)},
		{route: "GET /apiexplorer", path: "/apiexplorer", dialect: inESX, allowed: matching(200, html, `<!DOCTYPE html>.*`)},
		{route: "GET /assets/:name", path: asset, dialect: inESX, allowed: file},
		{method: "GET", path: "/assets/base.css", dialect: inESX, allowed: inESX.answer(noPath)},
		{method: "GET", path: asset + "/x", dialect: inESX, allowed: inESX.answer(noPath)},
		{method: "GET", path: "/apiexplorer/", dialect: inESX, allowed: inESX.answer(noPath)},
	}
}

func nsxRows(csrID, certificateID string) []row {
	const csrs, certificates = nsxCSRs, nsxCertificates
	mayDo := func(route, path, body string, op csr.Operation, needs csr.Privilege, allowed want) row {
		return row{route: route, path: path, body: body, dialect: inNSX, kind: operation, needs: needs, op: op, allowed: allowed}
	}
	read := func(route, path string, op csr.Operation, allowed want) row {
		return mayDo(route, path, "", op, csr.PolicyCertificateRead, allowed)
	}
	change := func(route, path, body string, op csr.Operation, allowed want) row {
		return mayDo(route, path, body, op, csr.PolicyCertificateCRUD, allowed)
	}
	aList := `\{.*"results":\[\{.*\}\].*\}`
	return []row{
		read("GET "+csrs, csrs, csr.ListNamedCSRs, matching(200, asJSON, aList)),
		change("POST "+csrs, csrs+"?action=self_sign", "[", csr.SelfSignNew, inNSX.answer(notJSON)),
		change("POST "+csrs, csrs, "[", csr.CreateNamedCSR, inNSX.answer(fieldError("action is required"))),
		read("GET "+csrs+"/:id", csrs+"/"+csrID, csr.GetNamedCSR, matching(200, asJSON, `\{"resource_type":"TlsCsr","id":"`+csrID+`",.*\}`)),
		change("POST "+csrs+"/:id", csrs+"/"+csrID+"?action=create", "[", csr.CreateNamedCSR, inNSX.answer(notJSON)),
		change("POST "+csrs+"/:id", csrs+"/"+csrID+"?action=import", "[", csr.ImportCertificate, inNSX.answer(notJSON)),
		change("POST "+csrs+"/:id", csrs+"/"+csrID+"?action=upload", "[", csr.ImportCertificate, inNSX.answer(fieldError("the Content-Type must be multipart/form-data with a boundary"))),
		change("POST "+csrs+"/:id", csrs+"/none?action=self_sign", "", csr.SelfSign, inNSX.answer(noObject("/infra/csrs/none"))),
		change("POST "+csrs+"/:id", csrs+"/"+csrID+"?action=steal", "[", csr.CreateNamedCSR, inNSX.answer(fieldError(`action \"steal\" does not exist here`))),
		change("POST "+csrs+"/:id", csrs+"/"+csrID, "[", csr.CreateNamedCSR, inNSX.answer(fieldError("action is required"))),
		change("DELETE "+csrs+"/:id", csrs+"/none", "", csr.DeleteNamedCSR, inNSX.answer(noObject("/infra/csrs/none"))),
		read("GET "+csrs+"/:id/pem-file", csrs+"/"+csrID+"/pem-file", csr.GetNamedCSR, matching(200, "text/plain;charset=UTF-8", `-----BEGIN CERTIFICATE REQUEST-----\n.*\n-----END CERTIFICATE REQUEST-----\n`)),
		read("GET "+certificates, certificates, csr.ListNamedCertificates, matching(200, asJSON, aList)),
		read("GET "+certificates+"/:id", certificates+"/"+certificateID, csr.GetNamedCertificate, matching(200, asJSON, `\{"resource_type":"TlsCertificate","id":"`+certificateID+`",.*\}`)),
		change("DELETE "+certificates+"/:id", certificates+"/none", "", csr.DeleteNamedCertificate, inNSX.answer(noObject("/infra/certificates/none"))),

		{route: handler.NotFoundMethod + " " + certificates + "/:id/*", method: "DELETE", path: certificates + "/" + certificateID + "/x", dialect: inNSX, allowed: inNSX.answer(noPath)},
		{route: handler.NotFoundMethod + " " + csrs + "//pem-file", method: "GET", path: csrs + "//pem-file", dialect: inNSX, allowed: inNSX.answer(noPath)},
	}
}

// The login of this dialect reads its form and nothing that callers carry.
func nsxSessionRows() []row {
	form := func(user, password string) string {
		return url.Values{"j_username": {user}, "j_password": {password}}.Encode()
	}
	at := func(body string, isForm bool, allowed want) row {
		return row{route: "POST " + loginPath, path: loginPath, body: body, form: isForm, dialect: inNSX, allowed: allowed}
	}
	return []row{
		at(form("admin", adminPassword), true, want{status: 200, cookie: nsxCookieSet, token: true}),
		at(form("admin", "wrong"), true, inNSX.answer(unauthenticated)),
		at(form("eve", "wrong"), true, inNSX.answer(unauthenticated)),
		at(form("admin", adminPassword), false, inNSX.answer(fieldError("the Content-Type must be application/x-www-form-urlencoded"))),
		{route: "GET " + logoutPath, path: logoutPath, dialect: inNSX, kind: ofSession, allowed: want{status: 200}},
	}
}

// publishedRows are public: no credentials count, not even wrong ones.
func publishedRows() []row {
	keys := matching(200, "application/jwk-set+json", `\{"keys":\[\{.*"kid":"[-\w]{43}".*\}\]\}`)
	about := want{status: 200, contentType: asJSON, body: `{"issuer":"https://tokens.example.com","jwks_uri":"https://tokens.example.com/.well-known/jwks.json",` +
		`"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["RS256","RS384","RS512","PS256","PS384","PS512"]}`}
	keys.cached, about.cached = "public, max-age=300", "public, max-age=300"
	return []row{
		{route: "GET " + keySetPath, path: keySetPath, dialect: inESX, allowed: keys},
		{route: "GET " + discoveryPath, path: discoveryPath, dialect: inESX, allowed: about},
	}
}

func opsRows() []row {
	const text = "text/plain; charset=UTF-8"
	return []row{
		{route: "GET /healthz", path: "/healthz", dialect: inESX, allowed: want{status: 200, contentType: text, body: "ok\n"}},
		{route: "GET /readyz", path: "/readyz", dialect: inESX, allowed: want{status: 200, contentType: text, body: "ready\n"}},
		{route: "GET /metrics", path: "/metrics", dialect: inESX, allowed: matching(200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", `# HELP .*`)},
	}
}

// pathlessRows are paths that no route has, in the document of each dialect.
func pathlessRows() []row {
	var rows []row
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		for path, d := range map[string]dialect{
			"/api": inESX, "/console": inESX, checkPath + "/": inESX, csrPath + "/x": inESX, "/rest/com/vmware/cis": inLegacy, "/policy/api/v1/infra": inNSX, "/api/v1/trust-management/csrs": inNSX, "/api/v1": inNSX,
			"/global-manager/api/v1/infra/csrs": inNSX, "/api/v10": inESX, "/v1": inTransit, "/v1/transit/encrypt/attestation": inTransit, "/v1/transit/export/signing-key/attestation": inTransit, "/v10": inESX, "/global-managers": inESX, loginPath + "/x": inESX,
		} {
			rows = append(rows, row{method: method, path: path, dialect: d, allowed: d.answer(noPath)})
		}
	}
	return rows
}

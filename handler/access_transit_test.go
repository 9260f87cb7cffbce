package handler_test

import (
	"regexp"
	"strings"

	"attestcsr/csr"
	"attestcsr/handler"
)

const (
	lookupPath       = "/v1/auth/token/lookup-self"
	userpassLogin    = "/v1/auth/userpass/login/"
	transitKeys      = "/v1/transit/keys"
	transitSign      = "/v1/transit/sign/"
	transitVerify    = "/v1/transit/verify/"
	transitHealth    = "/v1/sys/health"
	inTransitFrame   = `"request_id":"[0-9a-f]{32}","lease_id":"","renewable":false,"lease_duration":0,`
	aTransitGrant    = `\{` + inTransitFrame + `"data":null,"wrap_info":null,"warnings":null,"auth":\{"client_token":"(?:[0-9a-f]{64})?",.*\}\}`
	notTransitObject = `"failed to parse JSON input: the body is not a JSON object"`
)

// transitRows are about the key attestation.
func transitRows() []row {
	at := func(method, template, path, body string, allowed want) row {
		return row{route: method + " " + template, path: path, body: body, dialect: inTransit, allowed: allowed}
	}
	ofToken := func(method, path string, tells bool, allowed want) row {
		r := at(method, path, path, "", allowed)
		r.kind, r.tells = ofSession, tells
		return r
	}
	may := func(r row, op csr.Operation, or ...csr.Privilege) row {
		r.kind, r.op, r.needs, r.or, r.key = operation, op, csr.AttestationSign, or, " of attestation"
		return r
	}
	data := func(pattern string) want {
		return matching(200, asJSON, `\{`+inTransitFrame+`"data":`+pattern+`,"wrap_info":null,"warnings":null,"auth":null\}`)
	}
	nobody := inTransit.answer(noPath)
	notAllowed := inTransit.answer(noMethod)
	notAllowed.allow = "LIST, GET, HEAD"
	anyKey := []csr.Privilege{csr.SecurityRead, csr.PolicyCertificateRead, csr.PolicyCertificateSign}
	listed := data(`\{"keys":\[.*\]\}`)
	listed.pattern = regexp.MustCompile(listed.pattern.String() + `|` + regexp.QuoteMeta(nobody.body))
	rows := []row{
		ofToken("GET", lookupPath, true, data(`\{"accessor":"",.*\}`)),
		at("GET", transitHealth, transitHealth, "", matching(200, asJSON, `\{"initialized":true,"sealed":false,.*\}`)),
		may(at("LIST", transitKeys, transitKeys, "", listed), csr.ReadKey, anyKey...),
		may(at("GET", transitKeys, transitKeys+"?list=true", "", listed), csr.ReadKey, anyKey...),
		at("GET", transitKeys, transitKeys, "", notAllowed),
		may(at("GET", transitKeys+"/:name", transitKeys+"/attestation", "", data(`\{"name":"attestation","type":"rsa-2048",.*\}`)), csr.ReadKey, csr.SecurityRead),
	}
	for _, method := range []string{"POST", "PUT"} {
		login, notBody := userpassLogin+":user", inTransit.answer(documented{status: 400, errors: notTransitObject})
		wrong := inTransit.answer(documented{status: 400, errors: `"invalid username or password"`})
		rows = append(rows,
			at(method, login, userpassLogin+"admin", `{"password":"`+adminPassword+`"}`, matching(200, asJSON, aTransitGrant)),
			at(method, login, userpassLogin+"admin", `{"password":"wrong"}`, wrong),
			at(method, login, userpassLogin+"eve", `{"password":"wrong"}`, wrong),
			ofToken(method, "/v1/auth/token/renew-self", true, matching(200, asJSON, aTransitGrant)),
			ofToken(method, "/v1/auth/token/revoke-self", false, want{status: 204}),
		)
		for _, hash := range []string{"", "/sha2-512"} {
			template := strings.Replace(hash, "sha2-512", ":hash", 1)
			rows = append(rows,
				may(at(method, transitSign+":name"+template, transitSign+"attestation"+hash, "[", notBody), csr.SignKey),
				may(at(method, transitVerify+":name"+template, transitVerify+"attestation"+hash, "[", notBody), csr.VerifyKey, csr.SecurityRead),
			)
		}
	}
	for template, path := range map[string]string{
		userpassLogin + ":user/*": userpassLogin + "admin/x", transitKeys + "/:name/*": transitKeys + "/attestation/rotate",
		transitSign + ":name/:hash/*": transitSign + "attestation/sha2-256/x", transitVerify + ":name/:hash/*": transitVerify + "attestation/sha2-256/x",
	} {
		rows = append(rows, row{route: handler.NotFoundMethod + " " + template, method: "POST", path: path, dialect: inTransit, allowed: nobody})
	}
	return rows
}

package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

const (
	esxCSR  = "/api/esx/attestation/certificate/csr"
	nsxCSRs = "/policy/api/v1/infra/csrs"

	sessionHeader = "vmware-api-session-id"
)

// createESX replaces the pending attestation CSR, with a key of 2048 bits. It is of
// one host: the subject is always the same.
func createESX(int) call { return createESXOf(hostname) }

func createESXOf(host string) call {
	return call{"POST", esxCSR, `{"common_name":"` + host + `","organization":"Example Ltd","organization_unit":"Hosts","locality":"Palo Alto",` +
		`"state_or_province":"California","country":"US","email_address":"pki@example.com","subject_alt_name":["` + host + `"]}`, http.StatusCreated}
}

// createESXOfAnother is createESX of another host each time, so that no signature
// is there when it is asked for.
func createESXOfAnother(i int) call { return createESXOf(fmt.Sprintf("host-%d.example.com", i)) }

func getESX(int) call { return call{"GET", esxCSR, "", http.StatusOK} }

// nsxKey is a kind of key in the words of the NSX dialect.
type nsxKey string

const (
	rsa2048 nsxKey = `"algorithm":"RSA","key_size":2048`
	ecP256  nsxKey = `"algorithm":"EC"`
)

func createNSX(id string, key nsxKey) call {
	return call{"POST", nsxCSRs + "/" + id + "?action=create", fmt.Sprintf(`{"subject":{"attributes":[{"key":"CN","value":"%s.example.com"},`+
		`{"key":"O","value":"Example Ltd"},{"key":"C","value":"US"}]},%s}`, id, key), http.StatusCreated}
}

func deleteNSX(id string) call { return call{"DELETE", nsxCSRs + "/" + id, "", http.StatusOK} }

// greeting opens a client's connection and lets the server verify its password,
// and changes nothing.
func greeting() call { return listNSX(1, "") }

// listNSX asks for a page, the first one where the cursor is empty.
func listNSX(size int, cursor string) call {
	query := url.Values{"page_size": {strconv.Itoa(size)}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	return call{"GET", nsxCSRs + "?" + query.Encode(), "", http.StatusOK}
}

package csr_test

import (
	"context"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
)

// operation is one that a caller can be granted.
type operation struct {
	needs   csr.Privilege
	changes bool
	call    func(context.Context, *csr.Grant) error
}

// operations are all there are.
func operations() map[csr.Operation]operation {
	const hosts, hostsRead, read, crud = csr.SecurityManagement, csr.SecurityRead, csr.PolicyCertificateRead, csr.PolicyCertificateCRUD
	request := csr.NewRequest{ID: "x", Spec: commonName("x")}
	page := csr.Page{Sort: csr.SortByID, Limit: 1}
	return map[csr.Operation]operation{
		csr.CreateCSR:        {hosts, true, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.CreateCSR(ctx, pkcs10.Spec{})) }},
		csr.GetCSR:           {hostsRead, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.CSR(ctx)) }},
		csr.DeleteCSR:        {hosts, true, func(ctx context.Context, g *csr.Grant) error { return g.DeleteCSR(ctx) }},
		csr.GetCertificate:   {hostsRead, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.Certificate(ctx)) }},
		csr.SetCertificate:   {hosts, true, func(ctx context.Context, g *csr.Grant) error { return g.SetCertificate(ctx, nil) }},
		csr.CreateNamedCSR:   {crud, true, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.CreateNamedCSR(ctx, request)) }},
		csr.GetNamedCSR:      {read, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.NamedCSR(ctx, "x")) }},
		csr.ListNamedCSRs:    {read, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.ListNamedCSRs(ctx, page)) }},
		csr.DeleteNamedCSR:   {crud, true, func(ctx context.Context, g *csr.Grant) error { return g.DeleteNamedCSR(ctx, "x") }},
		csr.CheckCertificate: {hosts, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.CheckCertificate(ctx, nil)) }},
		csr.CheckImport:      {crud, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.CheckImport(ctx, "x", csr.Import{})) }},
		csr.ImportCertificate: {crud, true, func(ctx context.Context, g *csr.Grant) error {
			return errorOf(g.ImportCertificate(ctx, "x", csr.Import{}))
		}},
		csr.SelfSign:               {crud, true, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.SelfSign(ctx, "x", nil)) }},
		csr.SelfSignNew:            {crud, true, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.SelfSignNew(ctx, request, nil)) }},
		csr.GetNamedCertificate:    {read, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.NamedCertificate(ctx, "x")) }},
		csr.ListNamedCertificates:  {read, false, func(ctx context.Context, g *csr.Grant) error { return errorOf(g.ListNamedCertificates(ctx, page)) }},
		csr.DeleteNamedCertificate: {crud, true, func(ctx context.Context, g *csr.Grant) error { return g.DeleteNamedCertificate(ctx, "x") }},
	}
}

func errorOf[T any](_ T, err error) error { return err }

// Who holds the privilege gets a grant, and the grant is for that operation alone.
func TestAuthorise(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	includes := map[csr.Privilege]csr.Privilege{csr.SecurityRead: csr.SecurityManagement, csr.PolicyCertificateRead: csr.PolicyCertificateCRUD}
	everything := csr.Caller{Request: audit.Request{User: "u"}, Privileges: csr.Privileges()}
	for o, wanted := range operations() {
		for _, held := range append(csr.Privileges(), "") {
			_, err := b.Authorise(csr.Caller{Request: audit.Request{User: "u"}, Privileges: []csr.Privilege{held}}, o)
			may := held == wanted.needs || held != "" && held == includes[wanted.needs]
			if may != (err == nil) || err != nil && kindOf(err) != csr.Unauthorized {
				t.Errorf("%s with %q: error %v", o, held, err)
			}
		}
		grant, err := b.Authorise(everything, o)
		if err != nil {
			t.Fatal(err)
		}
		for other, call := range operations() {
			if other == o {
				continue
			}
			if err := call.call(t.Context(), grant); err == nil || kindOf(err) != csr.Internal {
				t.Errorf("a grant for %s did %s: error %v", o, other, err)
			}
		}
	}
	if len(b.requests(t)) != 0 || len(b.certificates(t)) != 0 {
		t.Error("a call without its grant made something")
	}
	if g, err := b.Authorise(admin(), "csr.steal"); g != nil || err == nil || kindOf(err) != csr.Internal {
		t.Errorf("unknown operation: grant %v, error %v", g, err)
	}
}

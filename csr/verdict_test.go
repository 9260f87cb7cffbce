package csr_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
	"attestcsr/test/kit"
)

// sentences are what a client is told.
func sentences(vs []pkcs10.Violation) (said []string) {
	for _, v := range vs {
		said = append(said, v.Describe("certificate"))
	}
	return said
}

// results are the checks of a report that did not pass, or were not made.
func results(r csr.Report) map[pkcs10.Check]csr.Result {
	all := map[pkcs10.Check]csr.Result{}
	for _, c := range r.Checks {
		if c.Result != csr.CheckPassed {
			all[c.Check] = c.Result
		}
	}
	return all
}

// verdicts are certificates for the attestation key: what a set says of them, and what a
// dry run says before.
var verdicts = []struct {
	name  string
	names csr.NameRule
	// issue makes the certificate, with the keys of CSRs that it creates.
	issue    func(t *testing.T, b bench, root *kit.CA) []byte
	refused  []string // sentences; DIGEST is that of the pending CSR
	key      csr.Key
	not      map[pkcs10.Check]csr.Result // checks that do not pass, but for the anchor, which is never made
	warnings []string
}{
	{
		name: "the pending CSR", key: csr.PendingKey, not: map[pkcs10.Check]csr.Result{"renewal": csr.CheckNotMade},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "a", b.newKey(t, "a")))
		},
	},
	{
		name: "no CSR is pending", refused: []string{`certificate 1 "CN=x" does not answer the current CSR: there is no pending CSR, and the installed key is another one`},
		not: map[pkcs10.Check]csr.Result{"key": csr.CheckFailed, "names": csr.CheckNotMade, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, _ bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "x", kit.NewKey(t).Public()))
		},
	},
	{
		name: "the CSR was replaced", refused: []string{`certificate 1 "CN=x" does not answer the current CSR: it answers the CSR that was replaced at 2026-06-01T12:00:00Z`},
		not: map[pkcs10.Check]csr.Result{"key": csr.CheckFailed, "names": csr.CheckNotMade, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			key := b.newKey(t, "x")
			b.newKey(t, "x")
			return pemOf(root.Issue(t, "x", key))
		},
	},
	{
		name: "another key", refused: []string{`certificate 1 "CN=x" does not answer the current CSR: ` +
			`it answers neither the pending CSR (made at 2026-06-01T12:00:00Z, SHA-256 DIGEST) nor the installed key`},
		not: map[pkcs10.Check]csr.Result{"key": csr.CheckFailed, "names": csr.CheckNotMade, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			key := b.newKey(t, "x")
			b.newKey(t, "x")
			b.newKey(t, "x")
			return pemOf(root.Issue(t, "x", key)) // of the CSR before the one that was replaced
		},
	},
	{
		name: "expired, for another key", refused: []string{
			`certificate 1 "CN=x" expired at 2026-05-31T12:00:00Z: ask the CA for a new one: the clock here says 2026-06-01T12:00:00Z`,
			`certificate 1 "CN=x" does not answer the current CSR: there is no pending CSR, and the installed key is another one`,
		},
		not: map[pkcs10.Check]csr.Result{"validity": csr.CheckFailed, "key": csr.CheckFailed, "names": csr.CheckNotMade, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, _ bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "x", kit.NewKey(t).Public(), func(c *x509.Certificate) { c.NotAfter = noon().AddDate(0, 0, -1) }))
		},
	},
	{
		name: "wrong order", refused: []string{
			"certificate chain is not in order (leaf first, each followed by its issuer): send the certificates in the order 2, 1",
		},
		not: map[pkcs10.Check]csr.Result{"order": csr.CheckFailed, "key": csr.CheckNotMade, "names": csr.CheckNotMade, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			return pemOf(root.Cert, root.Issue(t, "a", b.newKey(t, "a")))
		},
	},
	{
		name: "another name", key: csr.PendingKey, not: map[pkcs10.Check]csr.Result{"names": csr.CheckWarns, "renewal": csr.CheckNotMade},
		warnings: []string{`subject CN is "b", the CSR asked for "a"`},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "b", b.newKey(t, "a")))
		},
	},
	{
		name: "another name, strict", names: csr.NamesStrict, key: csr.PendingKey,
		refused: []string{
			`certificate 1 "CN=b" must have the names that the CSR asked for: subject CN is "b", the CSR asked for "a"`,
			`certificate 1 "CN=b" must have the names that the CSR asked for: alternative name "c.example.com" was not asked for`,
		},
		not: map[pkcs10.Check]csr.Result{"names": csr.CheckFailed, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "b", b.newKey(t, "a"), func(c *x509.Certificate) { c.DNSNames = []string{"c.example.com"} }))
		},
	},
	{
		name: "another name, any", names: csr.NamesAny, key: csr.PendingKey,
		not: map[pkcs10.Check]csr.Result{"names": csr.CheckNotMade, "renewal": csr.CheckNotMade},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "b", b.newKey(t, "a")))
		},
	},
	{
		name: "a renewal", key: csr.InstalledKey, not: map[pkcs10.Check]csr.Result{},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			key := b.install(t, root)
			b.newKey(t, "other")
			return pemOf(root.Issue(t, "a", key))
		},
	},
	{
		name: "a renewal that ends earlier, with another name", key: csr.InstalledKey,
		not: map[pkcs10.Check]csr.Result{"names": csr.CheckWarns, "renewal": csr.CheckWarns},
		warnings: []string{
			`subject CN is "b", the CSR asked for "a"`,
			"it ends at 2026-06-02T12:00:00Z, before the certificate that it renews, which ends at 2027-06-01T12:00:00Z",
		},
		issue: func(t *testing.T, b bench, root *kit.CA) []byte {
			return pemOf(root.Issue(t, "b", b.install(t, root), func(c *x509.Certificate) { c.NotAfter = noon().AddDate(0, 0, 1) }))
		},
	},
	{
		name: "no certificate", refused: []string{"certificate must not be empty"},
		not: map[pkcs10.Check]csr.Result{
			"encoding": csr.CheckFailed, "algorithms": csr.CheckNotMade, "order": csr.CheckNotMade, "validity": csr.CheckNotMade, "use": csr.CheckNotMade,
			"key": csr.CheckNotMade, "names": csr.CheckNotMade, "renewal": csr.CheckNotMade,
		},
		issue: func(*testing.T, bench, *kit.CA) []byte { return nil },
	},
}

// newKey makes a CSR for a common name and returns its key.
func (b bench) newKey(t *testing.T, name string) crypto.PublicKey {
	t.Helper()
	return parseRequest(t, b.create(t, commonName(name))).PublicKey
}

// install installs a certificate with the name a, and returns its key.
func (b bench) install(t *testing.T, root *kit.CA) crypto.PublicKey {
	t.Helper()
	key := b.newKey(t, "a")
	if err := b.set(t, root.Issue(t, "a", key)); err != nil {
		t.Fatal(err)
	}
	return key
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	for _, c := range verdicts {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var said kit.Buffer
			a := newAudited(t)
			a.bench = a.with(t, func(o *csr.Config) {
				o.Audit, o.Logger, o.Names = a.log, slog.New(slog.NewTextHandler(&said, nil)), c.names
			})
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(a.Collectors()...)
			chain := c.issue(t, a.bench, root)
			refused := slices.Clone(c.refused)
			if r, err := a.keys.Get(t.Context(), csr.PendingSlot()); err == nil {
				for i := range refused {
					refused[i] = strings.ReplaceAll(refused[i], "DIGEST", digestOf(string(r.Payload)))
				}
			}

			report, err := a.grant(csr.CheckCertificate).CheckCertificate(t.Context(), chain)
			if err != nil {
				t.Fatal(err)
			}
			c.not["anchor"] = csr.CheckNotMade
			if report.Accepted != (refused == nil) || report.Key != c.key || report.Unchanged || report.Anchored || !maps.Equal(results(report), c.not) {
				t.Errorf("the dry run says %+v", report)
			}
			var broken []pkcs10.Violation
			for i, check := range pkcs10.Checks() {
				if report.Checks[i].Check != check {
					t.Errorf("check %d is %s, want %s", i, report.Checks[i].Check, check)
				}
				broken = append(broken, report.Checks[i].Violations...)
			}
			if !slices.Equal(sentences(broken), refused) {
				t.Errorf("the dry run says %q, want %q", sentences(broken), refused)
			}
			before := said.String()
			err = a.grant(csr.SetCertificate).SetCertificate(t.Context(), chain)
			if got := sentences(violationsOf(t, err)); !slices.Equal(got, refused) {
				t.Errorf("the set says\n%q\nwant\n%q", got, refused)
			}
			line := strings.TrimPrefix(said.String(), before)
			if accepted := err == nil; accepted != strings.Contains(line, `anchor="not checked against an anchor"`) || (len(c.warnings) > 0) != strings.Contains(line, "level=WARN") {
				t.Errorf("the log says %q", line)
			}
			if n, err := testutil.GatherAndCount(registry, "attestcsr_certificate_warnings_total"); n != 2 || err != nil {
				t.Errorf("%d metrics, %v", n, err)
			}
			want := ""
			for _, check := range []string{"names", "renewal"} {
				n := 0
				if c.not[pkcs10.Check(check)] == csr.CheckWarns {
					n = 1
				}
				want += fmt.Sprintf("attestcsr_certificate_warnings_total{check=%q} %d\n", check, n)
			}
			want = "# HELP attestcsr_certificate_warnings_total Warnings of certificates that were accepted all the same, by check.\n" +
				"# TYPE attestcsr_certificate_warnings_total counter\n" + want
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "attestcsr_certificate_warnings_total"); err != nil {
				t.Error(err)
			}
			lines := slices.DeleteFunc(a.lines(t), func(l audit.Event) bool { return l.Operation != string(csr.SetCertificate) || l.Kind != "change" })
			if err == nil && !slices.Equal(lines[len(lines)-1].Warnings, c.warnings) {
				t.Errorf("the trail says %q, want %q", lines[len(lines)-1].Warnings, c.warnings)
			}
		})
	}
}

// A certificate for another named CSR is told whose it is not.
func TestImportOfAnotherKey(t *testing.T) {
	t.Parallel()
	b, root := newBench(t), kit.NewCA(t, "root", noon())
	b.createNamed(t, csr.NewRequest{ID: "web/1", Spec: commonName("x")})
	chain := pemOf(root.Issue(t, "x", kit.NewKey(t).Public()))
	want := []string{`certificate 1 "CN=x" does not answer the current CSR: it is for another key than CSR "web/1"`}
	_, err := b.importNamed(t, "web/1", csr.Import{PEM: chain})
	if got := sentences(violationsOf(t, err)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	report, err := b.namedGrant(t, csr.CheckImport).CheckImport(t.Context(), "web/1", csr.Import{PEM: chain})
	if err != nil || report.Accepted || report.Key != csr.NoKey {
		t.Errorf("%+v, %v", report, err)
	}
	_, err = b.namedGrant(t, csr.CheckImport).CheckImport(t.Context(), "web/2", csr.Import{PEM: chain})
	if kindOf(err) != csr.NotFound {
		t.Errorf("of a CSR that there is not: %v", err)
	}
}

// A dry run changes nothing: neither a byte of the store nor the trail.
func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	dir, a, root := t.TempDir(), newAudited(t), kit.NewCA(t, "root", noon())
	a.bench = openBench(t, dir, func(c keystore.Custodian) keystore.Custodian { return curveOnly{c} }).with(t, func(c *csr.Config) { c.Audit = a.log })
	key := a.install(t, root)
	pending := a.newKey(t, "next")
	named := parseRequest(t, a.createNamed(t, csr.NewRequest{ID: "x", Spec: commonName("x")}).PEM).PublicKey
	state := func() (digest [32]byte, slots []string) {
		file, err := os.ReadFile(filepath.Join(dir, "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.keys.Inspect(t.Context(), func(slot keystore.Slot, revision uint64, digest [32]byte, err error) error {
			slots = append(slots, fmt.Sprint(slot, revision, digest, err))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(file), slots
	}
	before, slots := state()
	for _, key := range []crypto.PublicKey{key, pending, named, kit.NewKey(t).Public()} {
		chain := pemOf(root.Issue(t, "x", key), root.Cert)
		for _, text := range [][]byte{chain, bytes.Replace(chain, []byte("M"), []byte("!"), 1), nil} {
			report, err := a.grant(csr.CheckCertificate).CheckCertificate(t.Context(), text)
			if err != nil || len(report.Checks) != len(pkcs10.Checks()) {
				t.Errorf("%+v, %v", report, err)
			}
			report, err = a.grant(csr.CheckImport).CheckImport(t.Context(), "x", csr.Import{PEM: text})
			if err != nil || len(report.Checks) != len(pkcs10.Checks()) {
				t.Errorf("%+v, %v", report, err)
			}
		}
	}
	if after, now := state(); after != before || !reflect.DeepEqual(now, slots) {
		t.Errorf("the store holds\n%q\nand held\n%q", now, slots)
	}
	for _, l := range a.lines(t) {
		if strings.HasSuffix(l.Operation, ".check") {
			t.Errorf("a line of a dry run: %+v", l)
		}
	}
	report, err := a.grant(csr.CheckCertificate).CheckCertificate(t.Context(), []byte(a.certificate(t)))
	if err != nil || !report.Accepted || !report.Unchanged || report.Key != csr.InstalledKey || len(report.Certificates) != 1 {
		t.Errorf("of the installed certificate: %+v, %v", report, err)
	}
}

// With trust anchors the chain is stored as it was sent, and what its path needed beyond
// it beside it. The same set changes nothing.
func TestAnchored(t *testing.T) {
	t.Parallel()
	root := kit.NewCA(t, "root", noon())
	issuing := root.NewCA(t, "issuing")
	anchors, err := pkcs10.ParseAnchors(pemOf(root.Cert, issuing.Cert))
	if err != nil {
		t.Fatal(err)
	}
	var said kit.Buffer
	b := newBench(t).with(t, func(c *csr.Config) {
		c.Anchors, c.Logger = func() *pkcs10.Anchors { return anchors }, slog.New(slog.NewTextHandler(&said, nil))
	})
	leaf := issuing.Issue(t, "a", b.newKey(t, "a"))
	report, err := b.grant(t, csr.CheckCertificate).CheckCertificate(t.Context(), pemOf(leaf))
	if err != nil || !report.Accepted || !report.Anchored || !maps.Equal(results(report), map[pkcs10.Check]csr.Result{"renewal": csr.CheckNotMade}) {
		t.Errorf("%+v, %v", report, err)
	}
	for range 2 {
		if err := b.set(t, leaf); err != nil {
			t.Fatal(err)
		}
	}
	stored := b.stored(t, csr.InstalledSlot())
	if stored.PEM != kit.PEM(leaf) || stored.Beyond != kit.PEM(issuing.Cert, root.Cert) || !stored.Anchored {
		t.Errorf("stored %+v", stored)
	}
	if n := strings.Count(said.String(), "certificate accepted"); n != 1 || !strings.Contains(said.String(), `anchor="CN=root"`) {
		t.Errorf("%d sets in the log: %s", n, said.String())
	}
	stranger := kit.NewCA(t, "stranger", noon()).Issue(t, "a", leaf.PublicKey)
	if vs := violationsOf(t, b.set(t, stranger)); len(vs) != 1 || vs[0].Check() != pkcs10.CheckAnchor {
		t.Errorf("a certificate of another CA: %q", sentences(vs))
	}
}

package tlscert_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"attestcsr/server/tlscert"
	"attestcsr/test/kit"
)

// host is what a service gives to the package, with a clock of its own.
type host struct {
	dir string
	now time.Time
	log kit.Buffer
}

func newHost(t *testing.T) *host {
	t.Helper()
	return &host{dir: t.TempDir(), now: time.Now()}
}

func (h *host) options(hostname string) tlscert.Options {
	return tlscert.Options{
		CertFile: filepath.Join(h.dir, "tls.crt"), KeyFile: filepath.Join(h.dir, "tls.key"), Own: hostname != "", Hostname: hostname,
		Trusted: func() error { return nil }, Logger: slog.New(slog.NewTextHandler(&h.log, nil)), Now: func() time.Time { return h.now },
	}
}

// start returns the certificate that a start with this name of the host uses.
func (h *host) start(t *testing.T, hostname string) *tlscert.Certificate {
	t.Helper()
	c, err := tlscert.New(h.options(hostname))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOwnCertificateIsRenewed: our own certificate is renewed before it ends, and when
// the host has another name. Its key and the names before stay.
func TestOwnCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, test := range []struct {
		name     string
		hostname string
		after    time.Duration
		change   func(t *testing.T, dir string)
		renewed  bool
		newKey   bool
		names    []string
	}{
		{name: "nothing has changed", hostname: "old.example.com", names: []string{"old.example.com", "localhost"}},
		{name: "letter case", hostname: "OLD.example.com", names: []string{"old.example.com", "localhost"}},
		{name: "another name", hostname: "new.example.com", renewed: true, names: []string{"new.example.com", "localhost", "old.example.com"}},
		{name: "31 days before the end", hostname: "old.example.com", after: 366 * day, names: []string{"old.example.com", "localhost"}},
		{name: "29 days before the end", hostname: "old.example.com", after: 368 * day, renewed: true, names: []string{"old.example.com", "localhost"}},
		{name: "after the end", hostname: "old.example.com", after: 400 * day, renewed: true, names: []string{"old.example.com", "localhost"}},
		{
			name: "the certificate is lost", hostname: "old.example.com", renewed: true, names: []string{"old.example.com", "localhost"},
			change: func(t *testing.T, dir string) { kit.Remove(t, dir, "tls.crt") },
		},
		{
			name: "the key is lost", hostname: "old.example.com", renewed: true, newKey: true, names: []string{"old.example.com", "localhost"},
			change: func(t *testing.T, dir string) { kit.Remove(t, dir, "tls.key") },
		},
		{
			name: "the key is damaged", hostname: "new.example.com", renewed: true, newKey: true, names: []string{"new.example.com", "localhost", "old.example.com"},
			change: func(t *testing.T, dir string) { kit.Overwrite(t, dir, "tls.key", "garbage") },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			before := h.start(t, "old.example.com").Leaf()
			if test.change != nil {
				test.change(t, h.dir)
			}
			h.now = h.now.Add(test.after)
			after := h.start(t, test.hostname).Leaf()
			if renewed := !after.Equal(before); renewed != test.renewed {
				t.Errorf("renewed: %v", renewed)
			}
			b, a := tlscert.FingerprintsOf(before), tlscert.FingerprintsOf(after)
			if newKey := a.PublicKey != b.PublicKey; newKey != test.newKey {
				t.Errorf("another key: %v", newKey)
			}
			if !slices.Equal(after.DNSNames, test.names) {
				t.Errorf("names %q, want %q", after.DNSNames, test.names)
			}
			if test.renewed && after.Subject.CommonName != test.hostname {
				t.Errorf("common name %q", after.Subject.CommonName)
			}
			if after.NotAfter.Sub(h.now) < 29*day {
				t.Errorf("ends at %s", after.NotAfter)
			}
		})
	}
}

// TestOwnCertificateOfManyNames: a container gets another name at each start. The names
// stay bounded: the oldest go.
func TestOwnCertificateOfManyNames(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	key := tlscert.FingerprintsOf(h.start(t, "host0").Leaf()).PublicKey
	for i := range 40 {
		h.start(t, fmt.Sprintf("host%d", i))
	}
	leaf := h.start(t, "host40").Leaf()
	if len(leaf.DNSNames) != 16 || leaf.DNSNames[0] != "host40" || leaf.DNSNames[2] != "host39" || leaf.DNSNames[15] != "host26" {
		t.Errorf("%q", leaf.DNSNames)
	}
	if tlscert.FingerprintsOf(leaf).PublicKey != key {
		t.Error("another key")
	}
}

// issued is what a CA gives to an operator.
type issued struct {
	root, middle *kit.CA
	leaf         *x509.Certificate
	key          string
}

func issue(t *testing.T, ends time.Duration) issued {
	t.Helper()
	now := time.Now()
	root := kit.NewCA(t, "Root", now)
	middle := root.NewCA(t, "Middle")
	key := kit.NewKey(t)
	leaf := middle.Issue(t, "esx-01.example.com", key.Public(), func(c *x509.Certificate) {
		c.NotAfter = now.Add(ends)
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return issued{root, middle, leaf, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}
}

// TestFilesOfOperators: what is odd about usable files is said, and what is wrong with
// the others.
func TestFilesOfOperators(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	good := issue(t, 100*day)
	leaf, middle, root := kit.PEM(good.leaf), kit.PEM(good.middle.Cert), kit.PEM(good.root.Cert)
	ending := func(ends time.Duration) (chain, key string) {
		i := issue(t, ends)
		return kit.PEM(i.leaf, i.middle.Cert), i.key
	}
	utf16Text := func(text string) string {
		var b strings.Builder
		for _, unit := range utf16.Encode([]rune("\ufeff" + text)) {
			b.WriteByte(byte(unit))
			b.WriteByte(byte(unit >> 8))
		}
		return b.String()
	}
	soonChain, soonKey := ending(29 * day)
	soonerChain, soonerKey := ending(6 * day)
	overChain, overKey := ending(-day)
	for _, test := range []struct {
		name       string
		chain, key string
		refused    bool
		says       []string
		served     int // certificates; 0: not looked at
	}{
		{name: "leaf and intermediate", chain: leaf + middle, key: good.key, served: 2},
		{name: "with the root", chain: leaf + middle + root, key: good.key, served: 3},
		{name: "leaf alone", chain: leaf, key: good.key, says: []string{"lacks the issuer of certificate 1", "CN=Middle", "may not find the issuer"}},
		{name: "root in place of the intermediate", chain: leaf + root, key: good.key, says: []string{"lacks the issuer of certificate 1", "CN=Middle"}},
		{name: "intermediate after the root", chain: leaf + root + middle, key: good.key, says: []string{"wrong order", "certificate 3", "CN=Middle", "issuer of certificate 1"}},
		{name: "leaf last", chain: middle + leaf, key: good.key, refused: true, says: []string{"certificate 2 of the file: put that certificate first"}},
		{name: "another key", chain: leaf + middle, key: soonKey, refused: true, says: []string{"private key does not match public key"}},
		{name: "certificate for the key", chain: leaf, key: leaf, refused: true, says: []string{"rather than a key"}},
		{name: "29 days left", chain: soonChain, key: soonKey, says: []string{"less than 30 days"}},
		{name: "6 days left", chain: soonerChain, key: soonerKey, says: []string{"less than 7 days"}},
		{name: "expired", chain: overChain, key: overKey, says: []string{"expired at"}},
		{name: "byte order marks", chain: "\ufeff" + leaf + "\ufeff" + middle, key: "\ufeff" + good.key, says: []string{"tls.crt has a byte order mark", "tls.key has a byte order mark"}, served: 2},
		{name: "lines of Windows", chain: strings.ReplaceAll(leaf+middle, "\n", "\r\n"), key: good.key, served: 2},
		{name: "UTF-16 certificate", chain: utf16Text(leaf), key: good.key, refused: true, says: []string{"tls.crt is UTF-16"}},
		{name: "UTF-16 key", chain: leaf + middle, key: utf16Text(good.key), refused: true, says: []string{"tls.key is UTF-16"}},
		{name: "empty", chain: "", key: good.key, refused: true, says: []string{"failed to find any PEM data"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			o := h.options("")
			kit.Overwrite(t, h.dir, "tls.crt", test.chain)
			kit.Overwrite(t, h.dir, "tls.key", test.key)
			cert, remarks, err := tlscert.Load(o.CertFile, o.KeyFile, h.now)
			said := strings.Join(remarks, "\n")
			if err != nil {
				said = err.Error()
			}
			if (err != nil) != test.refused || err != nil && (!strings.Contains(said, o.CertFile) || !strings.Contains(said, o.KeyFile)) {
				t.Errorf("%v", err)
			}
			for _, want := range test.says {
				if !strings.Contains(said, want) {
					t.Errorf("does not say %q: %s", want, said)
				}
			}
			if len(test.says) == 0 && said != "" {
				t.Errorf("says %s", said)
			}
			if test.served > 0 && (err != nil || len(cert.Certificate) != test.served) {
				t.Errorf("%+v", cert)
			}
		})
	}
}

// TestRemarksAreRepeated: the log says at a reload and once a day that the certificate
// ends soon, and not each time that the files are read.
func TestRemarksAreRepeated(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	h := newHost(t)
	i := issue(t, 32*day)
	kit.Overwrite(t, h.dir, "tls.crt", kit.PEM(i.leaf, i.middle.Cert))
	kit.Overwrite(t, h.dir, "tls.key", i.key)
	c := h.start(t, "")
	said := func() int { return strings.Count(h.log.String(), "level=WARN") }
	for _, step := range []struct {
		later time.Duration
		said  int
	}{
		{time.Hour, 0}, {2 * day, 1}, {time.Hour, 1}, {22 * time.Hour, 1}, {time.Hour, 2}, {23 * time.Hour, 2}, {21 * day, 3}, {time.Hour, 3}, {23 * time.Hour, 4},
	} {
		h.now = h.now.Add(step.later)
		c.Refresh()
		if got := said(); got != step.said {
			t.Fatalf("%s before the end: %d warnings, want %d\n%s", i.leaf.NotAfter.Sub(h.now), got, step.said, &h.log)
		}
	}
	next := issue(t, 200*day)
	h.now = time.Now()
	kit.Overwrite(t, h.dir, "tls.crt", kit.PEM(next.leaf))
	kit.Overwrite(t, h.dir, "tls.key", next.key)
	c.Refresh()
	if said() != 5 || !strings.Contains(h.log.String(), "lacks the issuer") || !strings.Contains(h.log.String(), tlscert.FingerprintsOf(next.leaf).PublicKey) {
		t.Errorf("%s", &h.log)
	}
}

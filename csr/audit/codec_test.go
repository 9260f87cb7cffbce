package audit_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// goldenStart is when the golden trail was written.
func goldenStart() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 123e6, time.UTC) }

func goldenEvent() audit.Event {
	return audit.Event{
		Request:   audit.Request{User: "nora", Method: "session", Address: "2001:db8::1", RequestID: "0123456789abcdef", Session: "fedcba9876543210"},
		Operation: "named_csr.import", Slot: "nsx/certificates/x", From: `nsx/csrs/a "b" <c> ü`, Replaced: "unauthentic",
		Payload: digestOf([]byte("golden")), CSR: strings.Repeat("ab", 32), Certificate: strings.Repeat("cd", 32),
		Subject: "CN=esx-09.example.com,O=Example", Names: []string{"esx-09.example.com", "192.0.2.9"},
		KeyAlgorithm: "RSA", KeySize: 3072, Issuer: "CN=Example CA", Serial: "1f",
	}
}

func goldenAdministration() audit.Event {
	return audit.Event{
		Request: audit.Request{User: "system:service"}, Operation: "keyset.rotate", Settings: []string{"log.level"}, Reason: "because",
		FromKey: "01234567", ToKey: "0badcafe",
	}
}

// The golden files are what version 2 of the formats wrote. They never change:
// what ever was written stays readable and verifiable.
func TestGolden(t *testing.T) {
	t.Parallel()
	cut := goldenStart().Add(456 * time.Microsecond) // to milliseconds
	change, err := goldenEvent().Note(cut)
	wantNote(t, "testdata/note-v2.json", change, err)
	administration, err := goldenAdministration().Administration(cut)
	wantNote(t, "testdata/note-administration-v2.json", administration, err)
	warned := goldenEvent()
	warned.Warnings = []string{`subject O is "B", the CSR asked for "A"`, "two"}
	change, err = warned.Note(cut)
	wantNote(t, "testdata/note-warnings-v2.json", change, err)
	kinds := map[string]bool{}
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		prev := ""
		for _, name := range goldenFiles(t, stream) {
			for i, text := range linesOf(kit.Read(t, "", name)) {
				if string(text) == "damage\n" {
					continue
				}
				again, mac, err := audit.RewriteLine(keys, prev, bytes.TrimSuffix(text, []byte("\n")))
				if err != nil || !bytes.Equal(again, text) {
					t.Errorf("%s line %d is written as\n%s\nnot as\n%s, %v", name, i+1, again, text, err)
				}
				prev = mac
				kinds[parse(t, text)[0].Event] = true
			}
		}
		anchor := kit.Read(t, "", "testdata/trail-v2/"+stream+"-anchor.json")
		if again, err := audit.RewriteAnchor(keys, stream, anchor); err != nil || !bytes.Equal(again, anchor) {
			t.Errorf("%s, %v", again, err)
		}
	}
	if len(kinds) != 7 {
		t.Errorf("kinds %v", kinds)
	}
}

func goldenFiles(t testing.TB, stream string) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/trail-v2/" + stream + "-0*.jsonl")
	if err != nil || len(names) == 0 {
		t.Fatalf("%q, %v", names, err)
	}
	return names
}

func wantNote(t *testing.T, name string, written []byte, err error) {
	t.Helper()
	golden := kit.Read(t, "", name)
	if err != nil || !bytes.Equal(golden, written) {
		t.Errorf("the note is written as\n%s\nnot as\n%s, %v", written, golden, err)
	}
	if again, err := audit.RewriteNote(golden); err != nil || !bytes.Equal(again, golden) {
		t.Errorf("%s, %v", again, err)
	}
}

// What is read is written again byte for byte, and nothing else is read.
func FuzzLine(f *testing.F) {
	for _, name := range append(goldenFiles(f, audit.Changes), goldenFiles(f, audit.Refusals)...) {
		for line := range bytes.Lines(kit.Read(f, "", name)) {
			f.Add(bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	f.Add([]byte("{}"))
	f.Add([]byte(`{"v":2,"seq":1,"mac":"` + strings.Repeat("0", 64) + `"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, mac, err := audit.RewriteLine(anyKey{}, "", text)
		if err != nil {
			return
		}
		if n := len(text) - 66; !bytes.Equal(again[:n], text[:n]) || len(mac) != 64 || !bytes.HasSuffix(again, []byte(mac+"\"}\n")) {
			t.Errorf("%q is written as %q", text, again)
		}
	})
}

// anyKey has every key, and a code that shows what it is of.
type anyKey struct{}

func (anyKey) Primary() string                         { return "0" }
func (anyKey) Sum(string, []byte) (s [32]byte, _ bool) { return s, true }

func FuzzNote(f *testing.F) {
	f.Add(kit.Read(f, "", "testdata/note-v2.json"))
	f.Add(kit.Read(f, "", "testdata/note-warnings-v2.json"))
	f.Add(kit.Read(f, "", "testdata/note-administration-v2.json"))
	f.Add([]byte(`{"v":2,"event":"change","time":"2026-06-01T12:00:00Z","outcome":"committed"}`))
	f.Add([]byte(`{"v":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := audit.RewriteNote(b)
		if err != nil {
			return
		}
		if third, err := audit.RewriteNote(again); err != nil || !bytes.Equal(third, again) {
			t.Errorf("%q becomes %q and %q, %v", b, again, third, err)
		}
	})
}

func FuzzAnchor(f *testing.F) {
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		f.Add(kit.Read(f, "", "testdata/trail-v2/"+stream+"-anchor.json"))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, stream := range []string{audit.Changes, audit.Refusals} {
			again, err := audit.RewriteAnchor(keys, stream, text)
			if err == nil && !bytes.Equal(again, text) {
				t.Errorf("%q is written as %q", text, again)
			}
		}
	})
}

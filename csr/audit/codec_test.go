package audit_test

import (
	"bytes"
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
		Request:   audit.Request{User: "nora", Method: "session", Address: "2001:db8::1", RequestID: "0123456789abcdef"},
		Operation: "named_csr.import", Slot: "nsx/certificates/x", From: `nsx/csrs/a "b" <c> ü`,
		CSR: strings.Repeat("ab", 32), Certificate: strings.Repeat("cd", 32),
	}
}

// The golden files are what version 1 of the formats wrote. They never change:
// what ever was written stays readable and verifiable.
func TestGolden(t *testing.T) {
	t.Parallel()
	note := kit.Read(t, "", "testdata/note-v1.json")
	want, err := goldenEvent().Note(goldenStart().Add(456 * time.Microsecond)) // is cut to milliseconds
	if err != nil || !bytes.Equal(note, want) {
		t.Errorf("the note is written as\n%s\nnot as\n%s, %v", want, note, err)
	}
	if again, err := audit.RewriteNote(note); err != nil || !bytes.Equal(again, note) {
		t.Errorf("%s, %v", again, err)
	}

	for _, stream := range []string{audit.Changes, audit.Refusals} {
		prev := ""
		lines := linesOf(kit.Read(t, "", "testdata/"+stream+"-v1.jsonl"))
		for i, text := range lines {
			again, mac, err := audit.RewriteLine(keys, prev, bytes.TrimSuffix(text, []byte("\n")))
			if err != nil || !bytes.Equal(again, text) {
				t.Errorf("%s line %d is written as\n%s\nnot as\n%s, %v", stream, i+1, again, text, err)
			}
			prev = mac
		}
		anchor := kit.Read(t, "", "testdata/"+stream+"-anchor-v1.json")
		if again, err := audit.RewriteAnchor(keys, stream, anchor); err != nil || !bytes.Equal(again, anchor) {
			t.Errorf("%s, %v", again, err)
		}
		if len(lines) < 3 {
			t.Errorf("%d lines", len(lines))
		}
	}
}

// What is read is written again byte for byte, and nothing else is read.
func FuzzLine(f *testing.F) {
	for _, name := range []string{"changes-v1.jsonl", "refusals-v1.jsonl"} {
		for line := range bytes.Lines(kit.Read(f, "", "testdata/"+name)) {
			f.Add(bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	f.Add([]byte("{}"))
	f.Add([]byte(`{"v":1,"seq":1,"mac":"` + strings.Repeat("0", 64) + `"}`))
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
	f.Add(kit.Read(f, "", "testdata/note-v1.json"))
	f.Add([]byte(`{"v":1,"event":"change","time":"2026-06-01T12:00:00Z","outcome":"committed"}`))
	f.Add([]byte(`{"v":2}`))
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
		f.Add(kit.Read(f, "", "testdata/"+stream+"-anchor-v1.json"))
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

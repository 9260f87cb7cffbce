package keystore_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"attestcsr/keystore"
)

// goldenMessages are what codes authenticate, in hexadecimal digits. They are never
// changed: a store that was written once would not be believed any more.
const (
	goldenRecordMessage = "00000010" + "61747465737463737220" + "7265636f7264" + // attestcsr record
		"00000008" + "6e73782f63737273" + "00000003" + "612f62" + // nsx/csrs, a/b
		"00000004" + "6b657931" + "00000007" + "7061796c6f6164" + // key1, payload
		"00000007" + "63726561746564" + "00000003" + "000001" + "00000004" + "6e616d65" + "00000005" + "7a65627261"
	goldenNoteMessage = "0000000e" + "61747465737463737220" + "6e6f7465" + // attestcsr note
		"00000004" + "636f6465" + "00000008" + "0000000000000102" + "00000004" + "74657874" // code, 258, text
)

func TestGoldenMessages(t *testing.T) {
	t.Parallel()
	slot := keystore.Slot{Collection: "nsx/csrs", ID: "a/b"}
	index := []keystore.IndexEntry{{Name: "created", Value: []byte{0, 0, 1}}, {Name: "name", Value: []byte("zebra")}}
	if got := hex.EncodeToString(keystore.RecordMessage(nil, slot, keystore.Ref("key1"), []byte("payload"), index)); got != goldenRecordMessage {
		t.Errorf("record\n%s, want\n%s", got, goldenRecordMessage)
	}
	if got := hex.EncodeToString(keystore.NoteMessage([]byte("code"), 258, []byte("text"))); got != goldenNoteMessage {
		t.Errorf("note\n%s, want\n%s", got, goldenNoteMessage)
	}
}

// What is stored carries the id of its key and the HMAC of the message.
func TestStoredCodes(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	change := keystore.Change{Index: []keystore.IndexEntry{{Name: "z", Value: []byte("1")}, {Name: "a", Value: []byte("2")}}}
	f.mustReplace(t, a)
	if _, err := f.Update(t.Context(), keystore.Target{Slot: a}, change); err != nil {
		t.Fatal(err)
	}
	r, err := f.store.Get(t.Context(), a)
	if err != nil || len(r.Index) != 2 || r.Index[0].Name != "a" {
		t.Fatalf("%+v, %v", r, err)
	}
	code := func(message []byte) string {
		h := hmac.New(sha256.New, []byte(testMAC))
		h.Write(message)
		return string(h.Sum(make([]byte, 4))) // the id of the key is 00000000
	}
	if string(r.Code) != code(keystore.RecordMessage(nil, r.Slot, r.Ref, r.Payload, r.Index)) {
		t.Errorf("record with code %x", r.Code)
	}
	for _, text := range []string{"one", "two"} {
		if err := f.Note(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := f.Inspect(t.Context(), nil)
	if err != nil || len(found.Notes) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	var previous []byte
	for _, n := range found.Notes {
		if !bytes.Equal(n.Previous, previous) || string(n.Code) != code(keystore.NoteMessage(previous, n.Revision, n.Text)) || f.CheckNote(n) != nil {
			t.Errorf("note %+v", n)
		}
		previous = n.Code
	}
}

// A code is of one message only, however its parts are cut, and of a key that is known.
func TestOtherMessages(t *testing.T) {
	t.Parallel()
	f := openFixture(t, nil)
	if err := f.Note(t.Context(), []byte("text")); err != nil {
		t.Fatal(err)
	}
	found, err := f.Inspect(t.Context(), nil)
	if err != nil || len(found.Notes) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	n := found.Notes[0]
	for name, forged := range map[string]keystore.Note{
		"text":     {Revision: n.Revision, Code: n.Code, Text: []byte("texT")},
		"revision": {Revision: n.Revision + 1, Code: n.Code, Text: n.Text},
		"previous": {Revision: n.Revision, Previous: []byte("x"), Code: n.Code, Text: n.Text},
		"cut":      {Revision: 8, Previous: n.Text, Code: n.Code},
		"no code":  {Revision: n.Revision, Text: n.Text},
		"short":    {Revision: n.Revision, Code: n.Code[:35], Text: n.Text},
		"long":     {Revision: n.Revision, Code: append(n.Code[:36:36], 0), Text: n.Text},
		"key":      {Revision: n.Revision, Code: append([]byte{0, 0, 0, 1}, n.Code[4:]...), Text: n.Text},
	} {
		wantError(t, name, f.CheckNote(forged), keystore.ErrUnauthentic)
	}
}

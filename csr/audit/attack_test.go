package audit_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"go.etcd.io/bbolt"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/kit"
)

// edits the file of the store, as whoever can write to it does, with a copy of it that
// is older.
func (tr *trail) editStore(old string, edit func(now, old *bbolt.Tx) error) {
	tr.t.Helper()
	db, err := bbolt.Open(tr.storePath(), 0o600, nil)
	if err != nil {
		tr.t.Fatal(err)
	}
	before, err := bbolt.Open(old, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		tr.t.Fatal(err)
	}
	err = before.View(func(then *bbolt.Tx) error {
		return db.Update(func(now *bbolt.Tx) error { return edit(now, then) })
	})
	if err := errors.Join(err, before.Close(), db.Close()); err != nil {
		tr.t.Fatal(err)
	}
}

// attack is what somebody does to a store that is stopped, and what is found then and by
// the next start.
type attack struct {
	pending int // changes of which the lines are not written yet
	edit    func(now, old *bbolt.Tx) error
	what    string // verify finds it before the start
	after   string // and this after the start and another change; empty: the same
}

func bucket(tx *bbolt.Tx, name string) *bbolt.Bucket { return tx.Bucket([]byte(name)) }

// clearBucket removes all, or with keep all but the first keys.
func clearBucket(b *bbolt.Bucket, keep int) error {
	for k, _ := b.Cursor().First(); k != nil; {
		c := b.Cursor()
		k, _ = c.First()
		for range keep {
			k, _ = c.Next()
		}
		if k == nil {
			return nil
		}
		if err := b.Delete(bytes.Clone(k)); err != nil {
			return err
		}
	}
	return nil
}

// recordOf is the key of the record in a slot, and the bytes of it.
func recordOf(tx *bbolt.Tx, id string) (key, value []byte) {
	c := bucket(tx, "slots").Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if bytes.HasSuffix(k, []byte("\x00"+id)) || bytes.HasSuffix(k, []byte(id)) && bytes.Contains(k, []byte("c\x00"+id)) {
			return bytes.Clone(k), bytes.Clone(v)
		}
	}
	return nil, nil
}

func copyRecord(id string) func(now, old *bbolt.Tx) error {
	return func(now, old *bbolt.Tx) error {
		key, value := recordOf(old, id)
		if key == nil {
			return errors.New("there is no such record")
		}
		return bucket(now, "slots").Put(key, value)
	}
}

func addCount(tx *bbolt.Tx, by int) error {
	b := bucket(tx, "counts")
	n := binary.BigEndian.Uint64(b.Get([]byte("c")))
	return b.Put([]byte("c"), binary.BigEndian.AppendUint64(nil, uint64(int(n)+by)))
}

func copyMeta(name string) func(now, old *bbolt.Tx) error {
	return func(now, old *bbolt.Tx) error {
		return bucket(now, "meta").Put([]byte(name), bytes.Clone(bucket(old, "meta").Get([]byte(name))))
	}
}

// putHead puts back the head of the time at which all notes had lines: the anchor has it.
func putHead(now, _ *bbolt.Tx) error {
	var anchor struct {
		Last struct {
			Code string `json:"note_code"`
		} `json:"last"`
	}
	err := json.Unmarshal(bucket(now, "anchors").Get([]byte(audit.Changes)), &anchor)
	head, decodeErr := hex.DecodeString(anchor.Last.Code)
	return errors.Join(err, decodeErr, bucket(now, "meta").Put([]byte("head"), head))
}

func all(edits ...func(now, old *bbolt.Tx) error) func(now, old *bbolt.Tx) error {
	return func(now, old *bbolt.Tx) error {
		var err error
		for _, edit := range edits {
			err = errors.Join(err, edit(now, old))
		}
		return err
	}
}

func dropAnchors(now, _ *bbolt.Tx) error { return now.DeleteBucket([]byte("anchors")) }

func dropNotes(keep int) func(now, old *bbolt.Tx) error {
	return func(now, _ *bbolt.Tx) error { return clearBucket(bucket(now, "outbox"), keep) }
}

// attacks on a store with the slots a, in which the last change is, b, of which the old
// copy has an older record, and gone, which the old copy has and which was emptied since.
func attacks() map[string]attack {
	const removed, older = "it was removed", "an older record was put back"
	return map[string]attack{
		"older record":      {0, copyRecord("b"), "c/b: the record has revision 2, and line 4 wrote revision 4: " + older, ""},
		"emptied slot full": {0, all(copyRecord("gone"), func(now, _ *bbolt.Tx) error { return addCount(now, 1) }), "c/gone: the record has revision 3, and no line has it", ""},
		"record removed": {0, func(now, _ *bbolt.Tx) error {
			key, _ := recordOf(now, "b")
			return errors.Join(bucket(now, "slots").Delete(key), addCount(now, -1))
		}, "c/b: there is no record, and line 4 wrote revision 4: " + removed, ""},
		"anchors dropped":            {0, dropAnchors, "the store knows nothing of this stream", "a new chain begins where there was one already"},
		"anchors and outbox dropped": {2, all(dropAnchors, dropNotes(0)), "the store knows nothing of this stream", "a new chain begins where there was one already"},
		"first note dropped": {2, func(now, _ *bbolt.Tx) error {
			k, _ := bucket(now, "outbox").Cursor().First()
			return bucket(now, "outbox").Delete(k)
		}, "notes before that of revision 8 are missing", "changes before this line have no line"},
		"newest note dropped": {2, dropNotes(1), "the newest notes are missing", "changes before this line have no line"},
		"all notes dropped":   {2, dropNotes(0), "the newest notes are missing", "changes before this line have no line"},
		"notes and head":      {2, all(dropNotes(0), putHead), "c/a: the record has revision 8, and the last change of it is revision 6", ""},
		"head put back":       {2, copyMeta("head"), "the newest notes are missing", "changes before this line have no line"},
		"anchor put back": {0, func(now, old *bbolt.Tx) error {
			return bucket(now, "anchors").Put([]byte(audit.Changes), bytes.Clone(bucket(old, "anchors").Get([]byte(audit.Changes))))
		}, "of which the store does not know", "the service found the trail damaged"},
		"note of another code": {2, func(now, _ *bbolt.Tx) error {
			k, v := bucket(now, "outbox").Cursor().First()
			return bucket(now, "outbox").Put(bytes.Clone(k), bytes.Replace(v, []byte(`"admin"`), []byte(`"alice"`), 1))
		}, "the note of revision 7 was not made by this service", "revision 7 of the store was committed with a note that the service did not make"},
		"notes exchanged": {2, func(now, _ *bbolt.Tx) error {
			c := bucket(now, "outbox").Cursor()
			k1, v1 := c.First()
			k2, v2 := c.Next()
			k1, v1, k2, v2 = bytes.Clone(k1), bytes.Clone(v1), bytes.Clone(k2), bytes.Clone(v2)
			return errors.Join(bucket(now, "outbox").Put(k1, v2), bucket(now, "outbox").Put(k2, v1))
		}, "was not made by this service", "committed with a note that the service did not make"},
	}
}

// Whoever writes to the store without the keyset is found by verify, before the next
// start and after it. The store never has a line of theirs that looks like one of the
// service.
func TestAttacksOnTheStore(t *testing.T) {
	t.Parallel()
	for name, a := range attacks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrail(t)
			tr.putSlot("b", 1)
			tr.putSlot("gone", 2)
			tr.close()
			old := tr.dir + "/old.db"
			write(t, old, kit.Read(t, "", tr.storePath()))
			tr.open()
			tr.putSlot("b", 3)
			note, err := tr.log.Note(audit.Event{Operation: "csr.delete", Slot: "c/gone"})
			if err != nil {
				t.Fatal(err)
			}
			tr.store.remove(note, "gone")
			tr.changes(1)
			tr.close()
			tr.changesAlone(a.pending)
			tr.editStore(old, a.edit)
			tr.wantFound(a.what)
			tr.open()
			tr.putSlot("other", 4)
			tr.flush()
			kit.Eventually(t, "the check at the start", func() bool { return strings.Contains(tr.said.String(), "level=ERROR") })
			tr.close()
			if a.after == "" {
				a.after = a.what
			}
			tr.wantFound(a.after)
		})
	}
}

// putSlot makes a change of a slot that the changes of the fixture leave alone.
func (tr *trail) putSlot(id string, n int) {
	tr.t.Helper()
	note, err := tr.log.Note(audit.Event{Operation: "csr.create", Slot: slotOf(id).String(), Payload: digestOf(payload(n))})
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.store.put(note, id, payload(n))
}

func (tr *trail) wantFound(what string) {
	tr.t.Helper()
	if found := strings.Join(tr.verify(), "\n"); !strings.Contains(found, what) {
		tr.t.Errorf("found\n%s\nwant …%s…", found, what)
	}
}

// A note of somebody who has no key of the service becomes a line that says so, without
// a word of it.
func TestInventedNote(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.changes(2)
	tr.close()
	tr.n++ // nobody has this change
	forged, err := event(tr.n).Note(goldenStart())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bolt.Open(tr.storePath(), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = raw.Commit(t.Context(), forged, keystore.Op{Slot: slotOf("a"), Payload: payload(tr.n)})
	if err := errors.Join(err, raw.Close()); err != nil {
		t.Fatal(err)
	}
	tr.wantFound("the note of revision 4 was not made by this service")
	tr.wantFound("c/a: the record was not written by this service")
	tr.open()
	tr.changes(1)
	tr.close()
	tr.wantFound("revision 4 of the store was committed with a note that the service did not make")
	for _, l := range tr.lines(audit.Changes) {
		if l.Revision == 4 && (l.Outcome != "unauthentic" || l.User+l.RequestID+l.Operation != "") {
			t.Errorf("%+v", l)
		}
	}
}

// A revision that was put back does not give out revisions again, and has a line.
func TestRevisionPutBack(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	tr.close()
	old := tr.dir + "/old.db"
	write(t, old, kit.Read(t, "", tr.storePath()))
	tr.open()
	tr.changes(3)
	tr.close()
	tr.editStore(old, copyMeta("revision"))
	tr.wantFound("changes-000001.jsonl:4: the lines go on to revision 4 and the store has revision 1: the store is an older one")
	tr.open()
	tr.changes(1)
	tr.close()
	lines := tr.lines(audit.Changes)
	if n := len(lines); n != 6 || lines[4].Operation != "store.restore" || lines[4].Revision != 5 || lines[5].Revision != 6 {
		t.Errorf("%+v", lines)
	}
	tr.wantWhole()
}

package audit_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/test/forge"
	"attestcsr/test/kit"
)

// edit changes the file of a store that is stopped, with a copy of it that is older.
type edit func(now, old *forge.Store)

func (tr *trail) editStore(old string, do edit) {
	tr.t.Helper()
	forge.Edit(tr.t, old, func(old *forge.Store) {
		forge.Edit(tr.t, tr.storePath(), func(now *forge.Store) { do(now, old) })
	})
}

// attack is what somebody does to a store that is stopped, and what is found then and by
// the next start.
type attack struct {
	pending int // changes of which the lines are not written yet
	do      edit
	what    string // verify finds it before the start
	after   string // and this after the start and another change; empty: the same
}

func dropAnchors(now, _ *forge.Store) { now.SetAnchors(nil) }

// keepNotes leaves only the notes from one on, and up to another.
func keepNotes(from, to int) edit {
	return func(now, _ *forge.Store) { now.SetNotes(now.Notes()[from:to]...) }
}

func copyRecord(id string) edit { return func(now, old *forge.Store) { now.Put(old.Get(slotOf(id))) } }

func all(edits ...edit) edit {
	return func(now, old *forge.Store) {
		for _, do := range edits {
			do(now, old)
		}
	}
}

// exchangeNotes lets two notes have the place, and the code, of the other.
func exchangeNotes(now, _ *forge.Store) {
	n := now.Notes()
	n[0].Revision, n[1].Revision = n[1].Revision, n[0].Revision
	now.SetNotes(n...)
}

func changeNote(now, _ *forge.Store) {
	n := now.Notes()
	n[0].Text = bytes.Replace(n[0].Text, []byte(`"admin"`), []byte(`"alice"`), 1)
	now.SetNotes(n...)
}

// dropNotesAndHead takes out the notes that have no line, and puts back the head that
// was before them.
func dropNotesAndHead(now, _ *forge.Store) {
	now.SetHead(now.Notes()[0].Previous)
	now.SetNotes()
}

func oldAnchor(now, old *forge.Store) {
	anchors := now.Anchors()
	anchors[audit.Changes] = old.Anchors()[audit.Changes]
	now.SetAnchors(anchors)
}

// attacks on a store with the slots a, in which the last change is, b, of which the old
// copy has an older record, and gone, which the old copy has and which was emptied since.
func attacks() map[string]attack {
	const unknown, begins = "the store knows nothing of this stream", "a new chain begins where there was one already"
	const lost, forged = "changes before this line have no line", "revision 7 of the store was committed with a note that the service did not make"
	return map[string]attack{
		"older record":      {0, copyRecord("b"), "c/b: the record has revision 2, and line 4 wrote revision 4: an older record was put back", ""},
		"emptied slot full": {0, copyRecord("gone"), "c/gone: the record has revision 3, and no line has it", ""},
		"record removed": {0, func(now, _ *forge.Store) { now.Delete(slotOf("b")) },
			"c/b: there is no record, and line 4 wrote revision 4: it was removed", ""},
		"anchors dropped":            {0, dropAnchors, unknown, begins},
		"anchors and outbox dropped": {2, all(dropAnchors, keepNotes(0, 0)), unknown, begins},
		"first note dropped":         {2, keepNotes(1, 2), "notes before that of revision 8 are missing", lost},
		"newest note dropped":        {2, keepNotes(0, 1), "the newest notes are missing", lost},
		"all notes dropped":          {2, keepNotes(0, 0), "the newest notes are missing", lost},
		"notes and head dropped":     {2, dropNotesAndHead, "c/a: the record has revision 8, and the last change of it is revision 6", ""},
		"head put back":              {2, func(now, old *forge.Store) { now.SetHead(old.Head()) }, "the newest notes are missing", lost},
		"anchor put back":            {0, oldAnchor, "of which the store does not know", "the service found the trail damaged"},
		"note changed":               {2, changeNote, "the note of revision 7 was not made by this service", forged},
		"notes exchanged":            {2, exchangeNotes, "the note of revision 7 was not made by this service", forged},
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
			tr.editStore(old, a.do)
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
	tr.editStore(old, func(now, old *forge.Store) { now.SetRevision(old.Revision()) })
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

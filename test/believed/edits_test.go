package believed_test

import (
	"bytes"
	"slices"

	"attestcsr/keystore"
	"attestcsr/test/forge"
	"attestcsr/test/start"
)

// edit is what an attacker does, and what the service and its commands say of it.
type edit struct {
	make    func(*forge.Store, *past)
	killed  bool     // the service had been killed: three notes wait
	refused string   // the sentence with which the service does not start
	hidden  []string // paths that answer 500
	absent  []string // paths that answer 404
	leftOut string   // how many NSX CSRs lists leave out
	unready bool
	broken  bool     // the service takes the store for damaged while it runs
	made    string   // path of what the start makes anew
	log     string   // what the log of the start says; "": the problems
	verify  []string // what verify and the check at the start find
	after   []string // what verify finds when the service has started; nil: the same
	check   []string // what "store check" finds beside that
}

const (
	byName = start.NSXCSRs + "?sort_by=display_name"

	a, b, c, d, x = start.NSXCSRs + "/a", start.NSXCSRs + "/b", start.NSXCSRs + "/c", start.NSXCSRs + "/d", start.NSXCSRs + "/x"

	forged  = ": the record was not written by this service"
	dropped = "somebody took the" // notes out
	anew    = "a new chain begins where there was one already"
)

// usual are the paths that answer 404 without any edit.
var usual = []string{c, d, x}

// put writes a record into a slot, changed by fn.
func put(s *forge.Store, slot keystore.Slot, r keystore.Record, fn func(*keystore.Record)) {
	r.Slot = slot
	if fn != nil {
		fn(&r)
	}
	s.Put(r)
}

// recordEdits are edits of records with right checksums, counts and index entries.
var recordEdits = map[string]edit{
	"record of another service": {
		make:   func(s *forge.Store, p *past) { put(s, pending, p.theirs[pending], nil) },
		hidden: []string{start.CSRPath}, absent: usual, unready: true, verify: []string{"esx/attestation/csr" + forged},
	},
	"payload of another service": {
		make: func(s *forge.Store, p *past) {
			put(s, pending, s.Get(pending), func(r *keystore.Record) { r.Payload = p.theirs[pending].Payload })
		},
		hidden: []string{start.CSRPath}, absent: usual, unready: true, verify: []string{"esx/attestation/csr" + forged},
	},
	"payload of another service, NSX": {
		make: func(s *forge.Store, p *past) {
			put(s, nsx("a"), s.Get(nsx("a")), func(r *keystore.Record) { r.Payload = p.theirs[nsx("a")].Payload })
		},
		hidden: []string{a}, absent: usual, leftOut: "1", verify: []string{"nsx/csrs/a" + forged},
	},
	"records swapped": {
		make:   func(s *forge.Store, _ *past) { s.Swap(nsx("a"), nsx("b")) },
		hidden: []string{a, b}, absent: usual, leftOut: "2", verify: []string{"nsx/csrs/a" + forged, "nsx/csrs/b" + forged},
	},
	"record copied": {
		make:   func(s *forge.Store, _ *past) { put(s, nsx("x"), s.Get(nsx("a")), nil) },
		hidden: []string{x}, absent: []string{c, d}, leftOut: "1", verify: []string{"nsx/csrs/x" + forged},
	},
	"record copied to another dialect": {
		make:   func(s *forge.Store, _ *past) { put(s, pending, s.Get(nsx("a")), nil) },
		hidden: []string{start.CSRPath}, absent: usual, unready: true, verify: []string{"esx/attestation/csr" + forged},
	},
	"index entries of a record": {
		make: func(s *forge.Store, _ *past) {
			put(s, nsx("a"), s.Get(nsx("a")), func(r *keystore.Record) { s.Delete(r.Slot); r.Index[1].Value = []byte("z") })
		},
		hidden: []string{a}, absent: usual, leftOut: "1", verify: []string{"nsx/csrs/a" + forged},
	},
	"record removed": {
		make:   func(s *forge.Store, _ *past) { s.Delete(nsx("a")) },
		absent: append([]string{a}, usual...), verify: []string{"nsx/csrs/a: there is no record", "it was removed"},
	},
	"record of ESX removed": {
		make:   func(s *forge.Store, _ *past) { s.Delete(pending) },
		absent: append([]string{start.CSRPath}, usual...), verify: []string{"esx/attestation/csr: there is no record", "it was removed"},
	},
	"older record": {
		make:   func(s *forge.Store, p *past) { s.Put(p.earlier[pending]) },
		absent: usual, verify: []string{"esx/attestation/csr: the record has revision", "an older record was put back"},
	},
	"older record under the newer revision": {
		make: func(s *forge.Store, p *past) {
			put(s, pending, p.earlier[pending], func(r *keystore.Record) { r.Revision = s.Get(pending).Revision })
		},
		absent: usual, verify: []string{"esx/attestation/csr: the record has another payload than line"},
	},
	"removed record put back": {
		make:   func(s *forge.Store, p *past) { s.Put(p.earlier[nsx("c")]) },
		absent: []string{d, x}, verify: []string{"nsx/csrs/c: the record has revision"},
	},
	"removed record put back under a newer revision": {
		make: func(s *forge.Store, p *past) {
			put(s, nsx("c"), p.earlier[nsx("c")], func(r *keystore.Record) { r.Revision = s.Revision() + 1; s.SetRevision(r.Revision) })
		},
		absent: []string{d, x}, verify: []string{"nsx/csrs/c: the record has revision"},
	},
	"other revision": {
		make: func(s *forge.Store, _ *past) {
			put(s, nsx("a"), s.Get(nsx("a")), func(r *keystore.Record) { r.Revision = s.Revision() })
		},
		absent: usual, verify: []string{"nsx/csrs/a: the record has revision", "by somebody else"},
	},
	"canary of another service": {
		make:    func(s *forge.Store, p *past) { s.Put(p.theirs[canary]) },
		refused: "keystore/canary: the record is not written by this service",
	},
	"record in place of the canary": {
		make:    func(s *forge.Store, _ *past) { put(s, canary, s.Get(nsx("a")), nil) },
		refused: "keystore/canary: the record is not written by this service",
	},
	// It says only whether the keyset is the right one: the next start makes another.
	"canary removed": {make: func(s *forge.Store, _ *past) { s.Delete(canary) }, absent: usual},
	"checkpoint key of another service": {
		make:   func(s *forge.Store, p *past) { s.Put(p.theirs[checkpoint]) },
		absent: usual, verify: []string{"audit/checkpoint" + forged},
	},
	"checkpoint key removed": {
		make:   func(s *forge.Store, _ *past) { s.Delete(checkpoint) },
		absent: usual, verify: []string{"audit/checkpoint: there is no record"},
	},
}

// formEdits are edits that no attacker needs: what has the right checksum, and no form.
var formEdits = map[string]edit{
	"index entries of a record in another order": {
		make: func(s *forge.Store, _ *past) {
			put(s, nsx("a"), s.Get(nsx("a")), func(r *keystore.Record) { slices.Reverse(r.Index) })
		},
		refused: "damaged",
	},
	"record of revision 0": {
		make: func(s *forge.Store, _ *past) {
			put(s, nsx("a"), s.Get(nsx("a")), func(r *keystore.Record) { r.Revision = 0 })
		},
		refused: "damaged",
	},
	"note of no form":     {make: func(s *forge.Store, _ *past) { s.PutRaw("outbox", bytes.Repeat([]byte{1}, 8), []byte{9}) }, refused: "damaged"},
	"note of no revision": {make: func(s *forge.Store, _ *past) { s.PutRaw("outbox", []byte{1}, []byte{0, 0}) }, refused: "damaged"},
	"record of no form": {
		make:    func(s *forge.Store, _ *past) { s.PutRaw("slots", []byte("rnsx/csrs\x00a"), []byte{9}) },
		refused: "damaged",
	},
	"record of no slot": {
		make:    func(s *forge.Store, _ *past) { s.PutRaw("slots", []byte("r"), forge.Encode(s.Get(nsx("a")))) },
		refused: "damaged",
	},
	"highest revision": {make: func(s *forge.Store, _ *past) { s.SetRevision(1<<64 - 1) }, refused: "damaged"},
	// It leaves room for more than a store lives to make.
	"revision raised": {make: func(s *forge.Store, _ *past) { s.SetRevision(1 << 62) }, absent: usual},
}

// indexEdits are edits of entries and counts alone.
var indexEdits = map[string]edit{
	"index entry removed": {
		make: func(s *forge.Store, _ *past) {
			r := s.Get(nsx("a"))
			s.SetEntry(r.Slot, r.Index[1], "")
		},
		absent: usual, check: []string{"1 entries are missing"},
	},
	"index entry of another place": {
		make: func(s *forge.Store, _ *past) {
			s.SetEntry(nsx("a"), keystore.IndexEntry{Name: "display_name", Value: []byte("zz")}, "a")
		},
		absent: usual, check: []string{"no record has it"},
	},
	"index entry of another record": {
		make: func(s *forge.Store, _ *past) {
			r := s.Get(nsx("a"))
			s.SetEntry(r.Slot, r.Index[1], "b")
		},
		absent: usual, check: []string{"index"},
	},
	// A list that meets it takes the store for damaged.
	"index entry of no record": {
		make: func(s *forge.Store, _ *past) {
			s.SetEntry(nsx("a"), keystore.IndexEntry{Name: "display_name", Value: []byte("zz")}, "gone")
		},
		hidden: []string{byName}, absent: usual, unready: true, broken: true, check: []string{"no record has it"},
	},
	"count raised": {
		make:    func(s *forge.Store, _ *past) { s.SetCount("nsx/csrs", s.Count("nsx/csrs")+1) },
		refused: `records of "nsx/csrs" are missing`,
	},
	"count lowered": {
		make:    func(s *forge.Store, _ *past) { s.SetCount("nsx/csrs", 0) },
		refused: `records of "nsx/csrs" are missing`,
	},
	"count of no collection": {
		make:    func(s *forge.Store, _ *past) { s.SetCount("nsx/others", 7) },
		refused: `records of "nsx/others" are missing`,
	},
}

// notes makes an edit of the three notes that wait.
func notes(fn func([]keystore.Note) []keystore.Note) func(*forge.Store, *past) {
	return func(s *forge.Store, _ *past) { s.SetNotes(fn(s.Notes())...) }
}

// afterKill are the paths that answer 404 after the third day.
var afterKill = []string{a, c, x}

// noteEdits are edits of the outbox, whose notes are of a create of ESX, of nsx/csrs/d, and
// of the removal of nsx/csrs/a.
var noteEdits = map[string]edit{
	"nothing": {make: func(*forge.Store, *past) {}, killed: true, absent: afterKill},
	"note changed": {
		make: notes(func(n []keystore.Note) []keystore.Note {
			n[1].Text = bytes.Replace(n[1].Text, []byte(`"admin"`), []byte(`"forged words"`), 1)
			return n
		}),
		killed: true, absent: afterKill, verify: []string{"was not made by this service"}, after: []string{"with a note that the service did not make"},
	},
	"text of no form": {
		make: notes(func(n []keystore.Note) []keystore.Note {
			n[1].Text = []byte("forged words")
			return n
		}),
		killed: true, absent: afterKill, verify: []string{"was not made by this service"}, after: []string{"with a note that the service did not make"},
	},
	"note added": {
		make: func(s *forge.Store, _ *past) {
			n := s.Notes()
			text := bytes.Replace(n[2].Text, []byte(`"admin"`), []byte(`"forged words"`), 1)
			s.SetRevision(s.Revision() + 1)
			s.SetNotes(append(n, keystore.Note{Revision: s.Revision(), Previous: n[2].Code, Code: n[1].Code, Text: text})...)
		},
		killed: true, absent: afterKill, verify: []string{"was not made by this service"}, after: []string{"with a note that the service did not make"},
	},
	"note repeated": {
		make: func(s *forge.Store, _ *past) {
			n := s.Notes()
			s.SetRevision(s.Revision() + 1)
			s.SetNotes(append(n, keystore.Note{Revision: s.Revision(), Previous: n[2].Code, Code: n[2].Code, Text: n[2].Text})...)
		},
		killed: true, absent: afterKill, verify: []string{"was not made by this service"}, after: []string{"with a note that the service did not make"},
	},
	"note moved": {
		make: notes(func(n []keystore.Note) []keystore.Note {
			n[0].Revision, n[1].Revision = n[1].Revision, n[0].Revision
			return n
		}),
		killed: true, absent: afterKill, verify: []string{"was not made by this service"}, after: []string{"with a note that the service did not make"},
	},
	"note dropped": {
		make:   notes(func(n []keystore.Note) []keystore.Note { return slices.Delete(n, 1, 2) }),
		killed: true, absent: afterKill, verify: []string{dropped},
	},
	"first note dropped": {
		make:   notes(func(n []keystore.Note) []keystore.Note { return n[1:] }),
		killed: true, absent: afterKill, verify: []string{dropped},
	},
	"newest note dropped": {
		make:   notes(func(n []keystore.Note) []keystore.Note { return n[:2] }),
		killed: true, absent: afterKill, verify: []string{dropped},
	},
	"newest note dropped, with the head": {
		make: func(s *forge.Store, _ *past) {
			n := s.Notes()
			s.SetNotes(n[:2]...)
			s.SetHead(n[1].Code)
		},
		killed: true, absent: afterKill, verify: []string{"nsx/csrs/a: there is no record"},
	},
	"newest notes dropped, with the head": {
		make: func(s *forge.Store, _ *past) {
			n := s.Notes()
			s.SetNotes(n[:1]...)
			s.SetHead(n[0].Code)
		},
		killed: true, absent: afterKill, verify: []string{"nsx/csrs/a: there is no record", "nsx/csrs/d: the record has revision"},
	},
	// This is not found: the lines were not written, and the store is what it was a moment before.
	"newest change undone": {
		make: func(s *forge.Store, p *past) {
			n := s.Notes()
			s.SetNotes(n[:2]...)
			s.SetHead(n[1].Code)
			s.SetRevision(n[1].Revision)
			s.Put(p.earlier[nsx("a")])
		},
		killed: true, absent: []string{c, x},
	},
	"outbox dropped": {
		make:   notes(func([]keystore.Note) []keystore.Note { return nil }),
		killed: true, absent: afterKill, verify: []string{dropped},
	},
	"outbox dropped, with the head": {
		make: func(s *forge.Store, _ *past) {
			s.SetHead(s.Notes()[0].Previous)
			s.SetNotes()
		},
		killed: true, absent: afterKill, verify: []string{"esx/attestation/csr: the record has revision", "nsx/csrs/a: there is no record", "nsx/csrs/d: the record has revision"},
	},
	"outbox and anchors dropped": {
		make: func(s *forge.Store, _ *past) {
			s.SetNotes()
			s.SetAnchors(nil)
		},
		killed: true, absent: afterKill, verify: []string{"knows nothing of this stream"}, after: []string{anew},
	},
	"outbox, head and anchors dropped, revision lowered": {
		make: func(s *forge.Store, _ *past) {
			s.SetNotes()
			s.SetHead(nil)
			s.SetAnchors(nil)
			s.SetRevision(1)
		},
		killed: true, absent: afterKill, verify: []string{"knows nothing of this stream"}, after: []string{anew},
	},
}

// stateEdits are edits of what the store knows of the trail.
var stateEdits = map[string]edit{
	"nothing at all":  {make: func(*forge.Store, *past) {}, absent: usual},
	"anchors dropped": {make: func(s *forge.Store, _ *past) { s.SetAnchors(nil) }, absent: usual, verify: []string{"knows nothing of this stream"}, after: []string{anew}},
	"one anchor dropped": {
		make: func(s *forge.Store, _ *past) {
			anchors := s.Anchors()
			delete(anchors, "changes")
			s.SetAnchors(anchors)
		},
		absent: usual, verify: []string{"knows nothing of this stream"}, after: []string{anew},
	},
	"the other anchor dropped": {
		make: func(s *forge.Store, _ *past) {
			anchors := s.Anchors()
			delete(anchors, "refusals")
			s.SetAnchors(anchors)
		},
		absent: usual, verify: []string{"knows nothing of this stream"}, after: []string{anew},
	},
	"anchor of signatures dropped": {
		make: func(s *forge.Store, _ *past) {
			anchors := s.Anchors()
			delete(anchors, "signatures")
			s.SetAnchors(anchors)
		},
		absent: usual, verify: []string{"knows nothing of this stream"}, after: []string{anew},
	},
	"older anchors": {
		make:   func(s *forge.Store, p *past) { s.SetAnchors(p.anchors) },
		absent: usual, verify: []string{"of which the store does not know"}, after: []string{"the service found the trail damaged"},
	},
	"anchors swapped": {
		make: func(s *forge.Store, _ *past) {
			anchors := s.Anchors()
			anchors["changes"], anchors["refusals"] = anchors["refusals"], anchors["changes"]
			s.SetAnchors(anchors)
		},
		absent: usual, verify: []string{"the anchor was changed"}, after: []string{anew},
	},
	"anchor changed": {
		make: func(s *forge.Store, _ *past) {
			anchors := s.Anchors()
			anchors["changes"] = bytes.Replace(anchors["changes"], []byte(`"seq":`), []byte(`"seq":1`), 1)
			s.SetAnchors(anchors)
		},
		absent: usual, verify: []string{"the anchor was changed"}, after: []string{anew},
	},
	"anchor of no form": {
		make: func(s *forge.Store, _ *past) {
			s.SetAnchors(map[string][]byte{"changes": []byte("forged words"), "refusals": nil})
		},
		absent: usual, verify: []string{"the anchor cannot be read"}, after: []string{anew},
	},
	"head dropped": {make: func(s *forge.Store, _ *past) { s.SetHead(nil) }, absent: usual, verify: []string{dropped}},
	"head changed": {make: func(s *forge.Store, _ *past) { s.SetHead(bytes.Repeat([]byte{1}, 36)) }, absent: usual, verify: []string{dropped}},
	"revision lowered": {
		make:   func(s *forge.Store, _ *past) { s.SetRevision(s.Revision() - 2) },
		absent: usual, verify: []string{"the store is an older one"}, log: "the store was put back", after: []string{},
	},
	"all removed but the canary": {
		make: func(s *forge.Store, _ *past) {
			for _, r := range s.Records() {
				if r.Slot != canary {
					s.Delete(r.Slot)
				}
			}
		},
		absent: []string{a, b, c, d, x, start.CSRPath}, made: start.CertificatePath,
		verify: []string{"nsx/csrs/a: there is no record", "esx/attestation/certificate: there is no record"},
		after:  []string{"nsx/csrs/a: there is no record", "esx/attestation/csr: there is no record"},
	},
	"an older store": {
		make: func(s *forge.Store, p *past) {
			for _, r := range s.Records() {
				s.Delete(r.Slot)
			}
			for _, r := range p.earlier {
				s.Put(r)
			}
			s.SetAnchors(p.anchors)
			s.SetHead(p.head)
			s.SetRevision(p.revision)
		},
		absent: []string{d, x}, verify: []string{"the store is an older one"}, after: []string{"the service found the trail damaged"},
	},
}

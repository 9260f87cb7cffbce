// Package forge is an attacker who can write to the store file of a stopped service, knows
// its format, and has no sealing keyset. What it writes has right checksums, counts and
// index entries, unless a test wants a wrong one; codes it can only copy.
//
// It has the format a second time, by hand. Package bolt describes it.
package forge

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// Store is a store file within one transaction.
type Store struct {
	t  testing.TB
	tx *bbolt.Tx
}

// Edit opens a store file, lets fn change it, and closes it.
func Edit(t testing.TB, file string, fn func(*Store)) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 1, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	err = db.Update(func(tx *bbolt.Tx) error {
		fn(&Store{t, tx})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *Store) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *Store) bucket(name string) *bbolt.Bucket {
	s.t.Helper()
	b, err := s.tx.CreateBucketIfNotExists([]byte(name))
	s.must(err)
	return b
}

// drop empties a bucket.
func (s *Store) drop(name string) {
	s.t.Helper()
	if s.tx.Bucket([]byte(name)) != nil {
		s.must(s.tx.DeleteBucket([]byte(name)))
	}
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Records returns all records.
func (s *Store) Records() []keystore.Record {
	s.t.Helper()
	var all []keystore.Record
	s.must(s.bucket("slots").ForEach(func(k, v []byte) error {
		if k[0] == 'r' {
			all = append(all, s.decode(k, v))
		}
		return nil
	}))
	return all
}

// Get returns the record of a slot that has one.
func (s *Store) Get(slot keystore.Slot) keystore.Record {
	s.t.Helper()
	k := recordKey(slot)
	v := s.bucket("slots").Get(k)
	if v == nil {
		s.t.Fatalf("%s: no record", slot)
	}
	return s.decode(k, v)
}

// Put writes a record in place of the one in its slot, as it is.
func (s *Store) Put(r keystore.Record) {
	s.t.Helper()
	s.Delete(r.Slot)
	s.put(recordKey(r.Slot), Encode(r))
	for _, e := range r.Index {
		s.put(entryKey(r.Slot, e), []byte(r.Slot.ID))
	}
	s.SetCount(r.Slot.Collection, s.Count(r.Slot.Collection)+1)
}

// Delete removes a record, if there is one.
func (s *Store) Delete(slot keystore.Slot) {
	s.t.Helper()
	if s.bucket("slots").Get(recordKey(slot)) == nil {
		return
	}
	for _, e := range s.Get(slot).Index {
		s.SetEntry(slot, e, "")
	}
	s.must(s.bucket("slots").Delete(recordKey(slot)))
	s.SetCount(slot.Collection, s.Count(slot.Collection)-1)
}

// Swap lets the records of two slots change places.
func (s *Store) Swap(one, other keystore.Slot) {
	s.t.Helper()
	a, b := s.Get(one), s.Get(other)
	a.Slot, b.Slot = b.Slot, a.Slot
	s.Put(a)
	s.Put(b)
}

// SetEntry lets an index entry point to an id; to none: it is removed.
func (s *Store) SetEntry(slot keystore.Slot, e keystore.IndexEntry, id string) {
	s.t.Helper()
	if id == "" {
		s.must(s.bucket("slots").Delete(entryKey(slot, e)))
		return
	}
	s.put(entryKey(slot, e), []byte(id))
}

func (s *Store) put(key, value []byte) {
	s.t.Helper()
	s.must(s.bucket("slots").Put(key, value))
}

// Count returns the number of records of a collection.
func (s *Store) Count(collection string) uint64 {
	s.t.Helper()
	v := s.bucket("counts").Get([]byte(collection))
	if v == nil {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// SetCount changes the number of records of a collection.
func (s *Store) SetCount(collection string, n uint64) {
	s.t.Helper()
	s.must(s.bucket("counts").Put([]byte(collection), number(n)))
}

// Notes returns the notes of the outbox, the oldest first.
func (s *Store) Notes() []keystore.Note {
	s.t.Helper()
	var all []keystore.Note
	s.must(s.bucket("outbox").ForEach(func(k, v []byte) error {
		p := reader{s.t, bytes.Clone(v)}
		all = append(all, keystore.Note{Revision: binary.BigEndian.Uint64(k), Previous: p.prefixed(1), Code: p.prefixed(1), Text: p.rest})
		return nil
	}))
	return all
}

// SetNotes makes these the notes of the outbox.
func (s *Store) SetNotes(notes ...keystore.Note) {
	s.t.Helper()
	s.drop("outbox")
	outbox := s.bucket("outbox")
	for _, n := range notes {
		value := prefixed(prefixed(nil, 1, n.Previous), 1, n.Code)
		s.must(outbox.Put(number(n.Revision), append(value, n.Text...)))
	}
}

// PutRaw writes what may have no form at all.
func (s *Store) PutRaw(bucket string, key, value []byte) {
	s.t.Helper()
	s.must(s.bucket(bucket).Put(key, value))
}

// Head returns the code of the newest note.
func (s *Store) Head() []byte { return bytes.Clone(s.bucket("meta").Get([]byte("head"))) }

// SetHead changes the code of the newest note; nil: there has been none.
func (s *Store) SetHead(code []byte) {
	s.t.Helper()
	if code == nil {
		s.must(s.bucket("meta").Delete([]byte("head")))
		return
	}
	s.must(s.bucket("meta").Put([]byte("head"), code))
}

// Revision returns the last revision that was given out.
func (s *Store) Revision() uint64 {
	return binary.BigEndian.Uint64(s.bucket("meta").Get([]byte("revision")))
}

// SetRevision changes the last revision that was given out.
func (s *Store) SetRevision(revision uint64) {
	s.t.Helper()
	s.must(s.bucket("meta").Put([]byte("revision"), number(revision)))
}

// Anchors returns the anchors by name.
func (s *Store) Anchors() map[string][]byte {
	s.t.Helper()
	all := map[string][]byte{}
	if s.tx.Bucket([]byte("anchors")) == nil {
		return all
	}
	s.must(s.bucket("anchors").ForEach(func(k, v []byte) error {
		all[string(k)] = bytes.Clone(v)
		return nil
	}))
	return all
}

// SetAnchors makes these the anchors; with none, the bucket is gone too.
func (s *Store) SetAnchors(anchors map[string][]byte) {
	s.t.Helper()
	s.drop("anchors")
	for _, name := range slices.Sorted(maps.Keys(anchors)) {
		s.must(s.bucket("anchors").Put([]byte(name), anchors[name]))
	}
}

func recordKey(slot keystore.Slot) []byte { return []byte("r" + slot.Collection + "\x00" + slot.ID) }

// entryKey is the key of an index entry.
func entryKey(slot keystore.Slot, e keystore.IndexEntry) []byte {
	value := strings.ReplaceAll(string(e.Value), "\x00", "\x00\xff")
	return []byte("i" + slot.Collection + "\x00" + e.Name + "\x00" + value + "\x00\x01" + slot.ID)
}

// Encode returns a record as the file has it, with its checksum.
func Encode(r keystore.Record) []byte {
	b := append([]byte{3}, number(r.Revision)...)
	b = prefixed(prefixed(b, 4, r.Ref), 4, r.Payload)
	b = append(b, byte(len(r.Index))) //nolint:gosec // a few
	for _, e := range r.Index {
		b = prefixed(prefixed(b, 1, []byte(e.Name)), 2, e.Value)
	}
	b = prefixed(b, 1, r.Code)
	sum := crc32.Checksum([]byte(string(b)+r.Slot.Collection+"\x00"+r.Slot.ID), crc32.MakeTable(crc32.Castagnoli))
	return binary.BigEndian.AppendUint32(b, sum)
}

// prefixed appends a part with its length before it, in so many bytes.
func prefixed(b []byte, width int, part []byte) []byte {
	n := binary.BigEndian.AppendUint32(nil, uint32(len(part))) //nolint:gosec // below a MiB
	return append(append(b, n[4-width:]...), part...)
}

func (s *Store) decode(key, value []byte) (r keystore.Record) {
	s.t.Helper()
	r.Slot.Collection, r.Slot.ID, _ = strings.Cut(string(key[1:]), "\x00")
	p := reader{s.t, bytes.Clone(value)}
	format := p.take(1)[0]
	r.Revision = binary.BigEndian.Uint64(p.take(8))
	r.Ref, r.Payload = p.prefixed(4), p.prefixed(4)
	for range p.take(1)[0] {
		r.Index = append(r.Index, keystore.IndexEntry{Name: string(p.prefixed(1)), Value: p.prefixed(2)})
	}
	r.Code = p.prefixed(1)
	if format != 3 || len(p.rest) != 4 {
		s.t.Fatalf("%s: format %d, %d bytes for the checksum", r.Slot, format, len(p.rest))
	}
	return r
}

// reader takes a record apart.
type reader struct {
	t    testing.TB
	rest []byte
}

func (r *reader) take(n int) []byte {
	r.t.Helper()
	if n > len(r.rest) {
		r.t.Fatalf("%d bytes are missing", n-len(r.rest))
	}
	var part []byte
	part, r.rest = r.rest[:n:n], r.rest[n:]
	return part
}

// prefixed takes what has its length before it, in so many bytes.
func (r *reader) prefixed(width int) []byte {
	r.t.Helper()
	n := 0
	for _, b := range r.take(width) {
		n = n<<8 | int(b)
	}
	return r.take(n)
}

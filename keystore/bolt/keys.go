package bolt

import (
	"bytes"

	"go.etcd.io/bbolt"

	"attestcsr/keystore"
)

// The first byte of a key in the bucket of slots says what it belongs to.
const (
	ofRecord = 'r'
	ofEntry  = 'i' // an entry of an index
)

// recordKey is the key of a slot's record: "r", the collection, a NUL byte, the id.
// Neither name holds a NUL byte.
func recordKey(slot keystore.Slot) []byte { return append(recordPrefix(slot.Collection), slot.ID...) }

func recordPrefix(collection string) []byte {
	b := append(make([]byte, 0, 64), ofRecord)
	return append(append(b, collection...), 0)
}

// slotOf returns the slot whose recordKey this is, and false for other keys.
func slotOf(key []byte) (keystore.Slot, bool) {
	name, is := bytes.CutPrefix(key, []byte{ofRecord})
	collection, id, both := bytes.Cut(name, []byte{0})
	return keystore.Slot{Collection: string(collection), ID: string(id)}, is && both && bytes.IndexByte(id, 0) < 0
}

// entryKey is the key of a slot's entry in an index: "i", the collection, a NUL
// byte, the name of the index, a NUL byte, the indexKey.
func entryKey(slot keystore.Slot, e keystore.IndexEntry) []byte {
	return append(entryPrefix(slot.Collection, e.Name), indexKey(e.Value, slot.ID)...)
}

func entryPrefix(collection, index string) []byte {
	b := append(make([]byte, 0, 96), ofEntry)
	b = append(append(b, collection...), 0)
	return append(append(b, index...), 0)
}

// indexKey sorts an entry within its index: the value, then the slot's id. A NUL
// byte in the value becomes 00 FF and 00 01 ends it, so that keys compare as values
// do, byte by byte, and ids only break ties.
func indexKey(value []byte, id string) []byte {
	return append(append(escaped(value, 2+len(id)), 0x00, 0x01), id...)
}

// escaped returns the value as the beginning of an indexKey, with room for more.
func escaped(value []byte, room int) []byte {
	b := make([]byte, 0, len(value)+room)
	for _, c := range value {
		b = append(b, c)
		if c == 0 {
			b = append(b, 0xFF)
		}
	}
	return b
}

// span walks over the keys that begin with a prefix, and returns them without it. What is
// left of them begins with more. A nil key is the end.
type span struct {
	c            *bbolt.Cursor
	prefix, more []byte
}

// spanOf is the part of the bucket that a query asks for.
func spanOf(c *bbolt.Cursor, q keystore.Query) span {
	if q.Index == "" {
		return span{c, recordPrefix(q.Collection), q.Prefix}
	}
	return span{c, entryPrefix(q.Collection, q.Index), escaped(q.Prefix, 0)}
}

func (s span) within(k, v []byte) ([]byte, []byte) {
	rest, is := bytes.CutPrefix(k, s.prefix)
	if !is || !bytes.HasPrefix(rest, s.more) {
		return nil, nil
	}
	return rest, v
}

// seek moves to the first item after q.After, whether or not that still exists. The
// prefix ends with a NUL byte.
func (s span) seek(q keystore.Query) (k, v []byte) {
	after, skip := q.After, len(q.After) > 0
	if bytes.Compare(after, s.more) < 0 {
		after, skip = s.more, false
	}
	from := append(bytes.Clone(s.prefix), after...)
	if q.Descending && len(q.After) == 0 {
		from[len(from)-1]++ // after all keys with the prefix
	}
	k, v = s.c.Seek(from)
	switch {
	case q.Descending && k == nil: // at the end
		return s.within(s.c.Last())
	case q.Descending, skip && bytes.Equal(k, from):
		return s.step(q)
	}
	return s.within(k, v)
}

func (s span) step(q keystore.Query) (k, v []byte) {
	if q.Descending {
		return s.within(s.c.Prev())
	}
	return s.within(s.c.Next())
}

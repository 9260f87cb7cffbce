package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"attestcsr/keystore"
)

// record is what the store keeps for a slot. Its encoding, all numbers
// big-endian:
//
//	1 byte    format: 3
//	8 bytes   revision, not 0
//	4 bytes   length of the reference, then the reference
//	4 bytes   length of the payload, then the payload
//	1 byte    number of index entries, then for each, in ascending order of names:
//	            1 byte   length of the name, then the name
//	            2 bytes  length of the value, then the value
//	1 byte    length of the authentication code, then the code
//	4 bytes   CRC-32C of everything before, then of the slot's collection, a NUL
//	          byte and its id
//
// The slot is in the checksum, so that a record under a damaged key is an error
// and not the record of another slot. The index entries are in the record, so that
// a later commit knows what to remove from the index. The checksum finds damage
// without a key; package keystore finds forgery by the authentication code.
type record struct {
	revision uint64
	ref      keystore.Ref
	payload  []byte
	index    []keystore.IndexEntry // in ascending order of names
	code     []byte
}

const recordFormat = 3

// checksum is that of a record, without the checksum itself, in a slot.
func checksum(b []byte, slot keystore.Slot) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(b, table), table, []byte(slot.Collection+"\x00"+slot.ID))
}

// trailer is the length of the checksum.
const trailer = 4

// newRecord makes the record of an operation that passed Op.Validate.
func newRecord(revision uint64, op keystore.Op) record {
	index := slices.Clone(op.Index)
	slices.SortFunc(index, func(a, b keystore.IndexEntry) int { return strings.Compare(a.Name, b.Name) })
	return record{revision: revision, ref: op.Ref, payload: op.Payload, index: index, code: op.Code}
}

// encode does not panic for a record that passed Op.Validate, which bounds all lengths.
func (r record) encode(slot keystore.Slot) []byte {
	b := cryptobyte.NewBuilder(make([]byte, 0, 128+len(r.ref)+len(r.payload)))
	add := func(bytes []byte) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) { b.AddBytes(bytes) }
	}
	b.AddUint8(recordFormat)
	b.AddUint64(r.revision)
	b.AddUint32LengthPrefixed(add(r.ref))
	b.AddUint32LengthPrefixed(add(r.payload))
	b.AddUint8(uint8(len(r.index))) //nolint:gosec // at most keystore.MaxIndexEntries
	for _, e := range r.index {
		b.AddUint8LengthPrefixed(add([]byte(e.Name)))
		b.AddUint16LengthPrefixed(add(e.Value))
	}
	b.AddUint8LengthPrefixed(add(r.code))
	content := b.BytesOrPanic()
	return binary.BigEndian.AppendUint32(content, checksum(content, slot))
}

// decodeRecord reads the record of a slot. It is strict: what it accepts, encode
// gives back byte for byte. The result shares no memory with b.
func decodeRecord(slot keystore.Slot, b []byte) (record, error) {
	if len(b) < trailer || checksum(b[:len(b)-trailer], slot) != binary.BigEndian.Uint32(b[len(b)-trailer:]) {
		return record{}, errDamagedRecord
	}
	p := cryptobyte.String(bytes.Clone(b[:len(b)-trailer]))
	var r record
	var format, entries uint8
	ok := p.ReadUint8(&format) && p.ReadUint64(&r.revision) &&
		readLong(&p, (*[]byte)(&r.ref)) && readLong(&p, &r.payload) && p.ReadUint8(&entries)
	for ; ok && entries > 0; entries-- {
		var name, value cryptobyte.String
		ok = p.ReadUint8LengthPrefixed(&name) && p.ReadUint16LengthPrefixed(&value) &&
			(len(r.index) == 0 || r.index[len(r.index)-1].Name < string(name))
		r.index = append(r.index, keystore.IndexEntry{Name: string(name), Value: slices.Clip([]byte(value))})
	}
	var code cryptobyte.String
	ok = ok && p.ReadUint8LengthPrefixed(&code)
	r.code = slices.Clip([]byte(code))
	op := keystore.Op{Slot: slot, Ref: r.ref, Payload: r.payload, Index: r.index, Code: r.code}
	if !ok || !p.Empty() || format != recordFormat || r.revision == 0 || op.Validate() != nil {
		return record{}, errDamagedRecord
	}
	return r, nil
}

// of is the record as package keystore knows it.
func (r record) of(slot keystore.Slot) keystore.Record {
	return keystore.Record{Slot: slot, Revision: r.revision, Ref: r.ref, Payload: r.payload, Index: r.index, Code: r.code}
}

// readLong reads a length of 4 bytes and as many bytes, to which nothing can be appended
// in place.
func readLong(p *cryptobyte.String, out *[]byte) bool {
	var n uint32
	ok := p.ReadUint32(&n) && p.ReadBytes(out, int(n))
	*out = slices.Clip(*out)
	return ok
}

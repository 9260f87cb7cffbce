package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"

	"attestcsr/keystore"
)

// record is what the store keeps for a slot. Its encoding, all numbers
// big-endian:
//
//	1 byte    format: 2
//	8 bytes   revision, not 0
//	4 bytes   length of the reference, then the reference
//	4 bytes   length of the payload, then the payload
//	1 byte    number of index entries, then for each, in ascending order of names:
//	            1 byte   length of the name, then the name
//	            2 bytes  length of the value, then the value
//	4 bytes   CRC-32C of everything before, then of the slot's collection, a NUL
//	          byte and its id
//
// The slot is in the checksum, so that a record under a damaged key is an error
// and not the record of another slot. The index entries are in the record, so that
// a later commit knows what to remove from the index. The checksum finds damage,
// not forgery: the custodian's binding finds that.
type record struct {
	revision uint64
	ref      keystore.Ref
	payload  []byte
	index    []keystore.IndexEntry // in ascending order of names
}

const recordFormat = 2

// checksum is that of a record, without the checksum itself, in a slot.
func checksum(b []byte, slot keystore.Slot) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(b, table), table, []byte(slot.Collection+"\x00"+slot.ID))
}

// trailer is the length of the checksum.
const trailer = 4

// isIntact reports whether b is the record of a slot, as far as the checksum tells.
func isIntact(b []byte, slot keystore.Slot) bool {
	return len(b) >= trailer && checksum(b[:len(b)-trailer], slot) == binary.BigEndian.Uint32(b[len(b)-trailer:])
}

// newRecord makes the record of an operation that passed Op.Validate.
func newRecord(revision uint64, op keystore.Op) record {
	index := slices.Clone(op.Index)
	slices.SortFunc(index, func(a, b keystore.IndexEntry) int { return strings.Compare(a.Name, b.Name) })
	return record{revision: revision, ref: op.Ref, payload: op.Payload, index: index}
}

func (r record) encode(slot keystore.Slot) []byte {
	size := 1 + 8 + 4 + len(r.ref) + 4 + len(r.payload) + 1 + 4
	for _, e := range r.index {
		size += 1 + len(e.Name) + 2 + len(e.Value)
	}
	b := make([]byte, 0, size)
	b = append(b, recordFormat)
	b = binary.BigEndian.AppendUint64(b, r.revision)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.ref))) //nolint:gosec // bounded by Op.Validate, as are all lengths here
	b = append(b, r.ref...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.payload))) //nolint:gosec // bounded
	b = append(b, r.payload...)
	b = append(b, byte(len(r.index))) //nolint:gosec // bounded
	for _, e := range r.index {
		b = append(b, byte(len(e.Name))) //nolint:gosec // bounded
		b = append(b, e.Name...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(e.Value))) //nolint:gosec // bounded
		b = append(b, e.Value...)
	}
	return binary.BigEndian.AppendUint32(b, checksum(b, slot))
}

// decodeRecord reads the record of a slot. It is strict: what it accepts, encode
// gives back byte for byte. The result shares no memory with b.
func decodeRecord(slot keystore.Slot, b []byte) (record, error) {
	if !isIntact(b, slot) {
		return record{}, errDamagedRecord
	}
	p := parser{rest: bytes.Clone(b[:len(b)-trailer])}
	format := p.number(1)
	r := record{revision: p.number(8)}
	r.ref = p.bytes(p.number(4), keystore.MaxRefLen)
	r.payload = p.bytes(p.number(4), keystore.MaxPayloadLen)
	for n := p.number(1); n > 0 && !p.failed; n-- {
		e := keystore.IndexEntry{Name: string(p.bytes(p.number(1), keystore.MaxIndexNameLen))}
		e.Value = p.bytes(p.number(2), keystore.MaxIndexValueLen)
		if len(r.index) > 0 && r.index[len(r.index)-1].Name >= e.Name {
			p.failed = true
		}
		r.index = append(r.index, e)
	}
	op := keystore.Op{Slot: keystore.Slot{Collection: "c", ID: "i"}, Ref: r.ref, Payload: r.payload, Index: r.index}
	if p.failed || len(p.rest) != 0 || format != recordFormat || r.revision == 0 || op.Validate() != nil {
		return record{}, errDamagedRecord
	}
	return r, nil
}

// parser takes fields off the front of a record and remembers whether one of
// them was not there.
type parser struct {
	rest   []byte
	failed bool
}

func (p *parser) take(n uint64) []byte {
	if p.failed || n > uint64(len(p.rest)) {
		p.failed = true
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

// number takes a big-endian number of at most 8 bytes.
func (p *parser) number(size uint64) (n uint64) {
	for _, c := range p.take(size) {
		n = n<<8 | uint64(c)
	}
	return n
}

// bytes takes n bytes, to which nothing can be appended in place; more than limit
// is a failure.
func (p *parser) bytes(n uint64, limit int) []byte {
	if n > uint64(limit) { //nolint:gosec // limits are positive constants
		p.failed = true
	}
	return slices.Clip(p.take(n))
}

package keystore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// MAC makes message authentication codes, HMAC with SHA-256, under keys that only the
// service has: one for each key of the sealing keyset.
type MAC interface {
	// Primary is the id of the key for what is new: 8 hexadecimal digits.
	Primary() string
	// Sum returns the code of a message under the key of that id; false: there is no
	// such key.
	Sum(id string, message []byte) ([sha256.Size]byte, bool)
}

// authenticator makes and checks the codes of records and of notes. A code is the id of
// its key, 4 bytes, and the HMAC of
//
//	"attestcsr record", collection, id, reference, payload, and the name and the value of
//	each index entry in ascending order of names
//
//	"attestcsr note", code of the note before, revision, note
//
// Each part has its length before it, 32 bits, big-endian. The code of a record does not
// cover the revision, which the store gives out within the commit: who replays the audit
// trail compares revisions.
type authenticator struct {
	mac     MAC
	buffers *sync.Pool // of *[]byte, for the messages of records that are read
}

func newAuthenticator(mac MAC) authenticator {
	return authenticator{mac, &sync.Pool{New: func() any { return new([]byte) }}}
}

const (
	recordLabel = "attestcsr record"
	noteLabel   = "attestcsr note"
	keyIDLen    = 4 // bytes
)

func appendPart[T string | []byte](b []byte, part T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // bounded by ValidateCommit
	return append(b, part...)
}

// recordMessage appends to b what the code of a record authenticates. index is sorted.
func recordMessage(b []byte, slot Slot, ref Ref, payload []byte, index []IndexEntry) []byte {
	b = appendPart(b, recordLabel)
	b = appendPart(appendPart(b, slot.Collection), slot.ID)
	b = appendPart(appendPart(b, []byte(ref)), payload)
	for _, e := range index {
		b = appendPart(appendPart(b, e.Name), e.Value)
	}
	return b
}

func noteMessage(previous []byte, revision uint64, note []byte) []byte {
	b := appendPart(make([]byte, 0, 128+len(note)), noteLabel)
	b = appendPart(b, previous)
	b = appendPart(b, binary.BigEndian.AppendUint64(nil, revision))
	return appendPart(b, note)
}

// code is the code of a message under the primary key.
func (a authenticator) code(message []byte) ([]byte, error) {
	id := a.mac.Primary()
	raw, err := hex.DecodeString(id)
	sum, known := a.mac.Sum(id, message)
	if err != nil || !known || len(raw) != keyIDLen {
		return nil, fmt.Errorf("%w: there is no primary sealing key", ErrUnavailable)
	}
	return append(raw, sum[:]...), nil
}

// fits reports whether a code is that of a message, under any key that is there.
func (a authenticator) fits(code, message []byte) bool {
	if len(code) != keyIDLen+sha256.Size {
		return false
	}
	sum, known := a.mac.Sum(hex.EncodeToString(code[:keyIDLen]), message)
	return known && bytes.Equal(sum[:], code[keyIDLen:]) // both are in the store: no need for constant time
}

// isPrimary reports whether a code is of the primary key.
func (a authenticator) isPrimary(code []byte) bool {
	return len(code) > keyIDLen && hex.EncodeToString(code[:keyIDLen]) == a.mac.Primary()
}

// check returns ErrUnauthentic for a record that no holder of the keyset wrote.
func (a authenticator) check(r Record) error {
	// Every read comes here: a new message for each would double what a GET allocates.
	buffer := a.buffers.Get().(*[]byte) //nolint:forcetypeassert // it has nothing else
	defer a.buffers.Put(buffer)
	*buffer = recordMessage((*buffer)[:0], r.Slot, r.Ref, r.Payload, r.Index)
	if a.fits(r.Code, *buffer) {
		return nil
	}
	return fmt.Errorf("%s: the record is %w: its authentication code does not fit: restore a backup, or delete it", r.Slot, ErrUnauthentic)
}

// sorted is an index in ascending order of names, as stores keep it.
func sorted(index []IndexEntry) []IndexEntry {
	index = slices.Clone(index)
	slices.SortFunc(index, func(a, b IndexEntry) int { return strings.Compare(a.Name, b.Name) })
	return index
}

// sign puts its code on each operation that leaves a record.
func (a authenticator) sign(ops []Op) error {
	for i, op := range ops {
		if op.Delete {
			continue
		}
		code, err := a.code(recordMessage(nil, op.Slot, op.Ref, op.Payload, sorted(op.Index)))
		if err != nil {
			return err
		}
		ops[i].Code = code
	}
	return nil
}

// guard is the Guard of a Keystore.
type guard struct {
	authenticator
	custodian Custodian
}

// Admit implements Guard. From the moment at which the keyset has a new primary key no
// record is written under an older one.
func (g guard) Admit(op Op) error {
	if !g.isPrimary(op.Code) || len(op.Ref) > 0 && g.custodian.Stale(op.Ref) {
		return fmt.Errorf("%s: %w", op.Slot, ErrRotated)
	}
	return nil
}

// Seal implements Guard.
func (g guard) Seal(previous []byte, revision uint64, note []byte) ([]byte, error) {
	return g.code(noteMessage(previous, revision, note))
}

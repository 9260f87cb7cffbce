package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// maxRevision is more than a store ever gives out. From the highest number of 64 bits on
// revisions would begin again at 0.
const maxRevision = 1 << 63

// contents is what checkStructure finds in the buckets.
type contents struct {
	buckets map[string]bool
	meta    map[string][]byte // what is in the bucket of that name
	notes   int               // in the outbox
	missing map[string]int64  // records by collection: counted less found
	damage  error             // the first
}

func newContents() *contents {
	return &contents{buckets: map[string]bool{}, meta: map[string][]byte{}, missing: map[string]int64{}}
}

// item takes a key and its value.
func (c *contents) item(bucket, key, value []byte) {
	var err error
	switch string(bucket) {
	case string(bucketMeta):
		c.meta[string(key)] = bytes.Clone(value)
	case string(bucketOutbox):
		c.notes++
	case string(bucketCounts):
		var n uint64
		n, err = number(value)
		c.missing[string(key)] += int64(n) //nolint:gosec // a damaged number ends up as another than 0, too
	case string(bucketSlots):
		if len(key) > 0 && key[0] == ofEntry {
			return
		}
		slot, ok := slotOf(key)
		if _, err = decodeRecord(slot, value); !ok || err != nil {
			err = fmt.Errorf("%q: %w", key, errDamagedRecord)
		}
		c.missing[slot.Collection]--
	}
	if c.damage == nil {
		c.damage = err
	}
}

// has reports whether these buckets were found.
func (c *contents) has(buckets ...[]byte) bool {
	for _, name := range buckets {
		if !c.buckets[string(name)] {
			return false
		}
	}
	return true
}

// check finds out whether this is a store of ours, in the format that is read here,
// and whole. It reports a record that cannot be read, or a collection that
// has not as many records as its count says.
func (c *contents) check() error {
	text := c.meta[string(keyFormat)]
	if !c.has(bucketMeta, bucketSlots, bucketCounts, bucketOutbox) || len(text) != 4 || len(c.meta[string(keyRevision)]) != 8 {
		return errForeign
	}
	switch format := binary.BigEndian.Uint32(text); {
	case format > storeFormat:
		return fmt.Errorf("was written by a newer attestcsr (format %d, this one reads %d): upgrade, or restore a backup", format, storeFormat)
	case format < storeFormat:
		return errForeign
	case c.damage != nil:
		return c.damage
	case binary.BigEndian.Uint64(c.meta[string(keyRevision)]) > maxRevision:
		return errDamagedNumber
	}
	for collection, n := range c.missing {
		if n != 0 {
			return fmt.Errorf("%w: %d records of %q are missing", errStructure, n, collection)
		}
	}
	return nil
}

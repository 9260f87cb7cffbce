package bolt

import (
	"fmt"

	"attestcsr/keystore"
)

// tally counts the records of each collection while the pages are checked: what
// damage took away or put under another collection is not taken for something that
// was never there.
type tally struct {
	collections map[string]*collection
	err         error // the first
}

type collection struct {
	records uint64 // found
	count   uint64 // as the store keeps it
}

// of returns a collection, which begins with nothing.
func (t *tally) of(name string) *collection {
	c := t.collections[name]
	if c == nil {
		c = &collection{}
		t.collections[name] = c
	}
	return c
}

// add takes an item of a bucket, which may be in another.
func (t *tally) add(buckets [][]byte, key, value []byte) {
	switch name := string(buckets[0]); {
	case name == string(bucketCounts):
		n, err := number(value)
		t.of(string(key)).count = n
		t.fail(err)
	case name == string(bucketSlots) && (len(key) == 0 || key[0] != ofEntry):
		t.found(slotOf(key))
	}
}

func (t *tally) found(slot keystore.Slot, is bool) {
	if !is || slot.Validate() != nil {
		t.fail(fmt.Errorf("%w: a record's name", errStructure))
		return
	}
	t.of(slot.Collection).records++
}

func (t *tally) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// check compares what was found with what there has to be.
func (t *tally) check() error {
	for name, c := range t.collections {
		if c.records != c.count {
			t.fail(fmt.Errorf("%w: %q has %d of %d records", errStructure, name, c.records, c.count))
		}
	}
	return t.err
}

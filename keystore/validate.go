package keystore

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of what a store takes. They are far above what the layers above
// produce and keep a commit, and a page of a listing, small.
const (
	MaxCollectionLen = 255     // bytes
	MaxIDLen         = 1024    // bytes
	MaxRefLen        = 1 << 16 // bytes
	MaxPayloadLen    = 1 << 20 // bytes
	MaxNoteLen       = 1 << 16 // bytes
	MaxIndexNameLen  = 64      // bytes
	MaxIndexValueLen = 1024    // bytes
	MaxIndexEntries  = 16      // per record
	MaxOpsPerCommit  = 16
	MaxAnchorNameLen = 64      // bytes
	MaxAnchorLen     = 1 << 14 // bytes
	MaxCodeLen       = 64      // bytes
	CheckSize        = 4 << 10 // bytes of the scratch record, as a create has
)

// Validate reports whether the slot can exist in a store: both parts non-empty,
// without a NUL byte, within MaxCollectionLen and MaxIDLen.
func (s Slot) Validate() error {
	if err := validateName("collection", s.Collection, MaxCollectionLen); err != nil {
		return err
	}
	return validateName("slot id", s.ID, MaxIDLen)
}

// Validate checks the operation against the bounds of this package.
func (o Op) Validate() error {
	if err := o.Slot.Validate(); err != nil {
		return err
	}
	if o.Delete {
		return nil
	}
	switch {
	case len(o.Ref) > MaxRefLen:
		return fmt.Errorf("%s: key reference is longer than %d bytes", o.Slot, MaxRefLen)
	case len(o.Code) > MaxCodeLen:
		return fmt.Errorf("%s: authentication code is longer than %d bytes", o.Slot, MaxCodeLen)
	case len(o.Payload) > MaxPayloadLen:
		return fmt.Errorf("%s: payload is longer than %d bytes", o.Slot, MaxPayloadLen)
	case len(o.Index) > MaxIndexEntries:
		return fmt.Errorf("%s: more than %d index entries", o.Slot, MaxIndexEntries)
	}
	for i, e := range o.Index {
		if err := validateName("index name", e.Name, MaxIndexNameLen); err != nil {
			return fmt.Errorf("%s: %w", o.Slot, err)
		}
		if len(e.Value) > MaxIndexValueLen {
			return fmt.Errorf("%s: value in index %q is longer than %d bytes", o.Slot, e.Name, MaxIndexValueLen)
		}
		for _, earlier := range o.Index[:i] {
			if earlier.Name == e.Name {
				return fmt.Errorf("%s: two entries in index %q", o.Slot, e.Name)
			}
		}
	}
	return nil
}

// ValidateCommit checks what Records.Commit is given: the bounds of the note and
// of every operation, and that no slot appears twice, since all conditions are
// checked before the first write. Every store calls it first, so that all of
// them refuse the same things.
func ValidateCommit(note []byte, ops []Op) error {
	if len(note) > MaxNoteLen {
		return fmt.Errorf("note is longer than %d bytes", MaxNoteLen)
	}
	if len(ops) > MaxOpsPerCommit {
		return fmt.Errorf("more than %d operations in one commit", MaxOpsPerCommit)
	}
	for i, op := range ops {
		if err := op.Validate(); err != nil {
			return err
		}
		for _, earlier := range ops[:i] {
			if earlier.Slot == op.Slot {
				return fmt.Errorf("%s: two operations on one slot in one commit", op.Slot)
			}
		}
	}
	return nil
}

// ValidateAnchors reports whether a store can keep anchors: at most MaxOpsPerCommit, each
// name as that of an index, each anchor of 1 to MaxAnchorLen bytes.
func ValidateAnchors(anchors map[string][]byte) error {
	if len(anchors) > MaxOpsPerCommit {
		return fmt.Errorf("more than %d anchors in one commit", MaxOpsPerCommit)
	}
	for name, anchor := range anchors {
		if err := validateName("name of an anchor", name, MaxAnchorNameLen); err != nil {
			return err
		}
		if len(anchor) == 0 || len(anchor) > MaxAnchorLen {
			return fmt.Errorf("anchor %q has %d bytes, not 1 to %d", name, len(anchor), MaxAnchorLen)
		}
	}
	return nil
}

// Validate checks the query against the bounds of this package.
func (q Query) Validate() error {
	if err := validateName("collection", q.Collection, MaxCollectionLen); err != nil {
		return err
	}
	if q.Index != "" {
		if err := validateName("index name", q.Index, MaxIndexNameLen); err != nil {
			return err
		}
	}
	if q.Limit < 1 {
		return errors.New("the limit of a query is at least 1")
	}
	if q.Descending && len(q.Prefix) > 0 {
		return errors.New("a query for a prefix is in ascending order")
	}
	return nil
}

func validateName(what, name string, limit int) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > limit:
		return fmt.Errorf("%s is longer than %d bytes", what, limit)
	case strings.Contains(name, "\x00"):
		return fmt.Errorf("%s holds a NUL byte", what)
	}
	return nil
}

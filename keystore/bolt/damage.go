package bolt

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Damage is looked for when the file is opened: the structure of all its pages, the
// checksum of every record, and the count of every collection. A store in use checks
// the checksum of each record that it reads, and no more. When it finds damage, or
// bbolt does, it takes no commits any more and is not ready; what is whole can still
// be read. It stays so until the service is restarted, whose start checks the file.
var (
	errDamaged       = errors.New("damaged")
	errDamagedRecord = fmt.Errorf("the record is %w", errDamaged)
	errDamagedIndex  = fmt.Errorf("the index is %w", errDamaged)
	errDamagedNumber = fmt.Errorf("a number in the store is %w", errDamaged)
	errStructure     = fmt.Errorf("the structure of the file is %w", errDamaged)
)

// pageError is a panic over a page.
type pageError struct {
	value any
	stack []byte
}

func (e *pageError) Error() string { return fmt.Sprintf("a page is damaged: %v", e.value) }

// Unwrap makes errors.Is(err, errDamaged) hold.
func (e *pageError) Unwrap() error { return errDamaged }

// guarded runs fn, which touches pages of the file, and returns its panic as a
// pageError: bbolt panics on a damaged page. A page that the disk cannot read is a
// memory fault, which ends the process unless SetPanicOnFault makes it a panic.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &pageError{p, debug.Stack()}
		}
	}()
	return fn()
}

// watched is guarded for a store in use: it remembers the damage that fn finds.
func (s *Store) watched(fn func() error) error {
	err := guarded(fn)
	if errors.Is(err, errDamaged) && !s.damaged.Swap(true) {
		attributes := []any{"file", s.path, "error", err}
		if page, ok := errors.AsType[*pageError](err); ok { // with the stack, since the error may be one of ours
			attributes = append(attributes, "stack", string(page.stack))
		}
		s.log.Error("the key store is damaged and takes no more changes: restart the service, which checks the file; if the start refuses it, restore a backup",
			attributes...)
	}
	return err
}

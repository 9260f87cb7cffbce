package faultfs

import (
	"fmt"
	"slices"
	"syscall"
)

// Kind is what an operation does.
type Kind string

// The operations that have a number.
const (
	Create    Kind = "create"
	Write     Kind = "write"
	Resize    Kind = "resize" // ftruncate, and open with O_TRUNC
	Allocate  Kind = "allocate"
	Mode      Kind = "mode" // chmod, chown
	Flush     Kind = "flush"
	FlushDir  Kind = "flush directory"
	Mkdir     Kind = "mkdir"
	Link      Kind = "link"
	Rename    Kind = "rename"
	Unlink    Kind = "unlink"
	Rmdir     Kind = "rmdir"
	Open      Kind = "open"
	Read      Kind = "read"
	Directory Kind = "read directory"
)

// Changes are the kinds that change the disk or flush it.
func Changes() []Kind {
	return []Kind{Create, Write, Resize, Allocate, Mode, Flush, FlushDir, Mkdir, Link, Rename, Unlink, Rmdir}
}

// Operation is one that a process asked for.
type Operation struct {
	Kind Kind
	Path string // from the root of the disk; of a link or a rename the new one
}

func (o Operation) String() string { return string(o.Kind) + " " + o.Path }

// Fault is what happens to an operation.
type Fault string

// The faults.
const (
	// Kill ends the process before the operation, and the disk takes nothing more.
	Kill Fault = "kill"
	// IOError fails the operation with EIO. A flush that fails so loses some of
	// what it was to flush.
	IOError Fault = "EIO"
	// NoSpace fails the operation with ENOSPC.
	NoSpace Fault = "ENOSPC"
	// ShortWrite writes half and says so; what is written to that file next fails
	// with ENOSPC, as on a disk that is getting full.
	ShortWrite Fault = "short write"
	// FlushError is IOError for flushes alone.
	FlushError Fault = "EIO on flush"
	// ReadError fails a read or an open with EIO.
	ReadError Fault = "EIO on read"
)

// Meets returns the kinds of operations that a fault can happen to.
func (f Fault) Meets() []Kind {
	switch f {
	case NoSpace:
		return []Kind{Create, Write, Resize, Allocate, Flush, FlushDir, Mkdir, Link, Rename}
	case ShortWrite:
		return []Kind{Write}
	case FlushError:
		return []Kind{Flush, FlushDir}
	case ReadError:
		return []Kind{Open, Read, Directory}
	}
	return Changes()
}

// plan is an armed fault.
type plan struct {
	fault Fault
	left  int // operations that it can meet before it happens
	kill  func()
	luck  Luck
	fired *Operation
	full  uint64 // the file whose next write fails, after a short one
}

// Arm lets the n-th operation from now on, counted from 1, of those that the fault
// can meet, meet it. Kill calls kill, which sends the process its signal and must
// not wait for its end; the luck is that of a flush that fails.
func (d *Disk) Arm(fault Fault, n int, luck Luck, kill func()) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.plan = &plan{fault: fault, left: n, kill: kill, luck: luck}
}

// Fired returns the operation that the armed fault happened to.
func (d *Disk) Fired() (Operation, bool) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if d.plan == nil || d.plan.fired == nil {
		return Operation{}, false
	}
	return *d.plan.fired, true
}

// Refuse fails all operations of the kinds with the error from now on; 0 ends it.
// Refused flushes lose what they were to flush.
func (d *Disk) Refuse(err syscall.Errno, kinds ...Kind) {
	d.lock.Lock()
	defer d.lock.Unlock()
	for _, k := range kinds {
		if err == 0 {
			delete(d.refused, k)
		} else {
			d.refused[k] = err
		}
	}
}

// Stop lets the disk take nothing any more: every operation fails with EIO. In the
// same moment it calls kill, which must not wait for the process to end: it may be
// waiting for the disk.
func (d *Disk) Stop(kill func()) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.stopped = true
	kill()
}

// Operations returns what was asked for since the disk was made, of the kinds.
func (d *Disk) Operations(kinds ...Kind) []Operation {
	d.lock.Lock()
	defer d.lock.Unlock()
	var found []Operation
	for _, o := range d.operations {
		if slices.Contains(kinds, o.Kind) {
			found = append(found, o)
		}
	}
	return found
}

// verdict is what begin says of an operation.
type verdict struct {
	err   syscall.Errno
	short bool
	luck  Luck // where err is that of a flush
}

// begin numbers an operation and says how it ends. The caller holds the lock.
func (d *Disk) begin(kind Kind, n *node, path string) verdict {
	o := Operation{kind, path}
	d.operations = append(d.operations, o)
	if d.stopped {
		return verdict{err: syscall.EIO, luck: Nothing()}
	}
	if err := d.refused[kind]; err != 0 {
		d.refusals++
		return verdict{err: err, luck: Nothing()}
	}
	p := d.plan
	switch {
	case p == nil:
		return verdict{}
	case p.fired != nil:
		if kind == Write && n.ino == p.full {
			p.full = 0
			return verdict{err: syscall.ENOSPC}
		}
		return verdict{}
	case !slices.Contains(p.fault.Meets(), kind):
		return verdict{}
	}
	if p.left--; p.left > 0 {
		return verdict{}
	}
	p.fired = &o
	switch p.fault {
	case Kill:
		d.stopped = true
		p.kill()
		return verdict{err: syscall.EIO, luck: Nothing()}
	case NoSpace:
		return verdict{err: syscall.ENOSPC, luck: p.luck}
	case ShortWrite:
		p.full = n.ino
		return verdict{short: true}
	}
	return verdict{err: syscall.EIO, luck: p.luck}
}

// Refusals returns how often an operation was refused.
func (d *Disk) Refusals() int {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.refusals
}

var _ fmt.Stringer = Operation{}

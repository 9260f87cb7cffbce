package faultfs

import (
	"path"
	"syscall"
	"time"
)

// The operations of a mounted disk. Each takes the lock, has its number and its
// verdict first, and leaves the disk as it was where it fails.

func (d *Disk) child(dir uint64, name string) *node { return d.nodes[d.nodes[dir].entries[name]] }

func (d *Disk) lookUp(dir uint64, name string) (*node, syscall.Errno) {
	if n := d.child(dir, name); n != nil {
		return n, 0
	}
	return nil, syscall.ENOENT
}

// move changes entries of a directory.
func (n *node) move(m move) {
	m.apply(n.entries)
	n.moved = append(n.moved, m)
	n.modified = time.Now()
}

func (d *Disk) create(kind Kind, dir uint64, name string, mode uint32) (*node, syscall.Errno) {
	parent := d.nodes[dir]
	where := path.Join(parent.path, name)
	if v := d.begin(kind, nil, where); v.err != 0 {
		return nil, v.err
	}
	if d.child(dir, name) != nil {
		return nil, syscall.EEXIST
	}
	n := d.add(where, kind == Mkdir, mode&0o777)
	parent.move(move{name: n.ino})
	return n, 0
}

func (d *Disk) link(n *node, dir uint64, name string) syscall.Errno {
	parent := d.nodes[dir]
	where := path.Join(parent.path, name)
	if v := d.begin(Link, n, where); v.err != 0 {
		return v.err
	}
	if d.child(dir, name) != nil {
		return syscall.EEXIST
	}
	n.links++
	n.path = where
	parent.move(move{name: n.ino})
	return 0
}

func (d *Disk) rename(from uint64, oldName string, to uint64, newName string) syscall.Errno {
	n, err := d.lookUp(from, oldName)
	if err != 0 {
		return err
	}
	where := path.Join(d.nodes[to].path, newName)
	if v := d.begin(Rename, n, where); v.err != 0 {
		return v.err
	}
	if old := d.child(to, newName); old != nil {
		if old.dir {
			return syscall.ENOTSUP // nothing that runs here needs it
		}
		old.links--
	}
	n.path = where
	if from == to {
		d.nodes[to].move(move{oldName: 0, newName: n.ino})
		return 0
	}
	d.nodes[to].move(move{newName: n.ino})
	d.nodes[from].move(move{oldName: 0})
	return 0
}

func (d *Disk) unlink(kind Kind, dir uint64, name string) syscall.Errno {
	n, err := d.lookUp(dir, name)
	if err != 0 {
		return err
	}
	if v := d.begin(kind, n, path.Join(d.nodes[dir].path, name)); v.err != 0 {
		return v.err
	}
	if n.dir && len(n.entries) > 0 {
		return syscall.ENOTEMPTY
	}
	n.links--
	d.nodes[dir].move(move{name: 0})
	return 0
}

func (d *Disk) write(n *node, p []byte, off int64) (int, syscall.Errno) {
	v := d.begin(Write, n, n.path)
	if v.err != 0 {
		return 0, v.err
	}
	if v.short {
		p = p[:len(p)/2]
	}
	n.change(change{off, append([]byte{}, p...)})
	return len(p), 0
}

func (d *Disk) resize(n *node, size int64) syscall.Errno {
	if v := d.begin(Resize, n, n.path); v.err != 0 {
		return v.err
	}
	n.change(change{off: size})
	return 0
}

func (n *node) change(ch change) {
	n.data.apply(ch, Everything())
	n.unflushed = append(n.unflushed, ch)
	n.modified = time.Now()
}

// flush makes a file or a directory durable. When a flush of a file fails, what
// luck did not write is no longer waiting to be written: the size stays, since
// that is the business of a journal, and the bytes are the old ones for who reads
// them from the disk.
func (d *Disk) flush(kind Kind, n *node) syscall.Errno {
	v := d.begin(kind, n, n.path)
	switch {
	case v.err != 0 && (n.dir || d.stopped):
		return v.err
	case v.err != 0:
		written := n.survivors(v.luck)
		size := n.data.size
		n.flushed, n.data, n.unflushed = written, written.clone(), nil
		if n.data.size != size {
			n.change(change{off: size})
		}
		return v.err
	case n.dir:
		n.moved = nil
		n.kept = map[string]uint64{}
		move(n.entries).apply(n.kept)
		return 0
	}
	n.flushed, n.unflushed = n.data.clone(), nil
	return 0
}

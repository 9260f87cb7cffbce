package faultfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Disk is a file system in memory. It is safe for concurrent use; one that was
// stopped or cut stays as it is.
type Disk struct {
	lock       sync.Mutex
	nodes      map[uint64]*node
	last       uint64 // inode number; none is used twice
	operations []Operation
	plan       *plan
	refused    map[Kind]syscall.Errno
	refusals   int
	stopped    bool
}

const root = 1

// node is a file or a directory.
type node struct {
	ino      uint64
	path     string // where it was seen last, for people
	dir      bool
	mode     uint32 // permissions
	uid, gid uint32
	links    uint32
	modified time.Time

	// A file: what processes see (what they have not in the page cache they read
	// from here), what a power cut leaves, and the changes between the two.
	data, flushed content
	unflushed     []change

	// A directory: the same.
	entries, kept map[string]uint64
	moved         []move
}

// move is a change of a directory that happens as a whole: names and what they
// lead to, 0 for nothing.
type move map[string]uint64

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	d := &Disk{nodes: map[uint64]*node{}, refused: map[Kind]syscall.Errno{}}
	d.add("", true, 0o700)
	return d
}

func (d *Disk) add(path string, dir bool, mode uint32) *node {
	d.last++
	n := &node{ino: d.last, path: path, dir: dir, mode: mode, links: 1, modified: time.Now()}
	if dir {
		n.links, n.entries, n.kept = 2, map[string]uint64{}, map[string]uint64{}
	}
	d.nodes[n.ino] = n
	return n
}

// Load puts a copy of a folder on the disk, flushed, without sockets.
func Load(folder string) (*Disk, error) {
	d := NewDisk()
	at := map[string]*node{".": d.nodes[root]}
	err := filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.Type() == fs.ModeSocket { // of a process, not of the data
			return err
		}
		rel, err := filepath.Rel(folder, name)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		info, err := e.Info()
		if err != nil {
			return err
		}
		n := d.add(rel, e.IsDir(), uint32(info.Mode().Perm()))
		n.modified = info.ModTime()
		at[rel] = n
		parent := at[path.Dir(rel)]
		parent.entries[e.Name()], parent.kept[e.Name()] = n.ino, n.ino
		if e.IsDir() {
			return nil
		}
		return n.load(name)
	})
	return d, err
}

// load reads a file without its holes.
func (n *node) load(name string) error {
	all, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	n.data.fill(all)
	n.flushed = n.data.clone()
	return nil
}

func (c *content) fill(all []byte) {
	zero := make([]byte, pageSize)
	for off := 0; off < len(all); off += pageSize {
		if page := all[off:min(off+pageSize, len(all))]; !bytes.Equal(page, zero[:len(page)]) {
			c.writeAt(page, int64(off))
		}
	}
	c.truncate(int64(len(all)))
}

// Save writes what processes see to a folder.
func (d *Disk) Save(folder string) error {
	d.lock.Lock()
	defer d.lock.Unlock()
	return d.save(d.nodes[root], folder)
}

func (d *Disk) save(n *node, name string) error {
	if !n.dir {
		return n.save(name)
	}
	err := os.Mkdir(name, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for entry, ino := range n.entries {
		if err := d.save(d.nodes[ino], filepath.Join(name, entry)); err != nil {
			return err
		}
	}
	return errors.Join(os.Chmod(name, fs.FileMode(n.mode)), os.Chtimes(name, n.modified, n.modified))
}

func (n *node) save(name string) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(n.mode))
	if err != nil {
		return err
	}
	for i, page := range n.data.pages {
		if _, err := f.WriteAt(page, i*pageSize); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Truncate(n.data.size), f.Close(), os.Chtimes(name, n.modified, n.modified))
}

// Cut returns the disk as a power cut leaves it now. The disk itself stays as it
// is; processes should not use it any more.
func (d *Disk) Cut(luck Luck) *Disk {
	d.lock.Lock()
	defer d.lock.Unlock()
	after := NewDisk()
	after.last = d.last
	d.survive(d.nodes[root], luck, after)
	return after
}

// survive puts what is left of a node, and of what its entries lead to, on another
// disk.
func (d *Disk) survive(n *node, luck Luck, after *Disk) {
	if _, done := after.nodes[n.ino]; done && n.ino != root {
		after.nodes[n.ino].links++
		return
	}
	left := &node{ino: n.ino, path: n.path, dir: n.dir, mode: n.mode, uid: n.uid, gid: n.gid, links: 1, modified: n.modified}
	after.nodes[n.ino] = left
	if !n.dir {
		left.data = n.survivors(luck)
		left.flushed = left.data.clone()
		return
	}
	left.links, left.entries = 2, maps.Clone(n.kept)
	for _, m := range n.moved {
		if luck.keeps() {
			m.apply(left.entries)
		}
	}
	left.kept = maps.Clone(left.entries)
	for _, name := range slices.Sorted(maps.Keys(left.entries)) { // the same luck, the same disk
		d.survive(d.nodes[left.entries[name]], luck, after)
	}
}

// survivors returns what is left of a file.
func (n *node) survivors(luck Luck) content {
	c := n.flushed.clone()
	for _, ch := range n.unflushed {
		c.apply(ch, luck)
	}
	return c
}

func (m move) apply(entries map[string]uint64) {
	for name, ino := range m {
		if ino == 0 {
			delete(entries, name)
		} else {
			entries[name] = ino
		}
	}
}

// Unflushed describes what a power cut could take away.
func (d *Disk) Unflushed() []string {
	d.lock.Lock()
	defer d.lock.Unlock()
	var found []string
	for _, n := range d.nodes {
		if len(n.unflushed) > 0 {
			found = append(found, fmt.Sprintf("%s: %d writes", n.path, len(n.unflushed)))
		}
		if len(n.moved) > 0 {
			found = append(found, fmt.Sprintf("%s/: %d changes of names", n.path, len(n.moved)))
		}
	}
	slices.Sort(found)
	return found
}

// Names returns the path of everything that processes see, and whether it is a
// directory.
func (d *Disk) Names() map[string]bool {
	d.lock.Lock()
	defer d.lock.Unlock()
	found := map[string]bool{}
	var visit func(n *node, at string)
	visit = func(n *node, at string) {
		for name, ino := range n.entries {
			child, where := d.nodes[ino], path.Join(at, name)
			found[where] = child.dir
			visit(child, where)
		}
	}
	visit(d.nodes[root], "")
	return found
}

package faultfs

import "syscall"

// What a process does to files at the root of a disk, without a mount.

func (d *Disk) at(name string) *node { return d.child(root, name) }

func (d *Disk) CreateFile(name string) syscall.Errno {
	_, err := d.create(Create, root, name, 0o600)
	return err
}

func (d *Disk) WriteAt(name, text string, off int64) (int, syscall.Errno) {
	return d.write(d.at(name), []byte(text), off)
}

func (d *Disk) Append(name, text string) (int, syscall.Errno) {
	return d.WriteAt(name, text, d.at(name).data.size)
}

func (d *Disk) Sync(name string) syscall.Errno { return d.flush(Flush, d.at(name)) }

func (d *Disk) SyncRoot() syscall.Errno { return d.flush(FlushDir, d.nodes[root]) }

func (d *Disk) RenameFile(from, to string) syscall.Errno { return d.rename(root, from, root, to) }

func (d *Disk) Remove(name string) syscall.Errno { return d.unlink(Unlink, root, name) }

// Files is what processes see at the root.
func (d *Disk) Files() map[string]string {
	found := map[string]string{}
	for name := range d.nodes[root].entries {
		b := make([]byte, d.at(name).data.size)
		found[name] = string(b[:d.at(name).data.readAt(b, 0)])
	}
	return found
}

// Content is the bytes of a file.
type Content struct{ content }

func (c Content) Copy() Content { return Content{c.clone()} }

func (c Content) Bytes() []byte {
	b := make([]byte, c.size+pageSize)
	return b[:c.readAt(b, 0)]
}

func (c *Content) WriteAt(p []byte, off int64) { c.writeAt(p, off) }

func (c *Content) Truncate(size int64) { c.truncate(size) }

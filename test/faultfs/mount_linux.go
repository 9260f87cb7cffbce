package faultfs

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// A Mount is a disk that processes can use.
type Mount struct {
	server *fuse.Server
	point  string
	closed bool
}

// forever is how long the kernel may believe what it was told: nobody but the
// kernel changes the disk.
const forever = 24 * time.Hour

// Mount serves the disk at a folder that exists. The kernel caches pages as it
// does for a disk: they are read once, written through, and go on being shown when
// a flush fails.
func (d *Disk) Mount(point string) (*Mount, error) {
	server, err := fuse.NewServer(&fileSystem{fuse.NewDefaultRawFileSystem(), d}, point, &fuse.MountOptions{
		FsName: "faultfs", Name: "faultfs",
		DirectMount:              true, // for root, without a process; others go through fusermount3
		ExplicitDataCacheControl: true,
		DisableXAttrs:            true,
		DisableReadDirPlus:       true,
		MaxWrite:                 1 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("mounting a file system through FUSE at %s: %w", point, err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return nil, fmt.Errorf("mounting a file system through FUSE at %s: %w", point, err)
	}
	return &Mount{server: server, point: point}, nil
}

// Close takes the disk away; once is enough. Processes that used it have to have
// ended; what the kernel still has to tidy up after them on a busy machine is
// waited for.
func (m *Mount) Close() error {
	if m.closed {
		return nil
	}
	const patience = 20 * time.Second
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := m.server.Unmount()
		if err == nil {
			m.closed = true
			return nil
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("unmounting %s: %w", m.point, err)
		}
	}
}

// fileSystem answers the kernel. Nodes keep their numbers for as long as the disk
// is there, so that nothing has to be forgotten.
type fileSystem struct {
	fuse.RawFileSystem
	disk *Disk
}

func (f *fileSystem) lock() func() {
	f.disk.lock.Lock()
	return f.disk.lock.Unlock
}

func (f *fileSystem) node(h *fuse.InHeader) *node { return f.disk.nodes[h.NodeId] }

func (n *node) attributes(out *fuse.Attr) {
	kind := uint32(syscall.S_IFREG)
	if n.dir {
		kind = syscall.S_IFDIR
	}
	size := uint64(max(0, n.data.size))
	out.Ino, out.Mode, out.Nlink, out.Size = n.ino, kind|n.mode, n.links, size
	out.Blocks, out.Blksize = uint64(len(n.data.pages))*pageSize/512, pageSize
	out.Owner = fuse.Owner{Uid: n.uid, Gid: n.gid}
	out.SetTimes(&n.modified, &n.modified, &n.modified)
}

func (n *node) entry(out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.ino, 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	n.attributes(&out.Attr)
}

func (f *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer f.lock()()
	n, err := f.disk.lookUp(h.NodeId, name)
	if err == 0 {
		n.entry(out)
	}
	return fuse.Status(err)
}

func (f *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer f.lock()()
	out.SetTimeout(forever)
	f.node(&in.InHeader).attributes(&out.Attr)
	return fuse.OK
}

func (f *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer f.lock()()
	n := f.node(&in.InHeader)
	mode, chmod := in.GetMode()
	uid, chown := in.GetUID()
	gid, chgrp := in.GetGID()
	if chmod || chown || chgrp {
		if v := f.disk.begin(Mode, n, n.path); v.err != 0 {
			return fuse.Status(v.err)
		}
	}
	if chmod {
		n.mode = mode & 0o777
	}
	if chown {
		n.uid = uid
	}
	if chgrp {
		n.gid = gid
	}
	if size, ok := in.GetSize(); ok {
		if err := f.disk.resize(n, int64(size)); err != 0 {
			return fuse.Status(err)
		}
	}
	if at, ok := in.GetMTime(); ok {
		n.modified = at
	}
	out.SetTimeout(forever)
	n.attributes(&out.Attr)
	return fuse.OK
}

func (f *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer f.lock()()
	n, err := f.disk.create(Mkdir, in.NodeId, name, in.Mode)
	if err == 0 {
		n.entry(out)
	}
	return fuse.Status(err)
}

func (f *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer f.lock()()
	n, err := f.disk.create(Create, in.NodeId, name, in.Mode)
	if err == 0 {
		n.entry(&out.EntryOut)
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	}
	return fuse.Status(err)
}

func (f *fileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer f.lock()()
	n := f.disk.nodes[in.Oldnodeid]
	err := f.disk.link(n, in.NodeId, name)
	if err == 0 {
		n.entry(out)
	}
	return fuse.Status(err)
}

func (f *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	defer f.lock()()
	if in.Flags != 0 {
		return fuse.EINVAL // exchange and no-replace: nothing that runs here asks for them
	}
	return fuse.Status(f.disk.rename(in.NodeId, oldName, in.Newdir, newName))
}

func (f *fileSystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer f.lock()()
	return fuse.Status(f.disk.unlink(Unlink, h.NodeId, name))
}

func (f *fileSystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	defer f.lock()()
	return fuse.Status(f.disk.unlink(Rmdir, h.NodeId, name))
}

func (f *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer f.lock()()
	n := f.node(&in.InHeader)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return fuse.Status(f.disk.begin(Open, n, n.path).err)
}

func (f *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	defer f.lock()()
	n := f.node(&in.InHeader)
	if v := f.disk.begin(Read, n, n.path); v.err != 0 {
		return nil, fuse.Status(v.err)
	}
	return fuse.ReadResultData(buf[:n.data.readAt(buf, int64(in.Offset))]), fuse.OK
}

func (f *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, p []byte) (uint32, fuse.Status) {
	defer f.lock()()
	n, err := f.disk.write(f.node(&in.InHeader), p, int64(in.Offset))
	return uint32(n), fuse.Status(err)
}

func (f *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	defer f.lock()()
	n := f.node(&in.InHeader)
	if in.Mode != 0 {
		return fuse.Status(syscall.EOPNOTSUPP) // holes and the like
	}
	if v := f.disk.begin(Allocate, n, n.path); v.err != 0 {
		return fuse.Status(v.err)
	}
	if end := int64(in.Offset + in.Length); end > n.data.size {
		n.change(change{off: end})
	}
	return fuse.OK
}

// Flush is a close, which flushes nothing, and so are the next three.
func (f *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (f *fileSystem) Release(<-chan struct{}, *fuse.ReleaseIn) {}

func (f *fileSystem) ReleaseDir(*fuse.ReleaseIn) {}

func (f *fileSystem) Forget(uint64, uint64) {}

func (f *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer f.lock()()
	return fuse.Status(f.disk.flush(Flush, f.node(&in.InHeader)))
}

func (f *fileSystem) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

func (f *fileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer f.lock()()
	return fuse.Status(f.disk.flush(FlushDir, f.node(&in.InHeader)))
}

func (f *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer f.lock()()
	n := f.node(&in.InHeader)
	if in.Offset == 0 {
		if v := f.disk.begin(Directory, n, n.path); v.err != 0 {
			return fuse.Status(v.err)
		}
	}
	names := slices.Sorted(maps.Keys(n.entries))
	for i := int(in.Offset); i < len(names); i++ {
		child := f.disk.child(n.ino, names[i])
		kind := uint32(syscall.S_IFREG)
		if child.dir {
			kind = syscall.S_IFDIR
		}
		if !out.AddDirEntry(fuse.DirEntry{Name: names[i], Mode: kind, Ino: child.ino, Off: uint64(i) + 1}) {
			break
		}
	}
	return fuse.OK
}

func (f *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks = 1 << 20
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree = blocks, blocks, blocks, blocks, blocks
	return fuse.OK
}

func (f *fileSystem) String() string { return path.Base(os.Args[0]) }

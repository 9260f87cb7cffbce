package faultfs

import "maps"

const pageSize = 4096

// content is the bytes of a file. Pages that were never written are zeros. Pages
// are not changed in place, so that copies share them.
type content struct {
	size  int64
	pages map[int64][]byte
}

func (c content) clone() content { return content{c.size, maps.Clone(c.pages)} }

func (c content) readAt(p []byte, off int64) int {
	n := int(min(int64(len(p)), max(0, c.size-off)))
	p = p[:n]
	clear(p)
	for len(p) > 0 {
		at := off % pageSize
		part := min(int64(len(p)), pageSize-at)
		if page := c.pages[off/pageSize]; page != nil {
			copy(p[:part], page[at:])
		}
		p, off = p[part:], off+part
	}
	return n
}

func (c *content) writeAt(p []byte, off int64) {
	if c.pages == nil {
		c.pages = map[int64][]byte{}
	}
	c.size = max(c.size, off+int64(len(p)))
	for len(p) > 0 {
		at := off % pageSize
		page := make([]byte, pageSize)
		copy(page, c.pages[off/pageSize])
		n := copy(page[at:], p)
		c.pages[off/pageSize] = page
		p, off = p[n:], off+int64(n)
	}
}

func (c *content) truncate(size int64) {
	for i := range c.pages {
		if i*pageSize >= size {
			delete(c.pages, i)
		}
	}
	if at := size % pageSize; size < c.size && c.pages[size/pageSize] != nil {
		page := make([]byte, pageSize)
		copy(page, c.pages[size/pageSize][:at])
		c.pages[size/pageSize] = page
	}
	c.size = size
}

// change is a write that was not flushed yet, or, without bytes, a change of size.
type change struct {
	off   int64
	bytes []byte
}

// apply makes a change as far as luck has it.
func (c *content) apply(ch change, luck Luck) {
	if ch.bytes == nil {
		if luck.keeps() {
			c.truncate(ch.off)
		}
		return
	}
	for rest, off := ch.bytes, ch.off; len(rest) > 0; {
		n := min(int64(len(rest)), luck.sector-off%luck.sector)
		if luck.keeps() {
			c.writeAt(rest[:n], off)
		}
		rest, off = rest[n:], off+n
	}
}

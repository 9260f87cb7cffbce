package auth

// lru is a map of at most limit entries. For a new one it forgets the entry that was
// not used for longest. It is not safe for concurrent use.
type lru[K comparable, V any] struct {
	limit   int
	inUse   func(V) bool // entries that may not be forgotten; nil: none
	entries map[K]*entry[K, V]
	ring    entry[K, V] // ring.older is the newest entry, ring.newer the oldest
}

type entry[K comparable, V any] struct {
	key          K
	value        V
	newer, older *entry[K, V]
}

func newLRU[K comparable, V any](limit int, inUse func(V) bool) *lru[K, V] {
	l := &lru[K, V]{limit: limit, inUse: inUse, entries: make(map[K]*entry[K, V])}
	l.ring.newer, l.ring.older = &l.ring, &l.ring
	return l
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.entries[key]
	if !ok {
		return value, false
	}
	e.unlink()
	l.linkNewest(e)
	return e.value, true
}

// put adds an entry or replaces it. While all others are in use there are more than
// limit.
func (l *lru[K, V]) put(key K, value V) {
	l.remove(key)
	for e := l.ring.newer; e != &l.ring && len(l.entries) >= l.limit; e = e.newer {
		if l.inUse == nil || !l.inUse(e.value) {
			l.remove(e.key)
		}
	}
	e := &entry[K, V]{key: key, value: value}
	l.entries[key] = e
	l.linkNewest(e)
}

func (l *lru[K, V]) remove(key K) {
	if e, ok := l.entries[key]; ok {
		e.unlink()
		delete(l.entries, key)
	}
}

func (l *lru[K, V]) linkNewest(e *entry[K, V]) {
	e.older, e.newer = l.ring.older, &l.ring
	e.older.newer, e.newer.older = e, e
}

// unlink keeps the entry's own links, so that a walk over the ring can go on from it.
func (e *entry[K, V]) unlink() { e.older.newer, e.newer.older = e.newer, e.older }

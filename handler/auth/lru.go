package auth

// lru is a map that holds at most max entries and forgets those first that were
// not used for longest. Not safe for concurrent use.
type lru[K comparable, V any] struct {
	max     int
	inUse   func(V) bool // entries that may not be forgotten
	entries map[K]*entry[K, V]
	ends    entry[K, V] // closes the ring: its older is the newest entry, its newer the oldest
}

type entry[K comparable, V any] struct {
	key          K
	value        V
	newer, older *entry[K, V]
}

func newLRU[K comparable, V any](limit int, inUse func(V) bool) *lru[K, V] {
	l := &lru[K, V]{max: limit, inUse: inUse, entries: make(map[K]*entry[K, V])}
	l.ends.newer, l.ends.older = &l.ends, &l.ends
	return l
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.entries[key]
	if !ok {
		return value, false
	}
	e.unlink()
	l.link(e)
	return e.value, true
}

// put adds an entry or replaces it. While all others are in use it makes the map
// grow over its bound.
func (l *lru[K, V]) put(key K, value V) {
	l.remove(key)
	for e := l.ends.newer; e != &l.ends && len(l.entries) >= l.max; e = e.newer {
		if !l.inUse(e.value) {
			l.remove(e.key)
		}
	}
	e := &entry[K, V]{key: key, value: value}
	l.entries[key] = e
	l.link(e)
}

func (l *lru[K, V]) remove(key K) {
	if e, ok := l.entries[key]; ok {
		e.unlink()
		delete(l.entries, key)
	}
}

// link makes an entry the newest.
func (l *lru[K, V]) link(e *entry[K, V]) {
	e.older, e.newer = l.ends.older, &l.ends
	e.older.newer, e.newer.older = e, e
}

// unlink takes an entry out of the ring; its own links stay, so that a walk over
// the ring can go on from it.
func (e *entry[K, V]) unlink() { e.older.newer, e.newer.older = e.newer, e.older }

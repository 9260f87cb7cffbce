package audit

// What the tests of this package see of it.

// WithStep makes every step of writing call fn, which may end the process or make
// the step fail. See chain.
func (o Options) WithStep(fn func(step string) error) Options {
	o.step = fn
	return o
}

// Steps are all steps that fn of WithStep may be called with.
func Steps() []string {
	return []string{stepWrite, stepWritten, stepFlushed, stepTrimmed, stepRotate, stepRemove, stepListed}
}

// Limits that tests reach.
const (
	MaxGroups = maxGroups
	MaxLine   = maxLine
)

// RewriteNote reads a note and writes it again.
func RewriteNote(b []byte) ([]byte, error) {
	e, err := decodeNote(b)
	if err != nil {
		return nil, err
	}
	if e.Kind == Administration {
		return e.Administration(e.Time)
	}
	return e.Note(e.Time)
}

// RewriteLine reads a line and writes it again as the one after prev.
func RewriteLine(m MAC, prev string, text []byte) (again []byte, mac string, err error) {
	l, _, err := decodeLine(text)
	if err != nil {
		return nil, "", err
	}
	return l.encode(m, prev)
}

// RewriteAnchor reads an anchor and writes it again.
func RewriteAnchor(m MAC, stream string, text []byte) ([]byte, error) {
	a, err := decodeAnchor(m, stream, text)
	if err != nil {
		return nil, err
	}
	return a.encode(m)
}

// ForgeAnchor changes the last sequence of an anchor as its owner could.
func ForgeAnchor(m MAC, stream string, text []byte, by int64) ([]byte, error) {
	a, err := decodeAnchor(m, stream, text)
	if err != nil {
		return nil, err
	}
	a.Last.Seq += uint64(by)
	return a.encode(m)
}

// Reader is a Log that only reads.
func Reader(dir string) *Log {
	return &Log{o: Options{Dir: dir}, readers: make(chan struct{}, maxReaders)}
}

package crash_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// filledStore is a data directory with some hundred records, and what is in it.
type filledStore struct {
	start.Options
	records map[keystore.Slot]keystore.Record
	keys    map[keystore.Slot]crypto.PublicKey
	newest  uint64 // revision
}

func fillStore(t *testing.T, requests, certificates int) *filledStore {
	t.Helper()
	w := &filledStore{
		Options: start.Options{Binary: start.Binary(t), Config: start.Config(t, "")},
		records: map[keystore.Slot]keystore.Record{}, keys: map[keystore.Slot]crypto.PublicKey{},
	}
	s := start.Serve(t, w.Options)
	for n := range requests {
		id := fmt.Sprintf("id-%d", n)
		s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", start.ECSpec(id))
		if n < certificates {
			s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=self_sign&days_valid=30", "")
		}
	}
	s.Kill() // without the list of free pages that a clean stop writes
	w.DataDir = s.DataDir
	copied := w.copyData(t)
	err := openData(copied, func(store *bolt.Store, custodian *sealed.Custodian) error {
		all, err := slots(t.Context(), store)
		for _, slot := range all {
			r, getErr := store.Get(t.Context(), slot)
			key, openErr := custodian.Open(t.Context(), keystore.Bind(slot, r.Payload), r.Ref)
			if err := errors.Join(getErr, openErr); err != nil {
				return err
			}
			w.records[slot], w.keys[slot] = r, key.Public()
			w.newest = max(w.newest, r.Revision)
		}
		return err
	})
	if err != nil || len(w.records) < requests {
		t.Fatalf("%d records, %v", len(w.records), err)
	}
	return w
}

func (w *filledStore) copyData(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	start.CopyData(t, w.DataDir, to)
	return to
}

// open opens a data directory as a start does, closes it again, and reports whether
// it opened.
func open(ctx context.Context, dir string, fn func(*bolt.Store, *sealed.Custodian)) bool {
	opened := false
	_ = openData(dir, func(store *bolt.Store, custodian *sealed.Custodian) error {
		mac, err := custodian.MAC("stored records 1")
		if err != nil {
			return err
		}
		_, err = keystore.Open(ctx, keystore.Options{Store: store, Custodian: custodian, MAC: mac})
		if opened = err == nil; opened {
			fn(store, custodian)
		}
		return err
	}) // a damaged store may refuse to open, and to close
	return opened
}

// checkRecord checks what a damaged store says that a slot holds.
func (w *filledStore) checkRecord(custodian *sealed.Custodian, r keystore.Record) error {
	want, known := w.records[r.Slot]
	if !known {
		return fmt.Errorf("%s: there is no such record, and it was found", r.Slot)
	}
	if !bytes.Equal(r.Payload, want.Payload) || !bytes.Equal(r.Ref, want.Ref) || r.Revision != want.Revision {
		return fmt.Errorf("%s: it holds what was never written", r.Slot)
	}
	key, err := custodian.Open(context.Background(), keystore.Bind(r.Slot, r.Payload), r.Ref)
	if err != nil {
		return nil //nolint:nilerr // a clear error is what damage may cause
	}
	if !kit.SameKey(key.Public(), w.keys[r.Slot]) {
		return fmt.Errorf("%s: another key", r.Slot)
	}
	return nil
}

// readAll reads everything in every way, and commits. It returns the first wrong answer,
// and how many reads and commits failed. stepBack: the newest commit may not show.
func (w *filledStore) readAll(ctx context.Context, store *bolt.Store, custodian *sealed.Custodian, stepBack bool) (failed int, err error) {
	for slot := range w.records {
		r, err := store.Get(ctx, slot)
		switch {
		case errors.Is(err, keystore.ErrNotFound) && !(stepBack && w.records[slot].Revision == w.newest):
			return failed, fmt.Errorf("taken for one that was never there: %w", err)
		case err != nil:
			failed++
		default:
			if err := w.checkRecord(custodian, r); err != nil {
				return failed, err
			}
		}
	}
	for _, index := range []string{"", "display_name", "created"} {
		for _, collection := range []string{"nsx/csrs", "nsx/certificates"} {
			items, err := store.List(ctx, keystore.Query{Collection: collection, Index: index, Limit: 500})
			if err != nil {
				failed++
			}
			for _, item := range items {
				if err := w.checkRecord(custodian, item.Record); err != nil {
					return failed, fmt.Errorf("listed by %q: %w", index, err)
				}
			}
		}
	}
	_, err = store.Commit(ctx, nil, keystore.Op{Slot: keystore.Slot{Collection: "nsx/csrs", ID: "new"}, Payload: []byte("{}")})
	if err == nil {
		_, err = store.Commit(ctx, nil, keystore.Op{Slot: keystore.Slot{Collection: "nsx/csrs", ID: "new"}, Delete: true})
	}
	if err != nil {
		failed++
	}
	return failed, nil
}

// damage changes some bytes of a page of a file and says which and what it did. Most
// of it goes to where something is.
func damage(random *rand.Rand, content []byte) (at int, what string) {
	const page = 4096
	pages := len(content) / page
	at = random.IntN(pages)
	b := content[at*page : (at+1)*page]
	switch random.IntN(7) {
	case 0:
		clear(b)
		return at, fmt.Sprintf("page %d zeroed", at)
	case 1:
		other := random.IntN(pages)
		copy(b, content[other*page:(other+1)*page])
		return at, fmt.Sprintf("page %d over page %d", other, at)
	case 2:
		n := 512 * random.IntN(8)
		clear(b[n : n+512])
		return at, fmt.Sprintf("sector at %d of page %d zeroed", n, at)
	case 3:
		n := random.IntN(16 + 16*20) // the header and the table of elements
		b[n] ^= 1 << random.IntN(8)
		return at, fmt.Sprintf("bit of byte %d of page %d", n, at)
	case 4:
		for i := range b[:64] {
			b[i] = byte(random.IntN(256))
		}
		return at, fmt.Sprintf("start of page %d", at)
	}
	n := random.IntN(page)
	b[n] ^= 1 << random.IntN(8)
	return at, fmt.Sprintf("bit of byte %d of page %d", n, at)
}

// TestDamagedStore damages the store file all over: whatever opens gives right
// answers and errors, and nothing else.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	w := fillStore(t, 200, 60)
	clean := w.copyData(t)
	if !open(t.Context(), clean, func(*bolt.Store, *sealed.Custodian) {}) {
		t.Fatal("the undamaged store does not open")
	}
	tried := kit.Effort(200, 5000)
	var refused, failed, unnoticed int
	for _, from := range []string{w.DataDir, clean} { // as a kill left it, as a clean stop did
		all := bytes.TrimRight(kit.Read(t, from, server.StoreFile), "\x00")
		all = append(all, make([]byte, 4096*2-len(all)%4096)...)
		dir := w.copyData(t)
		for n := range tried / 2 {
			content := bytes.Clone(all)
			at, what := damage(rand.New(rand.NewPCG(uint64(n), 1)), content)
			kit.Overwrite(t, dir, server.StoreFile, string(content))
			opened := open(t.Context(), dir, func(store *bolt.Store, custodian *sealed.Custodian) {
				errs, err := w.readAll(t.Context(), store, custodian, at < 2) // of two meta pages the older one shows
				if err != nil {
					t.Errorf("clean stop %t, input %d, %s: %v", from == clean, n, what, err)
				}
				if errs > 0 {
					failed++
				} else {
					unnoticed++
				}
			})
			if !opened {
				refused++
			}
		}
	}
	t.Logf("%d were refused, %d failed in parts, %d changed nothing that is used", refused, failed, unnoticed)
	if refused == 0 {
		t.Error("the damage damages nothing")
	}
	kit.Count(t, "damaged stores tried", tried)
}

// TestDamagedKeyset damages every byte of the keyset: it does not open, or opens no
// key, or is the same as before.
func TestDamagedKeyset(t *testing.T) {
	t.Parallel()
	w := fillStore(t, 1, 0)
	file := filepath.Join(w.DataDir, server.KeysetFile)
	content := kit.Read(t, w.DataDir, server.KeysetFile)
	slot := keystore.Slot{Collection: "nsx/csrs", ID: "id-0"}
	r := w.records[slot]
	tried, refused, useless := 0, 0, 0
	try := func(b []byte, what string) {
		tried++
		kit.Overwrite(t, w.DataDir, server.KeysetFile, string(b))
		custodian, err := sealed.Open(sealed.Options{KeysetFile: file})
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), file) {
				t.Errorf("%s: the error does not name the file: %v", what, err)
			}
			return
		}
		key, err := custodian.Open(t.Context(), keystore.Bind(slot, r.Payload), r.Ref)
		if err != nil {
			useless++
			return
		}
		if !kit.SameKey(key.Public(), w.keys[slot]) {
			t.Errorf("%s: another key", what)
		}
	}
	random := rand.New(rand.NewPCG(2, 3))
	for at := range content {
		for range kit.Effort(3, 32) {
			b := bytes.Clone(content)
			b[at] ^= byte(1 + random.IntN(255))
			try(b, fmt.Sprintf("byte %d is %q instead of %q", at, b[at], content[at]))
		}
		try(content[:at], fmt.Sprintf("cut to %d bytes", at))
	}
	if refused == 0 || useless == 0 {
		t.Errorf("%d of %d were refused, %d opened no key: the damage damages nothing", refused, tried, useless)
	}
	kit.Count(t, "damaged keysets tried", tried)
}

// TestDamageUnderService damages one record of the store file while the service runs.
// The service stays, is not ready any more, refuses changes, and says what to do. What
// is whole can still be read. The next start refuses the file.
func TestDamageUnderService(t *testing.T) {
	t.Parallel()
	const damaged, intact = "id-100", "id-199"
	w := fillStore(t, 200, 0)
	payload := w.records[keystore.Slot{Collection: "nsx/csrs", ID: damaged}].Payload
	s := start.Serve(t, w.Options)
	file, err := os.OpenFile(filepath.Join(w.DataDir, server.StoreFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	content := kit.Read(t, w.DataDir, server.StoreFile)
	for at := range content {
		if bytes.HasPrefix(content[at:], payload) {
			_, writeErr := file.WriteAt(bytes.ToUpper(payload), int64(at))
			err = errors.Join(err, writeErr)
		}
	}
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	s.Must(500, "GET", start.NSXCSRs+"/"+damaged, "")
	// 500 where the check of the quota meets the damage, before the commit.
	a, err := s.Do("POST", start.NSXCSRs+"/new?action=create", start.ECSpec("new"))
	if err != nil || a.Status != 500 && a.Status != 503 {
		t.Errorf("create: %d %s %v", a.Status, a.Body, err)
	}
	s.Must(503, "GET", "/readyz", "")
	s.Must(200, "GET", start.NSXCSRs+"/"+intact, "")
	s.WantLog("the key store is damaged and takes no more changes: restart the service")
	_ = s.Stop() // the audit trail may not be able to read its notes
	quiet(t, "damaged", s)
	if text := start.Refused(t, w.Options); !strings.Contains(text, "restore a backup") {
		t.Errorf("the next start: %s", text)
	}
	kit.Count(t, "damages under a running service", 1)
}

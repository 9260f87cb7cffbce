package crash_test

import (
	"attestcsr/test/kit"

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
	"attestcsr/test/start"
)

// filledStore is a data directory with some hundred records, and what is in it.
type filledStore struct {
	binary  string
	args    []string
	dir     string
	records map[keystore.Slot]keystore.Record
	keys    map[keystore.Slot]crypto.PublicKey
	newest  uint64 // revision
}

const (
	filledRequests     = 200
	filledCertificates = 60
)

func fillStore(t *testing.T) *filledStore {
	t.Helper()
	binary := start.Binary(t)
	dir := t.TempDir()
	w := &filledStore{binary: binary, args: settings(t, dir), records: map[keystore.Slot]keystore.Record{}, keys: map[keystore.Slot]crypto.PublicKey{}}
	w.dir = prepare(t, binary, dir, w.args)
	s := start.LaunchBinary(t, binary, w.dir, w.args...)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s.Password = testPassword
	for n := range filledRequests {
		id := fmt.Sprintf("id-%d", n)
		s.Must(201, "POST", requestsPath+"/"+id+"?action=create", requestBody(id))
		if n < filledCertificates {
			s.Must(201, "POST", requestsPath+"/"+id+"?action=self_sign&days_valid=30", "")
		}
	}
	s.Kill() // without the list of free pages that a clean stop writes
	copied := filepath.Join(dir, "copy")
	if err := copyData(w.dir, copied); err != nil {
		t.Fatal(err)
	}
	err := w.open(t.Context(), copied, func(store *bolt.Store, custodian *sealed.Custodian) error {
		var slots []keystore.Slot
		err := store.Refs(t.Context(), func(slot keystore.Slot, _ keystore.Ref) error {
			slots = append(slots, slot)
			return nil
		})
		for _, slot := range slots {
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
	if err != nil || len(w.records) < filledRequests {
		t.Fatalf("%d records, %v", len(w.records), err)
	}
	return w
}

// open opens store and keyset of a data directory, as a start does.
func (w *filledStore) open(ctx context.Context, dir string, fn func(*bolt.Store, *sealed.Custodian) error) error {
	store, err := bolt.Open(filepath.Join(dir, server.StoreFile), bolt.Options{})
	if err != nil {
		return err
	}
	defer store.Close() // may fail on damage, must return
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, server.KeysetFile)})
	if err != nil {
		return err
	}
	if _, err := keystore.Open(ctx, keystore.Options{Store: store, Custodian: custodian}); err != nil {
		return err
	}
	return fn(store, custodian)
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
	if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(w.keys[r.Slot]) {
		return fmt.Errorf("%s: another key", r.Slot)
	}
	return nil
}

// readAll reads everything there is, and commits,, in every way, and returns the first wrong answer.
// stepBack: the newest commit may not show.
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
	w := fillStore(t)
	clean := filepath.Join(t.TempDir(), "clean")
	if err := copyData(w.dir, clean); err != nil {
		t.Fatal(err)
	}
	if err := w.open(t.Context(), clean, func(*bolt.Store, *sealed.Custodian) error { return nil }); err != nil {
		t.Fatal(err)
	}
	tried := kit.Effort(200, 5000)
	var refused, failed, unnoticed int
	for _, from := range []string{w.dir, clean} { // as a kill left it, as a clean stop did
		all, err := os.ReadFile(filepath.Join(from, server.StoreFile))
		if err != nil {
			t.Fatal(err)
		}
		all = bytes.TrimRight(all, "\x00")
		all = append(all, make([]byte, 4096*2-len(all)%4096)...)
		dir := filepath.Join(t.TempDir(), "data")
		if err := copyData(from, dir); err != nil {
			t.Fatal(err)
		}
		for n := range tried / 2 {
			content := bytes.Clone(all)
			at, what := damage(rand.New(rand.NewPCG(uint64(n), 1)), content)
			if err := os.WriteFile(filepath.Join(dir, server.StoreFile), content, 0o600); err != nil {
				t.Fatal(err)
			}
			opened := false
			err := w.open(t.Context(), dir, func(store *bolt.Store, custodian *sealed.Custodian) error {
				opened = true
				errs, err := w.readAll(t.Context(), store, custodian, at < 2) // of two meta pages the older one shows
				if errs > 0 {
					failed++
				} else {
					unnoticed++
				}
				return err
			})
			switch {
			case opened && err != nil:
				t.Errorf("%s, input %d, %s: %v", filepath.Base(from), n, what, err)
			case err != nil:
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
	w := fillStore(t)
	file := filepath.Join(w.dir, server.KeysetFile)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	slot := keystore.Slot{Collection: "nsx/csrs", ID: fmt.Sprintf("id-%d", filledCertificates)}
	r := w.records[slot]
	tried, refused, useless := 0, 0, 0
	try := func(b []byte, what string) {
		tried++
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
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
		if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(w.keys[slot]) {
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

// TestDamageUnderService damages the store file while the service runs. The service
// stays, is not ready any more, refuses changes, and says what to do. The next start
// refuses the file.
func TestDamageUnderService(t *testing.T) {
	t.Parallel()
	w := fillStore(t)
	for _, test := range []struct {
		name   string
		damage func(content []byte) []byte
	}{
		{"one record", func(content []byte) []byte {
			payload := w.records[keystore.Slot{Collection: "nsx/csrs", ID: damagedID}].Payload
			return bytes.ReplaceAll(content, payload, bytes.ToUpper(payload))
		}},
		{"all but the meta pages", func(content []byte) []byte {
			copy(content[2*4096:], bytes.Repeat([]byte{0xA5}, len(content)))
			return content
		}},
		{"cut short", func([]byte) []byte { return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w.damageInUse(t, test.damage, test.name == "one record")
			kit.Count(t, "damages under a running service", 1)
		})
	}
}

// Of the records of filledStore, the first is damaged where only one is.
const damagedID, intactID = "id-100", "id-199"

func (w *filledStore) damageInUse(t *testing.T, damage func([]byte) []byte, one bool) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := copyData(w.dir, dir); err != nil {
		t.Fatal(err)
	}
	s := start.LaunchBinary(t, w.binary, dir, w.args...)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s.Password = testPassword
	changeInPlace(t, filepath.Join(dir, server.StoreFile), damage)
	s.Must(500, "GET", requestsPath+"/"+damagedID, "")
	// 500 where the check of the quota meets the damage, before the commit.
	if status, body, err := s.Do("POST", requestsPath+"/new?action=create", requestBody("new"), ""); err != nil || status != 500 && status != 503 {
		t.Errorf("create: %d %s %v", status, body, err)
	}
	s.Must(503, "GET", "/readyz", "")
	if one {
		s.Must(200, "GET", requestsPath+"/"+intactID, "")
	}
	if log := s.Stdout.String(); !strings.Contains(log, "the key store is damaged and takes no more changes: restart the service") {
		t.Errorf("the log does not say what to do:\n%s", log)
	}
	_ = s.Stop() // the audit trail may not be able to read its notes

	again := start.LaunchBinary(t, w.binary, dir, w.args...)
	if err := again.WaitReady(); err == nil || !strings.HasPrefix(again.Stderr.String(), "attestcsr: ") ||
		!strings.Contains(again.Stderr.String(), "restore a backup") {
		t.Errorf("the next start: %v\n%s", err, again.Stderr)
	}
	for _, s := range []*start.Instance{s, again} {
		if strings.Contains(s.Stderr.String(), "goroutine ") {
			t.Errorf("the process ended with a panic:\n%s", s.Stderr)
		}
	}
}

// changeInPlace changes a file that is open elsewhere. It writes only the pages that
// differ: the service may write others meanwhile.
func changeInPlace(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	const page = 4096
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	after := change(bytes.Clone(before))
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(after); at += page {
		if !bytes.Equal(before[at:at+page], after[at:at+page]) {
			_, writeErr := f.WriteAt(after[at:at+page], int64(at))
			err = errors.Join(err, writeErr)
		}
	}
	if err := errors.Join(err, f.Truncate(int64(len(after))), f.Close()); err != nil {
		t.Fatal(err)
	}
}

package keystore_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
	"attestcsr/test/kit"
)

var quiet = slog.New(slog.DiscardHandler)

// resealed is a Keystore on a real store and a real keyset.
type resealed struct {
	*keystore.Keystore
	store     *bolt.Store
	custodian *sealed.Custodian
	mac       *sealed.MAC
	keyset    string
}

func openResealed(t *testing.T, dir string) *resealed {
	t.Helper()
	r := &resealed{keyset: filepath.Join(dir, "keyset.json")}
	var err error
	if r.store, err = bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{}); err != nil {
		t.Fatal(err)
	}
	if r.custodian, err = sealed.Open(sealed.Options{KeysetFile: r.keyset, Create: true}); err != nil {
		t.Fatal(err)
	}
	if r.mac, err = r.custodian.MAC("stored records 1"); err != nil {
		t.Fatal(err)
	}
	if r.Keystore, err = keystore.Open(t.Context(), keystore.Options{Store: r.store, Custodian: r.custodian, MAC: r.mac}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *resealed) rotate(t *testing.T) {
	t.Helper()
	err := sealed.Rotate(r.keyset, r.keyset, quiet)
	if err == nil {
		_, err = r.custodian.Reload(func() error { return errors.New("a rotation retires nothing") })
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *resealed) retire(t *testing.T) {
	t.Helper()
	err := sealed.Retire(r.keyset, r.keyset, r.mac.Primary(), quiet)
	if err == nil {
		_, err = r.custodian.Reload(func() error { return r.Renewed(t.Context()) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *resealed) older(t *testing.T) int {
	t.Helper()
	slots, _, err := r.Older(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(slots)
}

func (r *resealed) replace(t *testing.T, slot keystore.Slot, note []byte) keystore.Record {
	t.Helper()
	record, err := r.Replace(t.Context(), keystore.Target{Slot: slot}, spec, func(signer crypto.Signer) (keystore.Change, error) {
		change, err := publicKey(signer)
		change.Note, change.Index = note, []keystore.IndexEntry{{Name: "z", Value: []byte("1")}, {Name: "a", Value: []byte(slot.ID)}}
		return change, err
	})
	if err != nil {
		t.Errorf("%s: %v", slot, err)
	}
	return record
}

// wantKey wants the slot's payload to be the public key of its key.
func (r *resealed) wantKey(t *testing.T, slot keystore.Slot) keystore.Record {
	t.Helper()
	var found keystore.Record
	err := r.Use(t.Context(), slot, func(signer crypto.Signer, record keystore.Record) ([]byte, error) {
		found = record
		change, err := publicKey(signer)
		if err == nil && !bytes.Equal(change.Payload, record.Payload) {
			err = errors.New("another key")
		}
		return nil, err
	})
	if err != nil {
		t.Errorf("%s: %v", slot, err)
	}
	return found
}

// keyless stores a record without a key, as a later version may.
func (r *resealed) keyless(t *testing.T, slot keystore.Slot) {
	t.Helper()
	var message []byte
	for _, part := range []string{"attestcsr record", slot.Collection, slot.ID, "", "payload"} {
		message = append(binary.BigEndian.AppendUint32(message, uint32(len(part))), part...)
	}
	code, err := hex.DecodeString(r.mac.Primary())
	sum, _ := r.mac.Sum(r.mac.Primary(), message)
	if err == nil {
		_, err = r.store.Commit(t.Context(), nil, keystore.Op{Slot: slot, Payload: []byte("payload"), Code: append(code, sum[:]...)})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// After Reseal nothing needs the key before, and records are what they were. A Reseal
// that ends early goes on.
func TestReseal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openResealed(t, dir)
	before := map[keystore.Slot]keystore.Record{}
	for i := range 20 {
		slot := keystore.Slot{Collection: "c", ID: fmt.Sprint(i)}
		before[slot] = r.replace(t, slot, nil)
	}
	bare := keystore.Slot{Collection: "c", ID: "keyless"}
	r.keyless(t, bare)
	if n := r.older(t); n != 0 {
		t.Fatalf("%d records are under older keys", n)
	}
	r.rotate(t)
	const all = 22 // with the canary
	if n := r.older(t); n != all {
		t.Fatalf("%d records are under older keys", n)
	}
	if err := r.Renewed(t.Context()); err == nil || !strings.Contains(err.Error(), "by 22 records and 0 notes") {
		t.Errorf("Renewed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := r.Reseal(ctx, func(done, total int) {
		if done == 5 {
			cancel()
		}
		if total != all {
			t.Errorf("%d of %d", done, total)
		}
	})
	left := r.older(t)
	if !errors.Is(err, context.Canceled) || left == 0 || left > all-5 {
		t.Fatalf("%d are left, %v", left, err)
	}
	steps := 0
	if err := r.Reseal(t.Context(), func(done, total int) {
		if steps++; done != steps || total != left {
			t.Errorf("%d of %d after %d steps", done, total, steps)
		}
	}); err != nil || steps != left {
		t.Fatalf("%d steps, %v", steps, err)
	}
	r.retire(t)
	again := openResealedAfter(t, r, dir)
	for slot, old := range before {
		now := again.wantKey(t, slot)
		if now.Revision != old.Revision || !bytes.Equal(now.Payload, old.Payload) || len(now.Index) != 2 {
			t.Errorf("%s: %+v, was %+v", slot, now, old)
		}
	}
	if record, err := again.Get(t.Context(), bare); err != nil || string(record.Payload) != "payload" {
		t.Errorf("%+v, %v", record, err)
	}
	if err := again.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// openResealedAfter is a restart.
func openResealedAfter(t *testing.T, r *resealed, dir string) *resealed {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return openResealed(t, dir)
}

// A record that no holder of the keyset wrote is not sealed again, and keeps no key.
func TestResealLeavesForgeries(t *testing.T) {
	t.Parallel()
	r := openResealed(t, t.TempDir())
	r.replace(t, a, nil)
	r.replace(t, b, nil)
	forged, err := r.store.Get(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	r.rotate(t)
	// What was authentic in one slot is not in another.
	r.store.Protect(nil)
	other := keystore.Slot{Collection: "c", ID: "forged"}
	if _, err := r.store.Commit(t.Context(), nil, keystore.Op{Slot: other, Ref: forged.Ref, Payload: forged.Payload, Code: forged.Code}); err != nil {
		t.Fatal(err)
	}
	if err := r.Reseal(t.Context(), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	if err := r.Renewed(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Get(t.Context(), other); !errors.Is(err, keystore.ErrUnauthentic) {
		t.Errorf("a forged record: %v", err)
	}
	r.wantKey(t, a)
}

// blockedMove moves a key whose record it has read, and goes on when release is closed.
func (r *resealed) blockedMove(t *testing.T, from keystore.Slot, release chan struct{}) (moved chan error) {
	entered, moved := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := r.Move(t.Context(), keystore.Target{Slot: from}, keystore.Target{Slot: keystore.Slot{Collection: "moved", ID: from.ID}},
			func(_ crypto.Signer, old keystore.Record) (keystore.Change, error) {
				close(entered)
				<-release
				return keystore.Change{Payload: old.Payload}, nil
			})
		moved <- err
	}()
	<-entered
	return moved
}

// wantWait wants a step to wait for a change, also after it was given up once.
func wantWait(t *testing.T, what string, step func(ctx context.Context) error) {
	t.Helper()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := step(ctx)
		if cancel(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s while a change is under way: %v", what, err)
		}
	}
}

// A change that read its record before the record was sealed again succeeds: the old key
// goes after it, while others begin and end.
func TestRetirementWaits(t *testing.T) {
	t.Parallel()
	r := openResealed(t, t.TempDir())
	for i := range 50 {
		r.replace(t, keystore.Slot{Collection: "c", ID: fmt.Sprint(100 + i)}, nil)
	}
	r.replace(t, a, nil)
	last := keystore.Slot{Collection: "c", ID: "149"}
	before, during := make(chan struct{}), make(chan struct{})
	first := r.blockedMove(t, keystore.Slot{Collection: "c", ID: "100"}, before)
	r.rotate(t)
	wantWait(t, "Reseal", func(ctx context.Context) error { return r.Reseal(ctx, func(int, int) {}) })
	close(before)
	if err := <-first; err != nil {
		t.Errorf("Move: %v", err)
	}
	var second chan error
	if err := r.Reseal(t.Context(), func(done, _ int) {
		if done == 1 {
			second = r.blockedMove(t, last, during)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := sealed.Retire(r.keyset, r.keyset, r.mac.Primary(), quiet); err != nil {
		t.Fatal(err)
	}
	reload := func(ctx context.Context) error {
		_, err := r.custodian.Reload(func() error { return r.Renewed(ctx) })
		return err
	}
	wantWait(t, "Reload", reload)
	r.wantKey(t, a)
	close(during)
	if err := <-second; err != nil {
		t.Errorf("Move: %v", err)
	}
	if err := reload(t.Context()); err != nil {
		t.Error(err)
	}
	r.wantKey(t, keystore.Slot{Collection: "moved", ID: last.ID})
}

// drain takes notes out as the trail does, and wants each to be authentic and to follow
// the one before.
type drain struct {
	t     *testing.T
	r     *resealed
	mu    sync.Mutex
	after uint64
	last  []byte
	notes int
}

func (d *drain) run() {
	d.mu.Lock()
	defer d.mu.Unlock()
	newest := d.after
	err := d.r.store.Outbox(d.t.Context(), d.after, 1000, func(revision uint64, previous, code, note []byte) error {
		if err := d.r.CheckNote(keystore.Note{Revision: revision, Previous: previous, Code: code, Text: note}); err != nil {
			d.t.Error(err)
		}
		if !bytes.Equal(previous, d.last) {
			d.t.Errorf("revision %d does not follow the note before", revision)
		}
		d.last, newest = code, revision
		d.notes++
		return nil
	})
	if err == nil && newest > d.after {
		err = d.r.store.Trim(d.t.Context(), newest, map[string][]byte{"a": []byte("anchor")})
		d.after = newest
	}
	if err != nil {
		d.t.Error(err)
	}
}

func (d *drain) until(end chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(5 * time.Millisecond):
			d.run()
		}
	}
}

// write changes its own slots and one that all share, until stop is closed, and wants
// every answer to be the right one. It returns the number of notes.
func (r *resealed) write(t *testing.T, n int, stop chan struct{}) (notes int) {
	from, to := keystore.Slot{Collection: "from", ID: fmt.Sprint(n)}, keystore.Slot{Collection: "to", ID: fmt.Sprint(n)}
	note := []byte("note")
	check := func(what string, err error) {
		if err != nil {
			t.Errorf("writer %d: %s: %v", n, what, err)
		}
		notes++
	}
	for {
		select {
		case <-stop:
			return notes
		default:
		}
		made := r.replace(t, from, note)
		if held := r.wantKey(t, from); held.Revision != made.Revision {
			t.Errorf("%s: revision %d, want %d", from, held.Revision, made.Revision)
		}
		r.replace(t, a, note)
		r.wantKey(t, a)
		_, err := r.Update(t.Context(), keystore.Target{Slot: from}, keystore.Change{Payload: made.Payload, Note: note})
		check("Update", err)
		_, err = r.Move(t.Context(), keystore.Target{Slot: from}, keystore.Target{Slot: to},
			func(_ crypto.Signer, old keystore.Record) (keystore.Change, error) {
				return keystore.Change{Payload: old.Payload, Note: note}, nil
			})
		check("Move", err)
		r.wantKey(t, to)
		check("Delete", r.Delete(t.Context(), keystore.Target{Slot: to}, note))
		notes += 2
	}
}

// 32 writers lose nothing, and see no error, while keys are rotated and retired.
func TestWritersWhileKeysChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := openResealed(t, dir)
	for i := range 50 {
		r.replace(t, keystore.Slot{Collection: "still", ID: fmt.Sprint(i)}, nil)
	}
	d := &drain{t: t, r: r}
	stop := make(chan struct{})
	var writers, drainer sync.WaitGroup
	var written [32]int
	for n := range written {
		writers.Go(func() { written[n] = r.write(t, n, stop) })
	}
	drained := make(chan struct{})
	drainer.Go(func() { d.until(drained) })
	rounds := 0
	for ; rounds < 6 && !t.Failed(); rounds++ {
		r.rotate(t)
		if err := r.Reseal(t.Context(), func(int, int) {}); err != nil {
			t.Error(err)
		}
		d.run()
		r.retire(t)
	}
	close(stop)
	writers.Wait()
	close(drained)
	drainer.Wait()
	d.run()
	total := 0
	for _, n := range written {
		total += n
	}
	if d.notes != total || total == 0 {
		t.Errorf("%d notes of %d changes", d.notes, total)
	}
	kit.Count(t, "changes while keys were rotated and retired", total)
	again := openResealedAfter(t, r, dir)
	records := 0
	_, err := again.Inspect(t.Context(), func(slot keystore.Slot, _ uint64, _ [sha256.Size]byte, err error) error {
		again.wantKey(t, slot)
		records++
		return err
	})
	if err != nil || records < 51 || again.older(t) != 0 {
		t.Errorf("%d records, %v", records, err)
	}
	if keys := again.custodian.Keys(); len(keys) != rounds+1 {
		t.Errorf("%+v", keys)
	}
}

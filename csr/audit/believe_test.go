package audit_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/test/forge"
	"attestcsr/test/kit"
)

// checkpoint makes one, by way of its text.
func (tr *trail) checkpoint(key *ecdsa.PrivateKey) audit.Checkpoint {
	tr.t.Helper()
	made, err := tr.log.Checkpoint(tr.t.Context(), func(digest []byte) ([]byte, error) { return ecdsa.SignASN1(rand.Reader, key, digest) })
	if err != nil {
		tr.t.Fatal(err)
	}
	read, err := audit.ParseCheckpoint([]byte(made.String()))
	if err != nil || read.String() != made.String() {
		tr.t.Fatalf("%v, %v", read, err)
	}
	return read
}

// A checkpoint finds that store and trail of an earlier moment were put back together,
// which nothing in them can show. It needs no key of the service.
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrail(t, smallFiles)
	tr.changes(8)
	tr.close()
	store, files := kit.Read(t, "", tr.storePath()), map[string][]byte{}
	for _, name := range tr.files(audit.Changes) {
		files[name] = kit.Read(t, "", name)
	}
	tr.open()
	tr.changes(8)
	c := tr.checkpoint(key)
	if c.Seq != 17 {
		t.Errorf("checkpoint at line %d", c.Seq)
	}
	tr.changes(8)
	tr.close()
	want := func(what string, c audit.Checkpoint, key *ecdsa.PrivateKey, dirs ...string) {
		t.Helper()
		err := audit.VerifyCheckpoint(dirs, c, key.Public())
		if what == "" && err != nil || what != "" && (err == nil || !strings.Contains(err.Error(), what)) {
			t.Errorf("%v, want %q", err, what)
		}
	}
	want("", c, key, tr.o.Dir)
	want("was not signed with this key", c, other, tr.o.Dir)
	later := c
	later.Seq++
	want("was not signed with this key", later, key, tr.o.Dir)

	archive := t.TempDir()
	first := tr.files(audit.Changes)[0]
	kit.Rename(t, first, filepath.Join(archive, filepath.Base(first)))
	want("give the directory of the archive", c, key, tr.o.Dir)
	want("", c, key, tr.o.Dir, archive)
	second := tr.files(audit.Changes)[0]
	text := kit.Read(t, "", second)
	write(t, second, []byte(strings.Replace(string(text), `"admin"`, `"alice"`, 1)))
	want("are as they were, and those up to", c, key, tr.o.Dir, archive)

	for _, name := range tr.files(audit.Changes) {
		kit.Remove(t, "", name)
	}
	for name, text := range files {
		write(t, name, text)
	}
	write(t, tr.storePath(), store)
	tr.wantWhole()
	want("line 17 is not in the files as it was", c, key, tr.o.Dir)
}

// Logins and logouts are folded, and share the session with its changes.
func TestLogins(t *testing.T) {
	t.Parallel()
	c := kit.NewClock()
	tr := newTrail(t, func(o *audit.Options) { o.Now = c.Now })
	login := func(user, session string, kind audit.Kind) {
		tr.log.Login(audit.Event{Kind: kind, Request: audit.Request{User: user, Method: "basic", Address: "192.0.2.1", RequestID: "r" + session, Session: session, Route: "POST /session"}})
	}
	for n := range 50 {
		login("nora", fmt.Sprint(n), audit.Login)
	}
	login("nora", "0", audit.Logout)
	login("alice", "a", audit.Login)
	kit.Eventually(t, "the first of each", func() bool { return len(tr.refusals()) == 3 })
	c.Advance(time.Minute)
	kit.Eventually(t, "the count", func() bool { return len(tr.refusals()) == 4 })
	tr.close()
	lines := tr.refusals()
	for _, l := range lines[:3] {
		if want := map[string]string{"loginnora": "0", "logoutnora": "0", "loginalice": "a"}[l.Event+l.User]; l.Session != want || l.Count != 0 {
			t.Errorf("%+v", l)
		}
	}
	if l := lines[3]; l.Event != "login" || l.User != "nora" || l.Count != 49 || l.Session != "49" || l.RequestID != "r49" {
		t.Errorf("%+v", l)
	}
	tr.wantWhole()
}

// The longest event has a note and a line, and verifies. Of many names the first are
// there, their number and their digest.
func TestLongestEvent(t *testing.T) {
	t.Parallel()
	tr := newTrail(t)
	long := strings.Repeat(`"\`, 40_000)
	var names []string
	for n := range 8000 {
		names = append(names, fmt.Sprint(n%10))
	}
	settings := append([]string{long}, names...)
	warnings := []string{long[:2000], "two", long}
	slot := slotOf(strings.Repeat(`"`, keystore.MaxIDLen))
	e := audit.Event{
		Request:   audit.Request{User: long, Method: long, Address: long, RequestID: long, Session: long},
		Operation: long, Slot: slot.String(), From: "c/" + long, Replaced: long, Payload: digestOf([]byte("x")), CSR: strings.Repeat("ab", 32), Certificate: strings.Repeat("ab", 32),
		Subject: long, Names: names, KeyAlgorithm: long, KeySize: 16384, Issuer: long, Serial: long, Settings: settings, Warnings: warnings, Reason: long, FromKey: long, ToKey: long, Account: long,
	}
	note, err := tr.log.Note(e)
	if err != nil || len(note) > keystore.MaxNoteLen {
		t.Fatalf("%d bytes, %v", len(note), err)
	}
	tr.store.put(note, slot.ID, []byte("x"))
	tr.close()
	tr.wantWhole()
	l := tr.lines(audit.Changes)[1]
	if l.NamesCount != 8000 || l.NamesSHA256 != digestOf([]byte(strings.Join(names, "\n"))) || len(l.Names) != 1024 || len(l.Settings) != 0 || len(l.Warnings) != 2 || l.Slot != slot.String() {
		t.Errorf("%d names of %d, %d settings, %d warnings, slot %.9s", len(l.Names), l.NamesCount, len(l.Settings), len(l.Warnings), l.Slot)
	}
}

// A clock that jumps has a line. One that went back is a remark of verify.
func TestClock(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	tr := newTrail(t, func(o *audit.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	})
	jumps := func(n int) func() bool {
		return func() bool { return strings.Count(tr.said.String(), "operation=clock.jump") == n }
	}
	tr.changes(1)
	tr.flush() // so that the clock is watched
	offset.Store(int64(time.Hour))
	kit.Eventually(t, "the jump ahead", jumps(1))
	tr.changes(1)
	offset.Store(0)
	kit.Eventually(t, "the jump back", jumps(2))
	tr.changes(2)
	tr.close()
	tr.wantWhole()
	s := tr.summaries(keys, tr.o.Dir)[0]
	if s.Lines != 7 || len(s.Remarks) != 1 || !strings.Contains(s.Remarks[0].What, "older than one before it: the clock went back") {
		t.Errorf("%+v", s)
	}
}

// Whoever has a key that was rotated away makes no line, anchor or note any more.
func TestOldKey(t *testing.T) {
	t.Parallel()
	old := keys
	rotated := keyring{"00000002", map[string][]byte{old.primary: old.keys[old.primary], "00000002": []byte("another")}}
	stolen := keyring{old.primary, rotated.keys}
	rotate := func() *trail {
		tr := newTrail(t)
		tr.changes(1)
		tr.close()
		tr.changesAlone(1) // its note is of the old key, its line of the new
		tr.o.MAC = rotated
		tr.open()
		tr.changes(2)
		tr.close()
		if found := tr.problems(rotated, tr.o.Dir); len(found) > 0 {
			t.Fatalf("%q", found)
		}
		return tr
	}
	want := func(tr *trail, what string) {
		t.Helper()
		if found := strings.Join(tr.problems(rotated, tr.o.Dir), "\n"); !strings.Contains(found, what) {
			t.Errorf("found\n%s\nwant …%s…", found, what)
		}
	}
	tr := rotate()
	tr.o.MAC = stolen
	tr.open()
	tr.changes(1)
	tr.close()
	want(tr, "changes-000001.jsonl:6: the line was made with key 0badcafe, which another key had followed before")

	tr = rotate()
	tr.editStore(tr.storeCopy(), forgedAnchor(stolen))
	want(tr, "changes-000001.jsonl:5: the anchor of this line was made with key 0badcafe, which another key had followed")

	tr = rotate()
	tr.o.MAC = stolen
	tr.changesAlone(1)
	want(tr, "the note of revision 6 was not made by this service: it was made with a key that another key has followed")
	tr.o.MAC = rotated
	tr.open()
	tr.close()
	want(tr, "revision 6 of the store was committed with a note that the service did not make")
}

// A line that finds no space ends readiness at once, and the next that is written
// brings it back.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	tr := newTrail(t, func(o *audit.Options) {
		*o = o.WithStep(func(at string) error {
			if full.Load() && at == "changes written" {
				return syscall.ENOSPC
			}
			return nil
		})
	})
	tr.changes(1)
	tr.flush()
	if err := tr.log.Ready(); err != nil {
		t.Error(err)
	}
	full.Store(true)
	tr.changes(1)
	kit.Eventually(t, "not ready", func() bool {
		err := tr.log.Ready()
		return err != nil && strings.Contains(err.Error(), "no space left on device")
	})
	full.Store(false)
	kit.Eventually(t, "ready again", func() bool { return tr.log.Ready() == nil })
	tr.close()
	tr.wantChanges()
	tr.wantWhole()
}

// forgedAnchor writes the anchor again, with the primary key of m.
func forgedAnchor(m audit.MAC) edit {
	return func(now, _ *forge.Store) {
		anchors := now.Anchors()
		text, err := audit.RewriteAnchor(m, audit.Changes, anchors[audit.Changes])
		if err != nil {
			panic(err)
		}
		anchors[audit.Changes] = text
		now.SetAnchors(anchors)
	}
}

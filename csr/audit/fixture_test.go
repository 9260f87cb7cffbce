package audit_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"attestcsr/csr/audit"
	"attestcsr/keystore/keystoretest"
	"attestcsr/test/kit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// keyring is an audit.MAC of keys that a test chooses: the real ones are derived in
// package sealed, which has tests of its own.
type keyring struct {
	primary string
	keys    map[string][]byte
}

func (k keyring) Primary() string { return k.primary }

func (k keyring) Sum(id string, message []byte) (sum [32]byte, ok bool) {
	key, ok := k.keys[id]
	if !ok {
		return sum, false
	}
	h := hmac.New(sha256.New, key)
	h.Write(message)
	copy(sum[:], h.Sum(nil))
	return sum, true
}

var keys = keyring{"0badcafe", map[string][]byte{"0badcafe": []byte("a key of the tests")}}

// trail is an audit trail over a real store, in a folder of its own.
type trail struct {
	t     testing.TB
	dir   string
	store *store
	vault *keystoretest.Vault
	log   *audit.Log
	said  *kit.Buffer
	o     audit.Options
	wrap  func(audit.Outbox) audit.Outbox // nil: the store itself
	n     int                             // changes made
	uses  int                             // signatures made
}

func newTrail(t testing.TB, edit ...func(*audit.Options)) *trail {
	t.Helper()
	tr := &trail{t: t, dir: t.TempDir(), said: &kit.Buffer{}, vault: keystoretest.NewVault()}
	tr.o = audit.Options{
		MAC: keys, Dir: filepath.Join(tr.dir, "audit"), MaxFileSize: 64 << 20, MaxRefusalsSize: 64 << 20, MaxSignaturesSize: 64 << 20, OutboxBound: 10_000,
		Logger: slog.New(slog.NewTextHandler(tr.said, nil)), Now: time.Now,
	}
	for _, e := range edit {
		e(&tr.o)
	}
	tr.open()
	t.Cleanup(tr.close)
	return tr
}

func (tr *trail) storePath() string { return filepath.Join(tr.dir, "store.db") }

func (tr *trail) openStore() (*store, error) {
	mac, _ := tr.o.MAC.(keyring)
	return openStore(tr.t, tr.storePath(), tr.vault, mac)
}

// open opens store and log, as a start does.
func (tr *trail) open() {
	tr.t.Helper()
	if err := tr.tryOpen(); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *trail) tryOpen() error {
	tr.t.Helper()
	var err error
	if tr.store, err = tr.openStore(); err != nil {
		return err
	}
	tr.o.State, tr.o.CheckNote, tr.o.Commit = tr.store.state, tr.store.checkNote, tr.store.keys.Note
	if tr.o.Outbox = tr.store; tr.wrap != nil {
		tr.o.Outbox = tr.wrap(tr.store)
	}
	if tr.log, err = audit.Open(tr.t.Context(), tr.o); err != nil {
		err = errors.Join(err, tr.store.Close())
		tr.store = nil
	}
	return err
}

// restart is a clean stop and a start.
func (tr *trail) restart() {
	tr.t.Helper()
	tr.close()
	tr.open()
}

// close ends both, as a clean stop does; once.
func (tr *trail) close() {
	tr.t.Helper()
	if tr.log != nil {
		if err := tr.log.Close(context.Background()); err != nil {
			tr.t.Error(err)
		}
	}
	if tr.store != nil {
		if err := tr.store.Close(); err != nil {
			tr.t.Error(err)
		}
	}
	tr.log, tr.store = nil, nil
}

func event(n int) audit.Event {
	return audit.Event{Request: audit.Request{User: "admin", Method: "basic", Address: "192.0.2.1", RequestID: fmt.Sprint("r", n)}, Operation: "csr.create", Slot: "c/a", Payload: digestOf(payload(n))}
}

// payload is what the nth change puts into slot a.
func payload(n int) []byte { return fmt.Append(nil, "x", n) }

func digestOf(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}

// changes commits changes with their notes.
func (tr *trail) changes(n int) {
	tr.t.Helper()
	for range n {
		tr.n++
		note, err := tr.log.Note(event(tr.n))
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.store.put(note, "a", payload(tr.n))
	}
}

// signatures commits notes of signatures.
func (tr *trail) signatures(n int) {
	tr.t.Helper()
	for range n {
		tr.uses++
		note, err := tr.log.NoteSignature(audit.Event{
			Request:   audit.Request{User: "daemon", Method: "socket", Peer: "uid=1000 gid=1000 pid=7", RequestID: fmt.Sprint("s", tr.uses)},
			Operation: "key.sign", Slot: "c/a", KeyID: "kid", Algorithm: "rs256", Digest: digestOf(payload(tr.uses)),
		})
		if err == nil {
			err = tr.store.keys.Note(tr.t.Context(), note)
		}
		if err != nil {
			tr.t.Fatal(err)
		}
	}
}

// withStore opens the store of a trail that is closed.
func (tr *trail) withStore(do func(*store) error) {
	tr.t.Helper()
	store, err := tr.openStore()
	if err != nil {
		tr.t.Fatal(err)
	}
	if err := errors.Join(do(store), store.Close()); err != nil {
		tr.t.Fatal(err)
	}
}

// changesAlone commits changes while the trail is closed: their notes wait.
func (tr *trail) changesAlone(n int) {
	tr.t.Helper()
	tr.withStore(func(store *store) error {
		for range n {
			tr.n++
			note, err := event(tr.n).Note(time.Now())
			if err != nil {
				return err
			}
			store.put(note, "a", payload(tr.n))
		}
		return nil
	})
}

// flush waits until nothing waits.
func (tr *trail) flush() {
	tr.t.Helper()
	kit.Eventually(tr.t, "the outbox is empty", func() bool {
		n, err := tr.store.Pending(tr.t.Context())
		return err == nil && n == 0
	})
}

// flushUnless waits until nothing waits, or the trail has ended.
func (tr *trail) flushUnless(ended *atomic.Bool) {
	tr.t.Helper()
	kit.Eventually(tr.t, "the outbox is empty, or the end", func() bool {
		n, err := tr.store.Pending(tr.t.Context())
		return ended.Load() || err == nil && n == 0
	})
}

// files returns the paths of a stream's files, the oldest first.
func (tr *trail) files(stream string) []string {
	tr.t.Helper()
	names, err := filepath.Glob(filepath.Join(tr.dir, "audit", stream+"-*.jsonl"))
	if err != nil {
		tr.t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// parsed is a line as whoever reads the trail sees it: with encoding/json, and not
// with the decoder of this package.
type parsed struct {
	Stream    string    `json:"stream"`
	Chain     string    `json:"chain"`
	Seq       uint64    `json:"seq"`
	Event     string    `json:"event"`
	Time      time.Time `json:"time"`
	User      string    `json:"user"`
	Method    string    `json:"method"`
	Address   string    `json:"address"`
	RequestID string    `json:"request_id"`
	Operation string    `json:"operation"`
	Route     string    `json:"route"`
	Outcome   string    `json:"outcome"`
	Count     int       `json:"count"`
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason"`
	Revision  uint64    `json:"revision"`
	Slot      string    `json:"slot"`
	Session   string    `json:"session"`
	Settings  []string  `json:"settings"`
	Warnings  []string  `json:"warnings"`
	Peer      string    `json:"peer"`
	KeyID     string    `json:"kid"`
	Algorithm string    `json:"algorithm"`
	Digest    string    `json:"digest"`

	Names       []string `json:"names"`
	NamesCount  int      `json:"names_count"`
	NamesSHA256 string   `json:"names_sha256"`
}

func parse(t testing.TB, content []byte) []parsed {
	t.Helper()
	var all []parsed
	for text := range bytes.Lines(content) {
		var p parsed
		if err := json.Unmarshal(text, &p); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		all = append(all, p)
	}
	return all
}

func (tr *trail) lines(stream string) []parsed {
	tr.t.Helper()
	var all []parsed
	for _, name := range tr.files(stream) {
		all = append(all, parse(tr.t, kit.Read(tr.t, "", name))...)
	}
	return all
}

// wantContinued checks that the newest file of changes begins with the line that says
// why, of a sequence, and then has the changes of these numbers and no others. A line
// that the store was put back may be among them.
func (tr *trail) wantContinued(sequence uint64, changes ...int) {
	tr.t.Helper()
	files := tr.files(audit.Changes)
	lines := slices.DeleteFunc(parse(tr.t, kit.Read(tr.t, "", files[len(files)-1])), func(l parsed) bool { return l.Operation == "store.restore" })
	right := len(lines) == len(changes)+1 && lines[0].Event == "broken" && lines[0].Seq == sequence && lines[0].Reason != ""
	for i, n := range changes {
		right = right && lines[i+1].RequestID == fmt.Sprint("r", n)
	}
	if !right {
		tr.t.Errorf("%d files, the newest has %+v", len(files), lines)
	}
}

func write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantChanges checks that the lines are those of the changes made, each once and
// in order, between lines that open files.
func (tr *trail) wantChanges() {
	tr.t.Helper()
	next := 0
	for i, l := range tr.lines(audit.Changes) {
		if l.Seq != uint64(i+1) {
			tr.t.Fatalf("line %d has sequence %d", i+1, l.Seq)
		}
		if l.Event != "change" {
			continue
		}
		if next++; l.RequestID != fmt.Sprint("r", next) || l.User != "admin" || l.Outcome != "committed" || l.Revision == 0 || l.Time.IsZero() {
			tr.t.Fatalf("line %d: %+v, want the change r%d", i+1, l, next)
		}
	}
	if next != tr.n {
		tr.t.Fatalf("%d changes have lines, %d were made", next, tr.n)
	}
}

// wantSignatures checks that the lines are those of the last signatures, each once and
// in order: the service may have removed the oldest files.
func (tr *trail) wantSignatures() {
	tr.t.Helper()
	var ids []string
	for _, l := range tr.lines(audit.Signatures) {
		if l.Event != "signature" {
			continue
		}
		ids = append(ids, l.RequestID)
		if l.Operation != "key.sign" || l.Peer == "" || l.KeyID == "" || l.Algorithm == "" || l.Digest == "" || l.Revision == 0 || l.Outcome != "" {
			tr.t.Fatalf("%+v", l)
		}
	}
	for i, id := range ids {
		if want := fmt.Sprint("s", tr.uses-len(ids)+1+i); id != want {
			tr.t.Fatalf("line %d of %d is of %s, want %s", i+1, len(ids), id, want)
		}
	}
	if len(ids) == 0 && tr.uses > 0 {
		tr.t.Fatal("no signature has a line")
	}
}

// verify returns what Verify finds, the folder left out of the paths.
func (tr *trail) verify(dirs ...string) []string {
	tr.t.Helper()
	return tr.problems(keys, append(dirs, tr.o.Dir)...)
}

func (tr *trail) problems(mac audit.MAC, dirs ...string) []string {
	tr.t.Helper()
	var all []string
	for _, s := range tr.summaries(mac, dirs...) {
		for _, p := range s.Problems {
			all = append(all, strings.ReplaceAll(p.String(), tr.dir+"/audit/", ""))
		}
	}
	return all
}

func (tr *trail) summaries(mac audit.MAC, dirs ...string) []audit.Summary {
	tr.t.Helper()
	summaries, err := audit.Verify(tr.t.Context(), audit.VerifyOptions{Dirs: dirs, MAC: mac, Snapshot: tr.snapshot})
	if err != nil {
		tr.t.Fatal(err)
	}
	return summaries
}

// snapshot reads the store, which is open or not.
func (tr *trail) snapshot(ctx context.Context) (s audit.Snapshot, err error) {
	if tr.store != nil {
		return audit.Take(ctx, tr.store.state)
	}
	tr.withStore(func(store *store) error {
		s, err = audit.Take(ctx, store.state)
		return err
	})
	return s, err
}

func (tr *trail) wantWhole(dirs ...string) {
	tr.t.Helper()
	if found := tr.verify(dirs...); len(found) > 0 {
		tr.t.Fatalf("the trail is not whole: %q", found)
	}
}

// wantProblem checks that the first finding begins with a place and says why.
func (tr *trail) wantProblem(place, what string, dirs ...string) {
	tr.t.Helper()
	found := tr.verify(dirs...)
	if len(found) == 0 || !strings.HasPrefix(found[0], place+": ") || !strings.Contains(found[0], what) {
		tr.t.Errorf("found %q, want %s: …%s…", found, place, what)
	}
}

var errInjected = errors.New("injected")

// failAt makes a step fail as long as when says so, and counts it.
func failAt(step string, fired *atomic.Int64, when func() bool) func(*audit.Options) {
	return func(o *audit.Options) {
		*o = o.WithStep(func(at string) error {
			if at == step && when() {
				fired.Add(1)
				return errInjected
			}
			return nil
		})
	}
}

func smallFiles(o *audit.Options) { o.MaxFileSize = 2000 }

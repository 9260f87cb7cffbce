// Package believed_test holds the real service against an attacker who can write to the
// store file and has no sealing keyset.
package believed_test

import (
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/keystore"
	"attestcsr/server"
	"attestcsr/test/forge"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

var (
	pending    = keystore.Slot{Collection: "esx/attestation", ID: "csr"}
	canary     = keystore.Slot{Collection: "keystore", ID: "canary"}
	checkpoint = keystore.Slot{Collection: "audit", ID: "checkpoint"}
)

func nsx(id string) keystore.Slot { return keystore.Slot{Collection: "nsx/csrs", ID: id} }

// past is what a service has left, and what an attacker has from earlier.
type past struct {
	start.Options        // of a data directory that was stopped
	killed        string // one with notes that have no lines yet
	// The store after the first day.
	earlier  map[keystore.Slot]keystore.Record
	anchors  map[string][]byte
	head     []byte
	revision uint64
	theirs   map[keystore.Slot]keystore.Record // of a service of the attacker's own
	answers  map[string]bool                   // what was ever answered: path, a blank, PEM
}

// live lets a service live for three days. On the second, nsx/csrs/c is removed and
// another CSR of ESX takes the place of the first. On the third it is killed, before the
// notes of nsx/csrs/d, of another CSR of ESX and of the removal of nsx/csrs/a have lines.
func live(t *testing.T) *past {
	t.Helper()
	p := &past{Options: start.Options{Binary: start.Binary(t), Config: start.Config(t, "")}, answers: map[string]bool{}}
	s := start.Serve(t, p.Options)
	p.create(s, "a", "b", "c", "signed", "")
	s.Must(201, "POST", start.NSXCSRs+"/signed?action=self_sign&days_valid=30", "")
	p.stop(s)
	p.DataDir = s.DataDir
	command(t, p.DataDir, "audit checkpoint")
	forge.Edit(t, filepath.Join(p.DataDir, server.StoreFile), func(s *forge.Store) {
		p.earlier, p.anchors, p.head, p.revision = bySlot(s.Records()), s.Anchors(), s.Head(), s.Revision()
	})

	s = s.Again()
	p.create(s, "")
	s.Must(200, "DELETE", start.NSXCSRs+"/c", "")
	p.stop(s)

	for waiting, tries := 0, 0; waiting != 3; tries++ { // the trail is written five times a second
		if tries == 50 {
			t.Fatalf("%d notes have no lines, want 3", waiting)
		}
		third := p.Options
		third.DataDir = filepath.Join(t.TempDir(), "killed")
		start.CopyData(t, p.DataDir, third.DataDir)
		s = start.Serve(t, third)
		p.create(s, "", "d")
		s.Must(200, "DELETE", start.NSXCSRs+"/a", "")
		s.Kill()
		p.killed = third.DataDir
		forge.Edit(t, filepath.Join(p.killed, server.StoreFile), func(s *forge.Store) { waiting = len(s.Notes()) })
	}

	own := start.Serve(t, start.Options{Binary: p.Binary, Config: p.Config})
	other := &past{answers: map[string]bool{}}
	other.create(own, "a", "")
	other.stop(own)
	command(t, own.DataDir, "audit checkpoint")
	forge.Edit(t, filepath.Join(own.DataDir, server.StoreFile), func(s *forge.Store) { p.theirs = bySlot(s.Records()) })
	return p
}

// create creates CSRs of NSX, or one of ESX where the id is empty, and remembers them.
func (p *past) create(s *start.Instance, ids ...string) {
	s.T.Helper()
	for _, id := range ids {
		path, query, body := start.NSXCSRs+"/"+id, "?action=create", start.ECSpec(id)
		if id == "" {
			path, query, body = start.CSRPath, "", start.ValidSpec
		}
		var o object
		if err := json.Unmarshal([]byte(s.Must(201, "POST", path+query, body)), &o); err != nil {
			s.T.Fatal(err)
		}
		p.answers[path+" "+o.CSR+o.PEM] = true
	}
}

// stop stops a service, and remembers what it answers.
func (p *past) stop(s *start.Instance) {
	s.T.Helper()
	for _, path := range paths {
		_, _, found := read(s, path)
		for at, text := range found {
			p.answers[at+" "+text] = true
		}
	}
	if err := s.Stop(); err != nil {
		s.T.Fatal(err)
	}
}

func bySlot(records []keystore.Record) map[keystore.Slot]keystore.Record {
	all := map[keystore.Slot]keystore.Record{}
	for _, r := range records {
		all[r.Slot] = r
	}
	return all
}

// object is an object of any dialect.
type object struct {
	Path        string
	CSR         string
	Certificate string
	PEM         string `json:"pem_encoded"`
	Results     []object
}

// read returns what a GET answers: the PEM of each object, by path.
func read(s *start.Instance, path string) (status int, unreadable string, found map[string]string) {
	s.T.Helper()
	a, err := s.Do("GET", path, "")
	if err != nil {
		s.T.Fatal(err)
	}
	found = map[string]string{}
	if a.Status != 200 {
		if strings.Contains(a.Body, "BEGIN") {
			s.T.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
		return a.Status, "", found
	}
	var o object
	if err := json.Unmarshal([]byte(a.Body), &o); err != nil {
		s.T.Fatalf("%s: %v %s", path, err, a.Body)
	}
	if text := o.CSR + o.Certificate + o.PEM; text != "" {
		found[path] = text
	}
	for _, r := range o.Results {
		found["/policy/api/v1"+r.Path] = r.PEM
	}
	return a.Status, a.Header.Get("X-Attestcsr-Unreadable"), found
}

var paths = []string{
	start.CSRPath, start.CertificatePath, start.NSXCertificates, start.NSXCSRs, byName,
	start.NSXCSRs + "/a", start.NSXCSRs + "/b", start.NSXCSRs + "/c", start.NSXCSRs + "/d", start.NSXCSRs + "/x",
}

// wantAnswers looks at a service whose store was edited: nothing is answered that an
// honest service has not answered before, at the same path.
func (p *past) wantAnswers(s *start.Instance, e edit) {
	s.T.Helper()
	for _, path := range paths {
		status, unreadable, found := read(s, path)
		for at, text := range found {
			if !p.answers[at+" "+text] && at != e.made {
				s.T.Errorf("%s: answered for %s, and never before: %s", path, at, text)
			}
		}
		want, left := 200, ""
		switch single := strings.Count(path, "/") > strings.Count(start.NSXCSRs, "/"); {
		case slices.Contains(e.hidden, path):
			want = 500
		case slices.Contains(e.absent, path):
			want = 404
		case strings.HasPrefix(path, start.NSXCSRs) && !single:
			left = e.leftOut
		}
		if status != want || unreadable != left {
			s.T.Errorf("%s: %d, %q left out, want %d and %q", path, status, unreadable, want, left)
		}
	}
}

// command runs a command of the real binary.
func command(t *testing.T, dataDir, args string) (out string, status int) {
	t.Helper()
	cmd := exec.Command(start.Binary(t), append(strings.Fields(args), "--data-dir", dataDir)...)
	text, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// wantFound runs a command that has to find a problem, or none.
func wantFound(t *testing.T, dataDir, args string, found bool) (out string) {
	t.Helper()
	out, status := command(t, dataDir, args)
	if status > 1 || found != (status == 1) {
		t.Errorf("%s: exit status %d: %s", args, status, out)
	}
	return out
}

// wantSaid runs a command that has to say all of these, or to find nothing.
func wantSaid(t *testing.T, when, dataDir, args string, want []string) {
	t.Helper()
	out := wantFound(t, dataDir, args, len(want) > 0)
	for _, text := range want {
		if !strings.Contains(out, text) {
			t.Errorf("%s, %s does not say %q: %s", when, args, text, out)
		}
	}
}

// TestEdits makes every kind of edit to every bucket, starts the service, and asks it and
// its commands.
func TestEdits(t *testing.T) {
	t.Parallel()
	p := live(t)
	for _, kind := range []map[string]edit{recordEdits, formEdits, indexEdits, noteEdits, stateEdits} {
		for _, name := range slices.Sorted(maps.Keys(kind)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p.run(t, kind[name])
			})
		}
	}
}

func (p *past) run(t *testing.T, e edit) {
	t.Helper()
	o := p.Options
	from := p.DataDir
	if e.killed {
		from = p.killed
	}
	o.DataDir = filepath.Join(t.TempDir(), "data")
	start.CopyData(t, from, o.DataDir)
	forge.Edit(t, filepath.Join(o.DataDir, server.StoreFile), func(s *forge.Store) { e.make(s, p) })
	if e.refused != "" {
		if text := start.Refused(t, o); !strings.Contains(text, e.refused) {
			t.Errorf("refused with %s, want %q", text, e.refused)
		}
		return
	}
	wantSaid(t, "before the start", o.DataDir, "audit verify", e.verify)
	wantSaid(t, "before the start", o.DataDir, "store check", append(slices.Clone(e.verify), e.check...))
	s := start.Serve(t, o)
	p.wantAnswers(s, e)
	if e.unready { // the store is asked once a second
		kit.Eventually(t, "it is not ready", func() bool { return s.Answers(503, "/readyz") })
	} else {
		s.Must(200, "GET", "/readyz", "")
	}
	log, after := e.log, e.after
	if log == "" {
		log = "the audit trail and the store are not what the service left"
	}
	if after == nil {
		after = e.verify
	}
	if len(e.verify) > 0 {
		s.WantLog(log)
	}
	// Beside the service a note may have its line, or not yet.
	wantFound(t, o.DataDir, "audit verify", len(after) > 0 || e.broken)
	wantFound(t, o.DataDir, "store check", len(after)+len(e.check) > 0)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	wantSaid(t, "after a stop", o.DataDir, "audit verify", after)
	wantSaid(t, "after a stop", o.DataDir, "store check", append(slices.Clone(after), e.check...))
	if strings.Contains(s.Stdout.String(), "forged words") || strings.Contains(lines(t, o.DataDir), "forged words") {
		t.Error("the log or the trail repeats what the attacker wrote")
	}
}

// lines returns all lines of the trail.
func lines(t *testing.T, dataDir string) (all string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, server.AuditDir, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no trail: %v", err)
	}
	for _, file := range files {
		all += string(kit.Read(t, filepath.Dir(file), filepath.Base(file)))
	}
	return all
}

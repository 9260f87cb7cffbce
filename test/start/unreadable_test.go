package start_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/server"
	"attestcsr/test/forge"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

const pendingSlot, installedSlot, canarySlot = "esx/attestation/csr", "esx/attestation/certificate", "keystore/canary"

func splitSlot(slot string) keystore.Slot {
	at := strings.LastIndexByte(slot, '/')
	return keystore.Slot{Collection: slot[:at], ID: slot[at+1:]}
}

// swap puts, in the store of a stopped service, the records of some slots into others.
func swap(t *testing.T, s *start.Instance, put map[string]string) {
	t.Helper()
	forge.Edit(t, filepath.Join(s.DataDir, server.StoreFile), func(store *forge.Store) {
		var forged []keystore.Record
		for slot, from := range put {
			r := store.Get(splitSlot(from))
			r.Slot = splitSlot(slot)
			forged = append(forged, r)
		}
		for _, r := range forged {
			store.Put(r)
		}
	})
}

// flip changes one byte of a record under a running service, which has the file mapped.
func flip(t *testing.T, s *start.Instance, slot, before string) {
	t.Helper()
	s.WaitForLines() // the commit that takes their notes away would write other pages
	content := kit.Read(t, s.DataDir, server.StoreFile)
	var record, changed []byte
	forge.Edit(t, kit.Overwrite(t, t.TempDir(), "copy.db", string(content)), func(store *forge.Store) {
		r := store.Get(splitSlot(slot))
		record = forge.Encode(r)
		r.Payload[bytes.Index(r.Payload, []byte(before))+len(before)] ^= 1
		changed = forge.Encode(r)
	})
	file, err := os.OpenFile(filepath.Join(s.DataDir, server.StoreFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	places := 0
	for at := bytes.Index(content, record); at >= 0; at = bytes.Index(content, record) {
		_, writeErr := file.WriteAt(changed, int64(at))
		err = errors.Join(err, writeErr)
		copy(content[at:], changed)
		places++
	}
	if err := errors.Join(err, file.Close()); err != nil || places == 0 {
		t.Fatalf("%d places, %v", places, err)
	}
}

// replacedLines waits for the lines of changes that replaced what could not be read.
func replacedLines(t *testing.T, s *start.Instance, want ...string) {
	t.Helper()
	var got []string
	complete := func() bool {
		got = nil
		files, err := filepath.Glob(filepath.Join(s.DataDir, server.AuditDir, "changes-*.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for text := range bytes.Lines(kit.Read(t, filepath.Dir(file), filepath.Base(file))) {
				var l struct{ Operation, Replaced string }
				if json.Unmarshal(text, &l) == nil && l.Replaced != "" {
					got = append(got, l.Operation+" "+l.Replaced)
				}
			}
		}
		return len(got) == len(want)
	}
	if !kit.Until(complete) || strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("lines %q, want %q", got, want)
	}
}

// TestForgedObjects: an NSX record that was replaced by another one is not shown, is
// left out of lists, and can be deleted. The service stays ready.
func TestForgedObjects(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	for _, id := range []string{"a", "b", "c"} {
		s.Must(201, "POST", start.NSXCSRs+"/"+id+"?action=create", start.ECSpec(id))
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	swap(t, s, map[string]string{"nsx/csrs/a": "nsx/csrs/b", "nsx/csrs/c": "nsx/csrs/b"})
	s = s.Again()
	const a = start.NSXCSRs + "/a"
	if body := s.Must(500, "GET", a, ""); strings.Contains(body, "BEGIN") {
		t.Error(body)
	}
	s.Must(500, "POST", a+"?action=self_sign", "")
	if body := s.Must(400, "POST", a+"?action=create", start.ECSpec("a")); !strings.Contains(body, "500127") {
		t.Error(body)
	}
	wantList(t, s, 1, "2")
	s.WantLog(`"slot":"nsx/csrs/a"`)
	s.WantLog(`"slot":"nsx/csrs/c"`)
	if n := s.Metric("attestcsr_store_unauthentic_total"); n < 4 {
		t.Errorf("%d unauthentic records counted", n)
	}
	s.Must(200, "GET", "/readyz", "")
	s.Must(200, "DELETE", a, "")
	s.Must(404, "GET", a, "")
	s.Must(201, "POST", a+"?action=create", start.ECSpec("a"))
	s.Must(200, "DELETE", start.NSXCSRs+"/c", "")
	wantList(t, s, 2, "")
	replacedLines(t, s, "named_csr.delete unauthentic", "named_csr.delete unauthentic")
}

// wantList checks how many objects a list has, and how many it says that it leaves out.
func wantList(t *testing.T, s *start.Instance, objects int, unreadable string) {
	t.Helper()
	a, err := s.Do("GET", start.NSXCSRs, "")
	var list struct {
		Results []struct{ ID string } `json:"results"`
		Count   int                   `json:"result_count"`
	}
	if err = errors.Join(err, json.Unmarshal([]byte(a.Body), &list)); err != nil || a.Status != 200 || len(list.Results) != objects || list.Count != objects ||
		a.Header.Get("X-Attestcsr-Unreadable") != unreadable {
		t.Errorf("%v %d %v %s, want %d objects and %q left out", err, a.Status, a.Header, a.Body, objects, unreadable)
	}
}

// TestForgedAttestation: an ESX record that was replaced by another one is not shown, and
// the service is not ready until a create or a set has replaced it.
func TestForgedAttestation(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{})
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	s.Must(201, "POST", start.NSXCSRs+"/a?action=create", start.ECSpec("a"))
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	swap(t, s, map[string]string{pendingSlot: "nsx/csrs/a", installedSlot: "nsx/csrs/a"})
	s = s.Again()
	ca := kit.NewCA(t, "root", time.Now())
	s.Must(503, "GET", "/readyz", "")
	s.WantLog(pendingSlot + ": the record is not written by this service")
	for _, path := range []string{start.CSRPath, start.CertificatePath} {
		if body := s.Must(500, "GET", path, ""); strings.Contains(body, "BEGIN") {
			t.Error(body)
		}
	}
	set := func(status int, request string) {
		t.Helper()
		parsed, err := kit.ParseCSR(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(map[string]string{"certificate": kit.PEM(ca.Issue(t, "x", parsed.PublicKey))})
		if err != nil {
			t.Fatal(err)
		}
		s.Must(status, "PUT", start.CertificatePath, string(body))
	}
	set(500, s.Must(200, "GET", start.NSXCSRs+"/a/pem-file", ""))
	request := start.Member(t, s.Must(201, "POST", start.CSRPath, start.ValidSpec), "csr")
	s.Must(200, "GET", start.CSRPath, "")
	s.Must(503, "GET", "/readyz", "")
	set(204, request)
	s.Must(200, "GET", start.CertificatePath, "")
	s.Must(200, "GET", "/readyz", "")
	replacedLines(t, s, "csr.create unauthentic", "certificate.set unauthentic")
}

// TestForgedUnderService: a record that is changed under a running service is not shown
// any more, and readiness ends for the ESX slots and for the canary.
func TestForgedUnderService(t *testing.T) {
	t.Parallel()
	for slot, before := range map[string]string{
		pendingSlot:   "-----BEGIN CERTIFICATE REQUEST-----\nMI",
		installedSlot: "-----BEGIN CERTIFICATE-----\nMI",
		canarySlot:    "This key signs ",
	} {
		s := start.Serve(t, start.Options{})
		s.Must(201, "POST", start.CSRPath, start.ValidSpec)
		s.Must(200, "GET", "/readyz", "")
		flip(t, s, slot, before)
		s.Must(503, "GET", "/readyz", "")
		s.WantLog(slot + ": the record is not written by this service")
		switch slot {
		case pendingSlot:
			s.Must(500, "GET", start.CSRPath, "")
			s.Must(204, "DELETE", start.CSRPath, "")
			s.Must(200, "GET", "/readyz", "")
		case installedSlot:
			s.Must(500, "GET", start.CertificatePath, "")
		case canarySlot:
			_ = s.Stop()
			if text := start.Refused(t, start.Options{DataDir: s.DataDir}); !strings.Contains(text, canarySlot) {
				t.Error(text)
			}
		}
	}
}

// TestFullCollectionIsReady: a collection that takes no more is no reason to keep
// requests away.
func TestFullCollectionIsReady(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Settings: "limits: {csrs: 1}\n"})
	s.Must(201, "POST", start.NSXCSRs+"/a?action=create", start.ECSpec("a"))
	s.Must(400, "POST", start.NSXCSRs+"/b?action=create", start.ECSpec("b"))
	for range 2 {
		s.Must(200, "GET", "/readyz", "")
		time.Sleep(1100 * time.Millisecond) // a check is remembered for a second
	}
	s.Must(200, "DELETE", start.NSXCSRs+"/a", "")
	s.Must(201, "POST", start.NSXCSRs+"/b?action=create", start.ECSpec("b"))
}

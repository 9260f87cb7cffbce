package crash_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// contents are what a data directory holds.
type contents struct {
	stored stored
	// told are the ids of requests, and the digests of CSRs and certificates, that a
	// line of the audit trail has, or a note that waits to become one.
	told map[string]bool
}

// openData opens store and keyset of a data directory without a server.
func openData(dir string, fn func(*bolt.Store, *sealed.Custodian) error) error {
	store, err := bolt.Open(filepath.Join(dir, server.StoreFile), bolt.Options{})
	if err != nil {
		return err
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, server.KeysetFile)})
	if err == nil {
		err = errors.Join(fn(store, custodian), custodian.Close())
	}
	return errors.Join(err, store.Close())
}

// slots returns the slots of all records.
func slots(ctx context.Context, store *bolt.Store) (all []keystore.Slot, err error) {
	_, err = store.Inspect(ctx, func(r keystore.Record, unreadable error) error {
		all = append(all, r.Slot)
		return unreadable
	})
	return all, err
}

// inspect holds every record of a data directory against the promises: its key opens
// at its slot with its payload, is the key of the CSR or certificate there, and the
// audit trail tells of it.
func inspect(ctx context.Context, dir string) (found contents, err error) {
	err = openData(dir, func(store *bolt.Store, custodian *sealed.Custodian) error {
		if found.stored, err = inspectRecords(ctx, store, custodian); err != nil {
			return err
		}
		if err := verifyTrail(ctx, dir, store, custodian); err != nil {
			return err
		}
		if found.told, err = toldBy(ctx, dir, store); err != nil {
			return err
		}
		for name, text := range found.stored {
			block, _ := pem.Decode([]byte(text))
			digest := sha256.Sum256(block.Bytes)
			if !found.told[hex.EncodeToString(digest[:])] {
				return fmt.Errorf("%s is stored, and the audit trail does not tell of it", name)
			}
		}
		return nil
	})
	return found, err
}

// inspectCopy inspects a copy, so that the next start finds the store as a crash left
// it.
func inspectCopy(t *testing.T, dir string) (contents, error) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	start.CopyData(t, dir, to)
	return inspect(t.Context(), to)
}

func inspectRecords(ctx context.Context, store *bolt.Store, custodian *sealed.Custodian) (stored, error) {
	all, err := slots(ctx, store)
	if err != nil {
		return nil, err
	}
	found := stored{}
	counts := map[string]int{}
	for _, slot := range all {
		counts[slot.Collection]++
		r, err := store.Get(ctx, slot)
		if err != nil {
			return nil, err
		}
		if slot.Collection == "esx/retired" { // what is remembered of a key that was replaced
			if err := csr.CheckRetired(r); err != nil || len(r.Ref) > 0 {
				return nil, fmt.Errorf("%s: it has a key: %t, %w", slot, len(r.Ref) > 0, err)
			}
			continue
		}
		key, err := custodian.Open(ctx, keystore.Bind(slot, r.Payload), r.Ref)
		if err != nil {
			return nil, err
		}
		name, text, err := nameOf(r, key.Public())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", slot, err)
		}
		if name != "" {
			found[name] = text
		}
	}
	for collection, want := range counts {
		if n, err := store.Count(ctx, collection); err != nil || n != want {
			return nil, fmt.Errorf("%s is counted as %d records and has %d: %w", collection, n, want, err)
		}
	}
	return found, nil
}

// nameOf returns what a record is called in stored, and its PEM, if the key is that
// of the PEM. The canary has neither.
func nameOf(r keystore.Record, public crypto.PublicKey) (name, text string, err error) {
	if !strings.HasPrefix(r.Slot.Collection, "esx/") && !strings.HasPrefix(r.Slot.Collection, "nsx/") {
		return "", "", nil
	}
	_, text, _ = strings.Cut(string(r.Payload), "\n") // after what describes it
	its, subject, err := publicKeyOf(text)
	if err != nil {
		return "", "", err
	}
	if !kit.SameKey(its, public) {
		return "", "", errors.New("the stored key is not the key of the CSR or certificate beside it")
	}
	name = r.Slot.String()
	if strings.HasPrefix(name, issuedName) {
		name = issuedName + subject
	}
	return name, text, nil
}

// verifyTrail: the audit trail verifies and fits the store, as far as there is one.
func verifyTrail(ctx context.Context, dir string, store *bolt.Store, custodian *sealed.Custodian) error {
	mac, err := custodian.MAC(server.RecordsPurpose)
	if err != nil {
		return err
	}
	keys, err := keystore.Open(ctx, keystore.Options{Store: store, Custodian: custodian, MAC: mac, Logger: slog.New(slog.DiscardHandler), Processors: 1})
	if err != nil {
		return err
	}
	snapshot := func(ctx context.Context) (audit.Snapshot, error) { return audit.Take(ctx, server.TrailState(keys)) }
	lines, anchors, err := server.TrailMACs(custodian)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, server.AuditDir)
	if _, err := os.Stat(folder); err != nil {
		if s, err := snapshot(ctx); err != nil || s.Anchors[audit.Changes] != nil {
			return fmt.Errorf("the store knows of an audit trail that is not there: %w", err)
		}
		return nil
	}
	streams, err := audit.Verify(ctx, audit.VerifyOptions{Dirs: []string{folder}, MAC: lines, Anchors: anchors, Snapshot: snapshot})
	for _, s := range streams {
		if len(s.Problems) > 0 {
			return fmt.Errorf("audit verify: %v", s.Problems)
		}
	}
	return err
}

// toldBy reads what lines and notes tell of. No change has two lines.
func toldBy(ctx context.Context, dir string, store *bolt.Store) (map[string]bool, error) {
	lines, err := auditLines(dir, audit.Changes)
	if err != nil {
		return nil, err
	}
	revisions := map[uint64]bool{}
	for _, l := range lines {
		if revisions[l.Revision] && l.Revision != 0 { // a line that opens a file has none
			return nil, fmt.Errorf("revision %d has two lines in the audit trail", l.Revision)
		}
		revisions[l.Revision] = true
	}
	err = store.Outbox(ctx, 0, math.MaxInt, func(_ uint64, _, _, note []byte) error {
		var l auditLine
		err := json.Unmarshal(note, &l)
		lines = append(lines, l)
		return err
	})
	told := map[string]bool{}
	for _, l := range lines {
		told[l.RequestID], told[l.CSR], told[l.Certificate] = true, true, true
	}
	delete(told, "")
	return told, err
}

// auditLine is what a reader of the audit trail sees of a line.
type auditLine struct {
	Event       string   `json:"event"`
	User        string   `json:"user"`
	Method      string   `json:"method"`
	Address     string   `json:"address"`
	RequestID   string   `json:"request_id"`
	Operation   string   `json:"operation"`
	Route       string   `json:"route"`
	Slot        string   `json:"slot"`
	Outcome     string   `json:"outcome"`
	Session     string   `json:"session"`
	Subject     string   `json:"subject"`
	Names       []string `json:"names"`
	NamesCount  int      `json:"names_count"`
	NamesSHA256 string   `json:"names_sha256"`
	CSR         string   `json:"csr_sha256"`
	Certificate string   `json:"certificate_sha256"`
	Revision    uint64   `json:"revision"`
	FromKey     string   `json:"from_key"`
}

// auditFiles returns the paths of a stream's files, the oldest first.
func auditFiles(dataDir, stream string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dataDir, server.AuditDir, stream+"-*.jsonl"))
	slices.Sort(names)
	return names, err
}

// auditLines reads a stream. It leaves out what is torn at the end of a file, as the
// next start does.
func auditLines(dataDir, stream string) ([]auditLine, error) {
	names, err := auditFiles(dataDir, stream)
	if err != nil {
		return nil, err
	}
	var all []auditLine
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(content) {
			if !bytes.HasSuffix(line, []byte("\n")) || bytes.IndexByte(line, 0) >= 0 {
				break
			}
			var l auditLine
			if err := json.Unmarshal(line, &l); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", name, line, err)
			}
			all = append(all, l)
		}
	}
	return all, nil
}

package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/audit"
	"attestcsr/keystore/ownfile"
)

// serviceUser is who does what no caller asks for.
const serviceUser = "system:service"

// noteEvent records what the service does by itself. It happens whether or not the
// trail can have a line of it, and the log has it then.
func (s *Server) noteEvent(ctx context.Context, e audit.Event) {
	if err := s.record(ctx, audit.Request{User: serviceUser, Method: "service"}, e); err != nil {
		s.log.Error("an event is missing in the audit trail", "operation", e.Operation, "err", err)
	}
}

// noteStart records the start, and the names of settings that have another value than
// at the start before. A crash before the values are kept makes the next start record
// the same change.
func (s *Server) noteStart(ctx context.Context) {
	s.noteEvent(ctx, audit.Event{Operation: "service.start"})
	path := filepath.Join(s.cfg.DataDir, SettingsFile)
	before, err := readDigests(path, s)
	if err != nil {
		s.log.Warn("the settings of the last start are not known: changes of settings since then are not recorded", "err", err)
	}
	now := map[string]string{}
	for name, value := range s.cfg.Texts() {
		sum := sha256.Sum256([]byte(value))
		now[name] = hex.EncodeToString(sum[:8])
	}
	if maps.Equal(before, now) {
		return
	}
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if before != nil && before[name] != now[name] {
			changed = append(changed, name)
		}
	}
	if changed != nil {
		s.noteEvent(ctx, audit.Event{Operation: "settings.change", Settings: changed})
	}
	text, err := json.Marshal(now, json.Deterministic(true))
	if err == nil {
		err = ownfile.Replace(path, text)
	}
	if err != nil {
		s.log.Warn("the settings of this start cannot be kept", "err", err)
	}
}

// readDigests returns the digests of the values of all settings at the last start, or
// nil where there was none.
func readDigests(path string, s *Server) (digests map[string]string, err error) {
	text, err := ownfile.Read(path, maxOwnFile, s.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &digests)
	}
	return digests, err
}

package audit

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
)

const anchorVersion = 2

// position is a line of a chain: where it ends and what it is.
type position struct {
	File     int    `json:"file"` // number
	Size     int64  `json:"size"` // of the file, up to and with that line
	Seq      uint64 `json:"seq"`
	MAC      string `json:"mac"`
	Sum      string `json:"lines_sha256"` // over all lines up to there; see addLine
	Revision uint64 `json:"revision"`     // of the newest change up to there
	notePosition
}

// notePosition is where the notes that have lines end in the store's chain of notes.
type notePosition struct {
	// Code is of the newest note, in hexadecimal; empty before the first, and
	// unknownCode after one that is not authentic.
	Code string   `json:"note_code,omitzero"`
	Keys keyOrder `json:"note_keys,omitzero"` // that notes were made with
}

const unknownCode = "unknown"

// start is where a file begins in the chain.
type start struct {
	File int    `json:"file"`
	Seq  uint64 `json:"seq"`  // of its first line
	Prev string `json:"prev"` // MAC of the line before
}

// anchor is what the store knows of a stream: files that were cut short or taken
// away contradict it. It has an HMAC as lines have.
type anchor struct {
	Version int    `json:"v"`
	Stream  string `json:"stream"`
	Chain   string `json:"chain"`
	Begun   int    `json:"begun"` // number of the chain's first file
	// Kept are the files, the oldest first; of a stream that keeps all of them the
	// first alone.
	Kept []start  `json:"kept"`
	Last position `json:"last"`
	// Opening is the line that a new file begins with, as long as it may not be written
	// yet.
	Opening *entry `json:"opening,omitzero"`
	// Signatures, of the changes: the store has an anchor of the signatures.
	Signatures bool   `json:"signatures,omitzero"`
	Key        string `json:"key"`
}

func (a anchor) encode(m MAC) ([]byte, error) {
	a.Version, a.Key = anchorVersion, m.Primary()
	object, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode an audit anchor: %w", err)
	}
	text, _, err := addMAC(m, a.Key, anchorLabel, "", object)
	return text, err
}

// decodeAnchor is strict, and refuses what was not made with a key of the service.
func decodeAnchor(m MAC, stream string, text []byte) (anchor, error) {
	object, mac, ok := splitMAC(text)
	if !ok {
		return anchor{}, errors.New("the anchor cannot be read")
	}
	var a anchor
	if err := json.Unmarshal(object, &a, json.RejectUnknownMembers(true)); err != nil {
		return anchor{}, errors.New("the anchor cannot be read")
	}
	if a.Version != anchorVersion {
		return anchor{}, fmt.Errorf("the anchor has format %d, this version reads %d", a.Version, anchorVersion)
	}
	_, want, err := addMAC(m, a.Key, anchorLabel, "", object)
	switch {
	case err != nil:
		return anchor{}, fmt.Errorf("the anchor was made with key %.16q, which is not in the sealing keyset", a.Key)
	case want != mac || a.Stream != stream || len(a.Kept) == 0:
		return anchor{}, errors.New("the anchor was changed")
	}
	return a, nil
}

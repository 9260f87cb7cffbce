package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// lineVersion is the format that lines are written in. A change of format gets a
// new number, a reader of the old one, and its own golden file.
const lineVersion = 2

// line is one line of a stream: an event and its place in the chain. Its last
// member, "mac", is not in this struct: it is the HMAC-SHA-256 of
//
//	length and text of "attestcsr audit line"
//	length and bytes of the MAC of the line before (none before the first)
//	length and bytes of the line up to ,"mac"
//
// under the key that Key names; lengths are 32-bit, big-endian.
type line struct {
	Version int    `json:"v"`
	Stream  string `json:"stream"`
	Chain   string `json:"chain"` // random, of all lines from one Begin on
	Seq     uint64 `json:"seq"`   // 1 for the first, without gaps
	Event   `json:",inline"`
	// Prev and Sum are of the first line of a file: the MAC of the line before, and
	// position.Sum of it. So a file can be checked without those before.
	Prev     string    `json:"prev,omitzero"`
	Sum      string    `json:"lines_sha256,omitzero"`
	Baseline *Baseline `json:"baseline,omitzero"` // of some lines that open a file
	Break    *Break    `json:"break,omitzero"`    // of one that accepts
	Revision uint64    `json:"revision,omitzero"` // of the change's commit
	Key      string    `json:"key"`
}

// MAC computes message authentication codes under keys that only the service has.
type MAC interface {
	// Primary is the id of the key for new lines.
	Primary() string
	// Sum returns the code of a message under the key of that id; false: there is
	// no such key.
	Sum(id string, message []byte) ([32]byte, bool)
}

const (
	lineLabel   = "attestcsr audit line"
	anchorLabel = "attestcsr audit anchor"

	macMember = `,"mac":"`
	macTail   = len(macMember) + 64 + len(`"}`)
)

var errNoLine = errors.New("is not a line of an audit stream")

// message puts parts together, each after its length, so that no two lists of parts
// give the same message.
func message(parts ...[]byte) []byte {
	var b []byte
	for _, part := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // bounded by maxLine
		b = append(b, part...)
	}
	return b
}

// encode returns the text of a line, with its newline, and its MAC. prev is the
// MAC of the line before, in hexadecimal.
func (l line) encode(m MAC, prev string) (text []byte, mac string, err error) {
	l.Version = lineVersion
	body, err := json.Marshal(l)
	if err != nil {
		return nil, "", fmt.Errorf("encode an audit line: %w", err)
	}
	text, mac, err = addMAC(m, l.Key, lineLabel, prev, body)
	if err != nil {
		return nil, "", err
	}
	return append(text, '\n'), mac, nil
}

// addMAC returns an object with its MAC as the last member.
func addMAC(m MAC, key, label, prev string, object []byte) (text []byte, mac string, err error) {
	before, err := hex.DecodeString(prev)
	if err != nil {
		return nil, "", fmt.Errorf("the MAC of the line before: %w", err)
	}
	body := object[:len(object)-1]
	sum, ok := m.Sum(key, message([]byte(label), before, body))
	if !ok {
		return nil, "", fmt.Errorf("there is no key %s", key)
	}
	mac = hex.EncodeToString(sum[:])
	text = append(bytes.Clone(body), macMember...)
	return append(append(text, mac...), `"}`...), mac, nil
}

// splitMAC takes an object apart into what is authenticated and its MAC.
func splitMAC(text []byte) (object []byte, mac string, ok bool) {
	if len(text) < macTail || len(text) > maxLine {
		return nil, "", false
	}
	body, tail := text[:len(text)-macTail], text[len(text)-macTail:]
	mac = string(tail[len(macMember) : len(macMember)+64])
	if !bytes.HasPrefix(tail, []byte(macMember)) || !bytes.HasSuffix(tail, []byte(`"}`)) || !isSum(mac) {
		return nil, "", false
	}
	return append(bytes.Clone(body), '}'), mac, true
}

// isSum reports whether s is 32 bytes in lower-case hexadecimal.
func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}

// decodeLine reads a line without its newline. It is strict: encode gives back the
// same bytes. It does not check the MAC.
func decodeLine(text []byte) (l line, mac string, err error) {
	object, mac, ok := splitMAC(text)
	if !ok {
		return line{}, "", errNoLine
	}
	if err := json.Unmarshal(object, &l, json.RejectUnknownMembers(true)); err != nil {
		return line{}, "", errNoLine
	}
	if l.Version != lineVersion {
		return line{}, "", fmt.Errorf("has format %d, this version reads %d", l.Version, lineVersion)
	}
	if again, err := json.Marshal(l); err != nil || !bytes.Equal(again, object) || l.Seq == 0 || l.Prev != "" && !isSum(l.Prev) || l.Sum != "" && !isSum(l.Sum) {
		return line{}, "", errNoLine
	}
	return l, mac, nil
}

// authentic reports whether a line's MAC is right after prev. known is false where
// its key is not there.
func authentic(m MAC, l line, mac, prev string) (right, known bool) {
	_, want, err := l.encode(m, prev)
	if err != nil {
		_, known = m.Sum(l.Key, nil)
		return false, known
	}
	return want == mac, true // no need for constant time: both are public
}

// accepts reports whether the line is one with which an operator accepted a break.
func (l line) accepts() bool {
	return l.Kind == Administration && l.Operation == opAccept && l.Break != nil
}

// addLine is the SHA-256 of a sum and of the line after it, with its newline. Both
// sums are in hexadecimal; the one before the first line is empty.
func addLine(sum string, text []byte) string {
	before, _ := hex.DecodeString(sum) // is one of ours, or was checked when it was read
	next := sha256.Sum256(append(before, text...))
	return hex.EncodeToString(next[:])
}

// keyOrder is the ids of keys in the order in which they came into use, separated by
// spaces, the newest last. A key of the keyset that was followed by another one is not
// used any more: whoever has it later cannot make what is new.
type keyOrder string

// maxKeyOrder is how many keys are remembered. Older ones left the keyset long ago.
const maxKeyOrder = 16

// next returns the order with a key that is used now; false: it was followed by
// another, or another is in use and it is not the primary one.
func (k keyOrder) next(key, primary string) (keyOrder, bool) {
	ids := strings.Fields(string(k))
	last := ""
	if len(ids) > 0 {
		last = ids[len(ids)-1]
	}
	switch {
	case key == last:
		return k, true
	case slices.Contains(ids, key) || last == primary:
		return k, false
	}
	ids = append(ids, key)
	return keyOrder(strings.Join(ids[max(0, len(ids)-maxKeyOrder):], " ")), true
}

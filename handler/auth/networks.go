package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	knownFor    = 24 * time.Hour
	maxNetworks = 4096
	// A network's time is changed after this long, so that one that is used all day
	// does not make the file be written each minute.
	knownAgain = 10 * time.Minute
)

// Networks are the networks that a right password came from in the last 24 hours.
// Their password checks go before those of others. It is safe for concurrent use.
type Networks struct {
	code func(network []byte) [sha256.Size]byte
	now  func() time.Time

	mu      sync.Mutex
	last    map[networkCode]time.Time // when the last right password came from there
	changed bool                      // since it was saved
}

// networkCode stands for a network, so that the file does not tell who uses the service.
type networkCode [16]byte

// savedNetworks is the format of the file.
type savedNetworks struct {
	Format   int              `json:"format"`
	Networks map[string]int64 `json:"networks"` // code in hexadecimal → seconds since 1970
}

// NewNetworks makes an empty table. Codes come from a keyed hash: without its key nobody
// can try addresses on the file. When the key changes, all networks are new again.
func NewNetworks(code func(network []byte) [sha256.Size]byte, now func() time.Time) *Networks {
	return &Networks{code: code, now: now, last: map[networkCode]time.Time{}}
}

// Load adds what Save wrote.
func (n *Networks) Load(text []byte) error {
	var saved savedNetworks
	if err := json.Unmarshal(text, &saved, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	if saved.Format != 1 {
		return fmt.Errorf("format %d is not known here", saved.Format)
	}
	if len(saved.Networks) > maxNetworks {
		return fmt.Errorf("there are more than %d networks", maxNetworks)
	}
	now := n.now()
	last := map[networkCode]time.Time{}
	for text, seconds := range saved.Networks {
		var code networkCode
		if size, err := hex.Decode(code[:], []byte(text[:min(len(text), 2*len(code))])); err != nil || size != len(code) || len(text) != 2*len(code) {
			return errors.New("a code is not 32 hexadecimal digits")
		}
		at := time.Unix(seconds, 0)
		if at.After(now) { // the clock was wrong then, or is now
			at = now
		}
		if now.Sub(at) < knownFor {
			last[code] = at
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = last
	return nil
}

// Save calls write with what there is now, where that is not yet saved.
func (n *Networks) Save(write func(text []byte) error) error {
	text, err := n.snapshot()
	if err == nil && text != nil {
		err = write(text)
	}
	if err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.changed = true
	}
	return err
}

// snapshot returns nil where nothing has changed.
func (n *Networks) snapshot() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.changed {
		return nil, nil
	}
	n.changed = false
	saved := savedNetworks{Format: 1, Networks: map[string]int64{}}
	for code, at := range n.last {
		if n.now().Sub(at) < knownFor {
			saved.Networks[hex.EncodeToString(code[:])] = at.Unix()
		}
	}
	return json.Marshal(saved, json.Deterministic(true))
}

// known reports whether a right password came from the network.
func (n *Networks) known(network netip.Prefix) bool {
	code := n.codeOf(network)
	n.mu.Lock()
	defer n.mu.Unlock()
	at, found := n.last[code]
	return found && n.now().Sub(at) < knownFor
}

// note makes a network known. A full table forgets the one that was used least recently.
func (n *Networks) note(network netip.Prefix) {
	code, now := n.codeOf(network), n.now()
	n.mu.Lock()
	defer n.mu.Unlock()
	at, found := n.last[code]
	if found && now.Sub(at) < knownAgain {
		return
	}
	if !found && len(n.last) >= maxNetworks {
		oldest, oldestAt := code, now
		for other, at := range n.last {
			if !at.After(oldestAt) {
				oldest, oldestAt = other, at
			}
		}
		delete(n.last, oldest)
	}
	n.last[code] = now
	n.changed = true
}

func (n *Networks) codeOf(network netip.Prefix) networkCode {
	sum := n.code([]byte(network.String()))
	return networkCode(sum[:len(networkCode{})])
}

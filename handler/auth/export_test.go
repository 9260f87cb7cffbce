package auth

import "attestcsr/handler/origin"

// ParseBasic is the parser of the Authorization header, for its fuzz target.
var ParseBasic = parseBasic

// The bounds that tests run into.
const (
	MaxSources  = maxSources
	MaxOthers   = maxOthers
	MaxKnown    = maxKnown
	MaxNetworks = maxNetworks
	KnownFor    = knownFor
	TurnWait    = turnWait
)

// Compare replaces bcrypt's comparison, before a's first use.
func (a *Authenticator) Compare(compare func(hash, password []byte) error) {
	a.passwords.compare = compare
}

// Bcrypt is the comparison that a uses.
func (a *Authenticator) Bcrypt() func(hash, password []byte) error { return a.passwords.compare }

// Sources is how many sources failures are counted for.
func (a *Authenticator) Sources() int {
	a.passwords.throttle.mu.Lock()
	defer a.passwords.throttle.mu.Unlock()
	return len(a.passwords.throttle.sources)
}

// Sessions is how many sessions there are, ended ones too.
func (a *Authenticator) Sessions() int {
	a.sessions.mu.Lock()
	defer a.sessions.mu.Unlock()
	return len(a.sessions.byKey)
}

// SessionDigests returns what the session store keeps instead of ids and tokens.
func (a *Authenticator) SessionDigests() (digests [][32]byte) {
	a.sessions.mu.Lock()
	defer a.sessions.mu.Unlock()
	for key, one := range a.sessions.byKey {
		digests = append(digests, key, one.xsrf)
	}
	return digests
}

// Known reports whether password checks from the address go first.
func (n *Networks) Known(address string) bool { return n.known(origin.NetworkOf(address)) }

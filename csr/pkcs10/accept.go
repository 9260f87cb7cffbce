package pkcs10

import "time"

// Criteria are what a certificate chain is held to.
type Criteria struct {
	Now time.Time
	Use Use // what the leaf is for
	// DER takes a chain in DER beside PEM.
	DER bool
	// Anchors, where there are any, are what the chain has to lead to.
	Anchors *Anchors
}

// Use is what the leaf of a chain is for.
type Use int

// The uses.
const (
	Signing   Use = iota // no CA; digitalSignature among its key usages, if it has any
	EndEntity            // no CA
	Authority            // a CA: cA TRUE, and keyCertSign
)

// Accepted is a chain that was accepted.
type Accepted struct {
	Chain Chain // as it was sent, without duplicates; PKCS#7 in order
	// Beyond is what the path to an anchor needed beside Chain, the anchor last. It is
	// empty without anchors, and where Chain holds the anchor.
	Beyond Chain
	// Anchored: the chain was checked against an anchor.
	Anchored bool
}

// Accept reads a chain and checks everything about it but whether it is what was asked
// for: the caller compares key and names. The caller bounds the size of the text. It
// returns every rule that is broken, or the chain.
func Accept(text []byte, c Criteria) (Accepted, Violations) {
	chain, broken := ReadChain(text, c.DER)
	if len(broken) > 0 {
		return Accepted{}, broken
	}
	return c.judge(chain)
}

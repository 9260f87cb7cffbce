package csr

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/keystore"
)

// NameRule says what is done with a certificate whose subject or alternative names are
// not those that its CSR asked for.
type NameRule string

// The rules.
const (
	NamesStrict NameRule = "strict" // it is refused
	NamesWarn   NameRule = "warn"   // it is accepted with a warning
	NamesAny    NameRule = "any"    // the names are not compared
)

// verdict is what is decided about a certificate, before anything is stored. A dry run
// ends here.
type verdict struct {
	accepted pkcs10.Accepted // its Chain also where rules are broken; nil if it cannot be read
	digest   string          // of the leaf's key; empty for a kind of key that none of ours is of
	key      Key
	held     payload   // of the slot with that key
	revision uint64    // of that slot
	due      time.Time // when it becomes active; a time that has passed, or zero: at once
	// unchanged: the slot holds this very chain.
	unchanged bool

	made   []pkcs10.Check
	broken pkcs10.Violations
	notes  []note
}

// note is what is said about a check beside the rules that are broken.
type note struct {
	check pkcs10.Check
	text  string
	warns bool // the trail, the log and a metric have it
}

// judge makes the checks that need nothing that is stored.
func (s *Service) judge(text []byte, c pkcs10.Criteria) verdict {
	c.Now, c.Anchors = s.now(), s.anchors()
	v := verdict{made: []pkcs10.Check{pkcs10.CheckEncoding}}
	v.accepted, v.broken = pkcs10.Accept(text, c)
	if v.accepted.Chain == nil {
		return v
	}
	failed := func(checks ...pkcs10.Check) bool {
		return slices.ContainsFunc(v.broken, func(b pkcs10.Violation) bool { return slices.Contains(checks, b.Check()) })
	}
	v.made = append(v.made, pkcs10.CheckAlgorithms, pkcs10.CheckValidity, pkcs10.CheckUse)
	if !failed(pkcs10.CheckAlgorithms) {
		v.made = append(v.made, pkcs10.CheckOrder)
	}
	switch {
	case c.Anchors == nil:
		v.note(pkcs10.CheckAnchor, notAnchored)
	case len(v.broken) == 0:
		v.made = append(v.made, pkcs10.CheckAnchor)
	}
	v.digest, _ = pkcs10.KeyDigest(v.accepted.Chain.Leaf().PublicKey)
	return v
}

// hasLeaf reports whether the first certificate is the one that is asked for. In a chain
// in the wrong order it is not, and its key says nothing.
func (v *verdict) hasLeaf() bool {
	wrongOrder := func(b pkcs10.Violation) bool { return b.Rule == pkcs10.WrongOrder }
	return v.accepted.Chain != nil && !slices.ContainsFunc(v.broken, wrongOrder)
}

// notAnchored is also in the log.
const notAnchored = "not checked against an anchor"

func (v *verdict) note(check pkcs10.Check, text string) {
	v.notes = append(v.notes, note{check: check, text: text})
}

func (v *verdict) warn(check pkcs10.Check, text string) {
	v.notes = append(v.notes, note{check, text, true})
}

// refuse adds a rule that the leaf breaks.
func (v *verdict) refuse(rule pkcs10.Rule, why string) {
	leaf := v.accepted.Chain.Leaf()
	v.broken.Add(pkcs10.Violation{Field: pkcs10.CertificateChain, Rule: rule, Place: 1, Value: pkcs10.DistinguishedName(leaf.RawSubject), Limit: why})
}

// answers records whose key the certificate is for, and compares it with what the CSR
// of that key asked for.
func (v *verdict) answers(key Key, held payload, rule NameRule) {
	v.key, v.held = key, held
	v.unchanged = held.PEM == v.accepted.Chain.PEM()
	if rule == NamesAny {
		v.note(pkcs10.CheckNames, "names are not compared, as the settings say")
		return
	}
	v.made = append(v.made, pkcs10.CheckNames)
	for _, difference := range pkcs10.Compare(held.Spec, v.accepted.Chain.Leaf()) {
		if rule == NamesStrict {
			v.refuse(pkcs10.NamesDiffer, difference)
		} else {
			v.warn(pkcs10.CheckNames, difference)
		}
	}
}

// renews compares the certificate with the one that it renews.
func (v *verdict) renews() {
	var before time.Time
	if facts := v.held.facts(); facts != nil {
		before = facts[0].NotAfter
	}
	after := v.accepted.Chain.Leaf().NotAfter
	if before.IsZero() {
		v.note(pkcs10.CheckRenewal, "the installed certificate cannot be read")
		return
	}
	v.made = append(v.made, pkcs10.CheckRenewal)
	if after.Before(before) {
		v.warn(pkcs10.CheckRenewal, fmt.Sprintf("it ends at %s, before the certificate that it renews, which ends at %s", rfc3339(after), rfc3339(before)))
	}
}

// otherKey says which CSR of the attestation key a certificate does not answer. nil: no
// CSR is pending.
func otherKey(digest string, pending *payload) string {
	switch {
	case pending == nil:
		return "there is no pending CSR, and the installed key is another one"
	case digest != "" && digest == pending.Replaced:
		return "it answers the CSR that was replaced at " + rfc3339(pending.Created)
	}
	sum, _ := pkcs10.Digest(pending.PEM)
	return fmt.Sprintf("it answers neither the pending CSR (made at %s, SHA-256 %s) nor the installed key", rfc3339(pending.Created), sum)
}

// otherKeyThan is otherKey for a named CSR.
func otherKeyThan(id string) string { return "it is for another key than CSR " + strconv.Quote(id) }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// warnings are the sentences for the trail.
func (v verdict) warnings() (texts []string) {
	for _, n := range v.notes {
		if n.warns {
			texts = append(texts, n.text)
		}
	}
	return texts
}

// certificate is what is stored of the chain.
func (v verdict) certificate() (payload, error) {
	p, err := newCertificate(v.accepted.Chain, v.held.Spec)
	p.Beyond, p.Anchored = v.accepted.Beyond.PEM(), v.accepted.Anchored
	return p, err
}

// isFor fails unless the key is the one that the digest of the slot says.
func (v verdict) isFor(key crypto.Signer) error {
	digest, err := pkcs10.KeyDigest(key.Public())
	if err == nil && digest != v.digest {
		err = errors.New("the stored CSR is not for the stored key")
	}
	return err
}

// logAccepted says in log and metrics what was accepted, and with which warnings.
func (g *Grant) logAccepted(ctx context.Context, slot keystore.Slot, v verdict) {
	level, anchor := slog.LevelInfo, notAnchored
	if path := slices.Concat(v.accepted.Chain, v.accepted.Beyond); v.accepted.Anchored {
		anchor = path[len(path)-1].Subject.String()
	}
	attrs := []slog.Attr{
		slog.String("request_id", g.caller.RequestID), slog.String("slot", slot.String()),
		slog.String("sha256", pkcs10.FactsOf(v.accepted.Chain.Leaf()).SHA256), slog.String("anchor", anchor),
	}
	if slot == stagedSlot() {
		attrs = append(attrs, slog.String("active", rfc3339(v.due)))
	}
	if texts := v.warnings(); texts != nil {
		level, attrs = slog.LevelWarn, append(attrs, slog.Any("warnings", texts))
	}
	for _, n := range v.notes {
		if n.warns {
			g.service.warnings.WithLabelValues(string(n.check)).Inc()
		}
	}
	g.service.log.LogAttrs(ctx, level, "certificate accepted", attrs...)
}

// Report says what a set of a certificate would do. Nothing was changed for it.
type Report struct {
	Accepted     bool           // a set would succeed
	Key          Key            // whose key the certificate is for
	Checks       []CheckResult  // of all checks, in the order of pkcs10.Checks
	Certificates []pkcs10.Facts // the chain as it would be stored; none if it cannot be read
	Anchored     bool           // a path leads to a trust anchor
	Due          time.Time      // when it would become active; zero: at once
	Staged       *Staged        // what is staged now; nil: nothing
	Unchanged    bool           // the same chain is installed already: a set would change nothing
}

// Key says which key a certificate is for.
type Key string

// The keys.
const (
	NoKey        Key = ""          // none that it could be set for
	PendingKey   Key = "pending"   // that of the CSR
	StagedKey    Key = "staged"    // that of the staged certificate, which it would replace
	InstalledKey Key = "installed" // that of the installed certificate, which it would renew
)

func (k Key) slot() keystore.Slot {
	switch k {
	case PendingKey:
		return pendingSlot()
	case StagedKey:
		return stagedSlot()
	}
	return installedSlot()
}

// CheckResult is the answer of one check.
type CheckResult struct {
	Check      pkcs10.Check
	Result     Result
	Violations []pkcs10.Violation // with CheckFailed: the rules that are broken
	Notes      []string           // with CheckWarns and CheckNotMade: sentences that say why
}

// Result is how a check ended. The names are part of the API of the console.
type Result string

// The results.
const (
	CheckPassed  Result = "passed"
	CheckFailed  Result = "failed"
	CheckWarns   Result = "warning"  // the certificate is accepted all the same
	CheckNotMade Result = "not_made" // it does not apply, or another check failed before
)

// report writes down a verdict.
func (v verdict) report() Report {
	r := Report{Accepted: len(v.broken) == 0, Key: v.key, Certificates: factsOf(v.accepted.Chain), Anchored: v.accepted.Anchored, Due: v.due, Unchanged: v.unchanged}
	for _, check := range pkcs10.Checks() {
		c := CheckResult{Check: check, Result: CheckNotMade}
		if slices.Contains(v.made, check) {
			c.Result = CheckPassed
		}
		for _, n := range v.notes {
			if n.check == check {
				c.Notes = append(c.Notes, n.text)
				if n.warns {
					c.Result = CheckWarns
				}
			}
		}
		for _, broken := range v.broken {
			if broken.Check() == check {
				c.Result, c.Violations = CheckFailed, append(c.Violations, broken)
			}
		}
		r.Checks = append(r.Checks, c)
	}
	return r
}

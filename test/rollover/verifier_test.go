package rollover_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"attestcsr/test/start"
)

const (
	keySetPath = "/.well-known/jwks.json"

	// underWay is how long an answer with the keys may take before its age counts.
	underWay = time.Second
	// lifetime of a token. The keys that were replaced are published for longer.
	lifetime = 15 * time.Second
	retain   = lifetime + 5*time.Second
)

// keySet is what a verifier holds from the moment it has it until it has to ask again:
// a cache that asks no earlier (RFC 9111 section 4.2).
type keySet struct {
	jose.JSONWebKeySet
	arrived, expires time.Time
}

// token is a JWS in compact form. Verifiers may meet it from when it was answered until
// its lifetime ends.
type token struct {
	compact, keyID string
	answered       time.Time
}

// verifiers are all that ever read the keys: one that asked at each moment at which the
// keys were read. Each set is held against each token that a verifier may meet while it
// has that set.
type verifiers struct {
	mu      sync.Mutex
	sets    []keySet
	tokens  []token
	pairs   int
	unknown []string
}

var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256}

// addToken verifies the signature once, and looks for its key in every set.
func (v *verifiers) addToken(t token) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	signed, err := jose.ParseSignedCompact(t.compact, algorithms)
	if err != nil {
		return err
	}
	if len(v.sets) == 0 {
		return errors.New("the keys were never read")
	}
	for _, set := range v.sets {
		v.hold(set, t)
	}
	newest := v.sets[len(v.sets)-1]
	if _, err := signed.Verify(newest.JSONWebKeySet); err != nil {
		return fmt.Errorf("key %s: %w", t.keyID, err)
	}
	v.tokens = append(v.tokens, t)
	return nil
}

func (v *verifiers) addSet(set keySet) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.tokens {
		v.hold(set, t)
	}
	v.sets = append(v.sets, set)
	// A token is added a little after it was answered.
	old := set.arrived.Add(-10 * time.Second)
	v.sets = slices.DeleteFunc(v.sets, func(s keySet) bool { return s.expires.Before(old) })
	v.tokens = slices.DeleteFunc(v.tokens, func(t token) bool { return t.answered.Add(lifetime).Before(old) })
}

func (v *verifiers) hold(set keySet, t token) {
	if !set.expires.After(t.answered) || set.arrived.After(t.answered.Add(lifetime)) {
		return
	}
	v.pairs++
	if len(set.Key(t.keyID)) == 0 && len(v.unknown) < 10 {
		v.unknown = append(v.unknown, fmt.Sprintf("a token of %s has the key %s, and the keys read at %s, kept until %s, do not",
			t.answered.Format(time.StampMicro), t.keyID, set.arrived.Format(time.StampMicro), set.expires.Format(time.StampMicro)))
	}
}

// readKeys asks for the keys. A service that is just not there is no error.
func (v *verifiers) readKeys(s *start.Instance) error {
	asked := time.Now()
	a, err := s.Do(http.MethodGet, keySetPath, "", start.Anonymous)
	if err != nil || a.Status == http.StatusServiceUnavailable {
		return nil //nolint:nilerr // it is being restarted
	}
	arrived := time.Now()
	seconds, is := strings.CutPrefix(a.Header.Get("Cache-Control"), "public, max-age=")
	age, err := strconv.Atoi(seconds)
	if a.Status != http.StatusOK || !is || err != nil {
		return fmt.Errorf("the keys: %d %q %s", a.Status, a.Header.Get("Cache-Control"), a.Body)
	}
	set := keySet{arrived: arrived}
	if err := json.Unmarshal([]byte(a.Body), &set.JSONWebKeySet); err != nil {
		return fmt.Errorf("the keys: %w: %s", err, a.Body)
	}
	if late := asked.Add(underWay); late.Before(arrived) {
		arrived = late
	}
	set.expires = arrived.Add(time.Duration(age) * time.Second)
	v.addSet(set)
	return nil
}

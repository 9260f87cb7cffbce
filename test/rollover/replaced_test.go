package rollover_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestSignWhileReplaced: a signature that is made while the pair is replaced is that of
// the version that its answer names.
func TestSignWhileReplaced(t *testing.T) {
	t.Parallel()
	const replacements = 10
	w := newWorld(t, 0, time.Hour)
	s := w.service.Load()
	var (
		ended   atomic.Bool
		signers sync.WaitGroup
		mu      sync.Mutex
		made    = map[string]signature{} // by what was signed
	)
	for k := range 4 {
		signers.Go(func() {
			var c signer
			for n := 0; !ended.Load(); n++ {
				input := fmt.Sprint(k, n)
				signed, err := c.sign(s, "attestation", input, nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				made[input] = signed
				mu.Unlock()
			}
		})
	}
	for range replacements {
		w.create()
		w.set(w.pending)
	}
	ended.Store(true)
	signers.Wait()
	versions := verifySignatures(t, s, made)
	if len(versions) < replacements/2 || versions[0] > 0 {
		t.Errorf("signatures of the versions %v", versions)
	}
	kit.Count(t, "signatures while the pair is replaced", len(made))
}

// verifySignatures verifies each signature here and one of each version at the service,
// and counts them.
func verifySignatures(t *testing.T, s *start.Instance, made map[string]signature) map[int]int {
	t.Helper()
	var c signer
	key, err := c.key(s, "attestation")
	if err != nil {
		t.Fatal(err)
	}
	versions := map[int]int{}
	for input, signed := range made {
		public, err := key.version(signed.version)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte(input))
		bytes, err := base64.StdEncoding.DecodeString(signed.encoded)
		if err == nil {
			err = rsa.VerifyPSS(public.(*rsa.PublicKey), crypto.SHA256, digest[:], bytes, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		if err != nil {
			t.Errorf("a signature of version %d: %v", signed.version, err)
		}
		if versions[signed.version]++; versions[signed.version] > 1 {
			continue
		}
		var answer struct{ Data struct{ Valid bool } }
		body := map[string]string{"input": base64.StdEncoding.EncodeToString([]byte(input)), "signature": signed.text}
		if err := c.do(s, "POST", "transit/verify/attestation/sha2-256", kit.JSON(body), &answer); err != nil || !answer.Data.Valid {
			t.Errorf("the service on a signature of version %d: %v %+v", signed.version, err, answer)
		}
	}
	return versions
}

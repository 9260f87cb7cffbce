package handler_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/test/kit"
)

// firstSeed differs between runs, and stands in each failure.
func firstSeed() uint64 { return uint64(time.Now().UnixNano()) }

func handingIn(c keystore.Custodian) keystore.Custodian { return keystoretest.NewHandedIn(c) }

// Generated specs of both dialects are refused exactly where they break a rule,
// and what is accepted says what was asked for.
func TestGeneratedSpecs(t *testing.T) {
	t.Parallel()
	s := newStackOver(t, handingIn)
	seed, refused, accepted := firstSeed(), 0, 0
	for n := range uint64(kit.Effort(200, 10_000)) {
		spec := newGenerator(seed, n).spec()
		a := spec.send(s, fmt.Sprint(n))
		if err := spec.judgeAnswer(t, a, &refused, &accepted); err != nil {
			t.Errorf("newGenerator(%d, %d).spec(): %v\nof %s", seed, n, err, spec.body)
		}
	}
	kit.Count(t, "specs refused", refused)
	kit.Count(t, "specs accepted", accepted)
}

func (s generated) judgeAnswer(t testing.TB, a answer, refused, accepted *int) error {
	if s.malformed || len(s.refused) > 0 || len(s.body) > 64<<10 {
		*refused++
		return s.judgeRefusal(t, a)
	}
	*accepted++
	if a.status != http.StatusCreated {
		return fmt.Errorf("%d %s", a.status, a.body)
	}
	text, err := s.pem(a)
	if err != nil {
		return err
	}
	_, err = s.want.judge(text)
	return err
}

package handler_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"attestcsr/test/kit"
)

// Generated specs of both dialects are refused exactly where they break a rule,
// and what is accepted says what was asked for.
func TestGeneratedSpecs(t *testing.T) {
	t.Parallel()
	accepted, refused := judgeGenerated(t, newStack(t), kit.Effort(200, 10_000), func(_ uint64, s generated, a answer) error {
		_, _, err := s.judgeAnswer(a)
		return err
	})
	kit.Count(t, "specs refused", refused)
	kit.Count(t, "specs accepted", accepted)
}

// judgeGenerated sends n generated specs. judge says what is wrong with an answer of 201;
// refusals are judged here. Each failure names the seed, which differs between runs.
func judgeGenerated(t *testing.T, s *stack, n int, judge func(n uint64, s generated, a answer) error) (accepted, refused int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	var made, denied atomic.Int64
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := next.Add(1); i <= uint64(n); i = next.Add(1) {
				spec := newGenerator(seed, i).spec()
				a := s.serve(spec.call(fmt.Sprint(i)))
				var err error
				if a.status == http.StatusCreated && spec.isRight() {
					made.Add(1)
					err = judge(i, spec, a)
				} else { // also where it should have been accepted: no field may be named
					denied.Add(1)
					err = spec.judgeRefusal(t, a)
				}
				if err != nil {
					t.Errorf("newGenerator(%d, %d).spec(): %v\nof %s", seed, i, err, spec.body)
				}
			}
		})
	}
	workers.Wait()
	return int(made.Load()), int(denied.Load())
}

func (s generated) isRight() bool {
	return s.notJSON == "" && len(s.refused) == 0 && len(s.body) <= 64<<10
}

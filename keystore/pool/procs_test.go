package pool_test

import (
	"os"
	"runtime"
	"strconv"
	"testing"

	"attestcsr/keystore/pool"
	"attestcsr/test/kit"
)

// What GOMAXPROCS is while keys are made, and when none was made for a while. Not
// parallel: it belongs to the process.
func TestGOMAXPROCS(t *testing.T) {
	if _, set := os.LookupEnv("GOMAXPROCS"); set {
		t.Setenv("GOMAXPROCS", "")
	}
	runtime.SetDefaultGOMAXPROCS()
	before := runtime.GOMAXPROCS(0)
	one := map[int]int{2048: 1}
	for _, c := range []struct {
		name string
		o    pool.Options
		want int // while a key is made
	}{
		{"with 3 workers", pool.Options{Targets: one, Workers: 3}, before + 3 + 1},
		{"with processors given", pool.Options{Targets: one, Workers: 1, Processors: 5}, before + 1 + 5},
		{"without a pool", pool.Options{}, before + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			runtime.GOMAXPROCS(1) // the pool counts one, and finds the runtime's own value again
			whileMaking(t, c.o, c.want)
			kit.Eventually(t, "GOMAXPROCS as before", func() bool { return runtime.GOMAXPROCS(0) == before })
		})
	}
	t.Run("set in the environment", func(t *testing.T) {
		t.Setenv("GOMAXPROCS", strconv.Itoa(before))
		whileMaking(t, pool.Options{Targets: one, Workers: 3}, before)
	})
}

// whileMaking wants GOMAXPROCS to have that value while a key is made: for the target
// or else for a caller. The pool stays open until the test ends.
func whileMaking(t *testing.T, o pool.Options, want int) {
	t.Helper()
	gate := newGated()
	o.Custodian = gate
	f := open(t, o)
	answered := make(<-chan struct{})
	if len(o.Targets) == 0 {
		answered = f.ask(t.Context(), t, 2048, nil)
	}
	key := gate.next(t, 2048)
	if got := runtime.GOMAXPROCS(0); got != want {
		t.Errorf("while a key is made it is %d, want %d", got, want)
	}
	key.finish <- nil
	if len(o.Targets) == 0 {
		wantAnswer(t, answered)
	}
	f.mustWarm(t)
}

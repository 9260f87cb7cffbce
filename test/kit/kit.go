// Package kit is what tests share: waiting, files, counts of what was done, and how
// much effort a run is to make.
package kit

import (
	"testing"
	"time"
)

// Eventually waits up to a minute for a condition, and fails the test without it.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for range 3000 {
		if condition() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("never: %s", what)
}

package kit

import (
	"fmt"
	"os"
	"testing"
)

// countsVariable names the file that Count appends to.
const countsVariable = "TEST_COUNTS_FILE"

// Effort returns how often a test is to try something: short, or long in a test
// binary that was built with the tag soak.
func Effort(short, long int) int {
	if soak {
		return long
	}
	return short
}

// Count says how often a test did what it is there for: kills, faults that fired,
// inputs tried. Never is a failure: a test whose fault did not come to pass has
// shown nothing. `make test` prints the counts of all tests.
func Count(t testing.TB, what string, n int) {
	t.Helper()
	t.Logf("count: %d %s", n, what)
	if n <= 0 {
		t.Errorf("this test is to report %s, and there were none", what)
	}
	name := os.Getenv(countsVariable)
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	// One write, so that test binaries that run side by side do not mix lines.
	_, err = fmt.Fprintf(f, "%d\t%s\t%s\n", n, what, t.Name())
	if closeErr := f.Close(); err != nil || closeErr != nil {
		t.Fatal(err, closeErr)
	}
}

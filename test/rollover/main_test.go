// Package rollover replaces the key that signs, again and again, while tokens are signed
// with it and verifiers read the published keys no more often than they must.
package rollover_test

import (
	"testing"

	"attestcsr/test/start"
)

func TestMain(m *testing.M) { start.Main(m) }

package server

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestTake: who comes second is told what the first does, and has the keyset after it.
func TestTake(t *testing.T) {
	t.Parallel()
	var s sealing
	release, err := s.take(t.Context(), "the first does something")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(t.Context(), "second"); err == nil || !strings.HasPrefix(err.Error(), "the first does something: run this command again") {
		t.Errorf("second: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.take(ended, "third"); !errors.Is(err, context.Canceled) {
		t.Errorf("third: %v", err)
	}
	release()
	if release, err = s.take(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
	release()
}

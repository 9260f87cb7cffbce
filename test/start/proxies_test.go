package start_test

import (
	"testing"

	"attestcsr/test/start"
)

// TestWideProxies: the start warns of a network of proxies whose members may well be
// others.
func TestWideProxies(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Settings: "trusted_proxies: [10.0.0.0/8]\n"})
	s.WantLog("any member of that network can name any client")
}

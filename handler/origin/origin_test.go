package origin_test

import (
	"testing"

	"attestcsr/handler/origin"
)

func TestNetworkOf(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"fe80::1%eth0", "fe80::1%eth1", true},
		{"", "@", true},
		{"unix", "192.0.2.1", false},
	} {
		if same := origin.NetworkOf(tt.a) == origin.NetworkOf(tt.b); same != tt.same {
			t.Errorf("%q and %q: same %t, want %t", tt.a, tt.b, same, tt.same)
		}
	}
}

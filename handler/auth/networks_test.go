package auth_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"attestcsr/handler/auth"
	"attestcsr/test/kit"
)

// saved is what Save writes, or nothing.
func saved(t *testing.T, n *auth.Networks) (text string) {
	t.Helper()
	if err := n.Save(func(b []byte) error { text = string(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return text
}

// loggedInFrom makes networks known by right passwords from addresses.
func loggedInFrom(t *testing.T, clock *kit.Clock, networks *auth.Networks, addresses ...string) {
	t.Helper()
	a := newAuth(auth.Config{Users: usersOf(t, "amy", "secret"), Networks: networks, Now: clock.Now, RememberFor: time.Nanosecond})
	a.Compare(plainly)
	for _, address := range addresses {
		clock.Advance(time.Second)
		if err := try(a, "amy", "secret", address); err != nil {
			t.Fatal(err)
		}
		_ = try(a, "amy", "wrong", "203.0.113.9") // makes nothing known
	}
}

// Networks outlive a restart for a day, and their file does not say where they are.
func TestNetworks(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	first := newNetworks(clock.Now)
	if text := saved(t, first); text != "" {
		t.Errorf("there is nothing to save, and %s is saved", text)
	}
	loggedInFrom(t, clock, first, here, "2001:db8:1:2::1", "2001:db8:1:2::2")
	text := saved(t, first)
	if !regexp.MustCompile(`^\{"format":1,"networks":\{"[0-9a-f]{32}":\d+,"[0-9a-f]{32}":\d+\}\}$`).MatchString(text) {
		t.Errorf("saved %s", text)
	}
	if again := saved(t, first); again != "" {
		t.Errorf("nothing has changed, and %s is saved", again)
	}
	if err := first.Save(func([]byte) error { return errors.New("disk full") }); err != nil {
		t.Errorf("nothing was to be written: %v", err)
	}
	loggedInFrom(t, clock, first, elsewhere)
	if err := first.Save(func([]byte) error { return errors.New("disk full") }); err == nil {
		t.Error("a failed write is no error")
	}
	text = saved(t, first)
	if text == "" {
		t.Error("what could not be written is not tried again")
	}

	second := newNetworks(clock.Now)
	if err := second.Load([]byte(text)); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{here: true, elsewhere: true, "2001:db8:1:2::ffff": true, "2001:db8:1:3::1": false, "203.0.113.9": false} {
		if got := second.Known(address); got != want {
			t.Errorf("%s known: %t", address, got)
		}
	}
	otherKey := auth.NewNetworks(func(b []byte) [sha256.Size]byte { return sha256.Sum256(append(b, 1)) }, clock.Now)
	if err := otherKey.Load([]byte(text)); err != nil || otherKey.Known(here) {
		t.Errorf("known under another key, %v", err)
	}
	clock.Advance(auth.KnownFor - 3*time.Second)
	if second.Known(here) || !second.Known(elsewhere) {
		t.Error("a day is not a day")
	}
	loggedInFrom(t, clock, second, here)
	if !second.Known(here) {
		t.Error("not known again")
	}
}

// Nobody fills the table: the network that was used least recently goes.
func TestNetworksAreBounded(t *testing.T) {
	t.Parallel()
	clock := kit.NewClock()
	networks := newNetworks(clock.Now)
	address := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&0xff, i&0xff) }
	var lines []string
	begun := clock.Now()
	for i := range auth.MaxNetworks {
		code := sha256.Sum256([]byte(address(i) + "/32"))
		lines = append(lines, fmt.Sprintf(`"%x":%d`, code[:16], begun.Unix()+int64(i)))
	}
	clock.Advance(auth.MaxNetworks * time.Second)
	if err := networks.Load([]byte(`{"format":1,"networks":{` + strings.Join(lines, ",") + `}}`)); err != nil {
		t.Fatal(err)
	}
	const more = 10
	for i := range more {
		loggedInFrom(t, clock, networks, address(auth.MaxNetworks+i))
	}
	for i, want := range map[int]bool{0: false, more - 1: false, more: true, auth.MaxNetworks - 1: true, auth.MaxNetworks: true, auth.MaxNetworks + more - 1: true} {
		if networks.Known(address(i)) != want {
			t.Errorf("network %d is known: %t", i, !want)
		}
	}
	if n := strings.Count(saved(t, networks), ":") - 2; n != auth.MaxNetworks {
		t.Errorf("%d networks are saved", n)
	}
	lines = append(lines, `"`+strings.Repeat("0a", 16)+`":1`)
	if err := networks.Load([]byte(`{"format":1,"networks":{` + strings.Join(lines, ",") + `}}`)); err == nil {
		t.Error("too many were loaded")
	}
}

func TestDamagedNetworks(t *testing.T) {
	t.Parallel()
	code := strings.Repeat("0a", 16)
	for name, text := range map[string]string{
		"nothing":        "",
		"cut":            `{"format":1,"networks":{"` + code,
		"other format":   `{"format":2,"networks":{}}`,
		"no format":      `{"networks":{}}`,
		"more members":   `{"format":1,"networks":{},"key":""}`,
		"short code":     `{"format":1,"networks":{"0a":1}}`,
		"long code":      `{"format":1,"networks":{"` + code + `0a":1}}`,
		"no hexadecimal": `{"format":1,"networks":{"` + strings.Repeat("zz", 16) + `":1}}`,
		"time is text":   `{"format":1,"networks":{"` + code + `":"now"}}`,
	} {
		if err := newNetworks(time.Now).Load([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	// A time in the future is taken for now, and not for a network that is known for good.
	clock := kit.NewClock()
	networks := auth.NewNetworks(func([]byte) [sha256.Size]byte { return sha256.Sum256(nil) }, clock.Now)
	sum := sha256.Sum256(nil)
	if err := networks.Load(fmt.Appendf(nil, `{"format":1,"networks":{"%x":99999999999}}`, sum[:16])); err != nil || !networks.Known(here) {
		t.Errorf("known %t, %v", networks.Known(here), err)
	}
	clock.Advance(auth.KnownFor)
	if networks.Known(here) {
		t.Error("known for good")
	}
}

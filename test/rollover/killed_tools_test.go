//go:build tools

package rollover_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestKillAtEveryOperationOfASignature ends the service at each operation on its disk
// from when a signature is asked for until its line is written. Only a signature whose
// evidence is there was answered, also where a power cut leaves no more than what was
// flushed.
func TestKillAtEveryOperationOfASignature(t *testing.T) {
	t.Parallel()
	o := start.Options{Binary: start.Binary(t), Config: start.Config(t, "")}
	prepared, err := faultfs.Load(start.Prepare(t, o))
	if err != nil {
		t.Fatal(err)
	}
	var kills, answers int
	for n := 1; ; n++ {
		disk := prepared.Cut(faultfs.Everything())
		answered, killed := signOn(t, disk, o, n)
		if !killed {
			break
		}
		kills++
		if answered {
			answers++
		}
		for state, left := range map[string]*faultfs.Disk{"SIGKILL": disk, "a power cut": disk.Cut(faultfs.Nothing())} {
			again := o
			again.DataDir = filepath.Join(t.TempDir(), "data")
			if err := left.Save(again.DataDir); err != nil {
				t.Fatal(err)
			}
			if _, found := evidence(t, start.Serve(t, again))[digestOf("a token")]; answered && !found {
				t.Errorf("%s at operation %d: a signature without evidence was answered", state, n)
			}
		}
	}
	if answers == 0 || answers == kills {
		t.Errorf("%d kills, %d of them after the answer", kills, answers)
	}
	kit.Count(t, "kills beside a signature", kills)
}

// signOn asks a service on the disk for a signature, and ends it at its nth operation from
// then on, unless it does not come to that.
func signOn(t *testing.T, disk *faultfs.Disk, o start.Options, n int) (answered, killed bool) {
	t.Helper()
	o.DataDir = filepath.Join(t.TempDir(), fmt.Sprint(n))
	if err := os.Mkdir(o.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	mount, err := disk.Mount(o.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	s := start.Serve(t, o)
	defer func() {
		s.Kill()
		if err := mount.Close(); err != nil {
			t.Error(err)
		}
	}()
	var c signer
	if _, err := c.key(s, "attestation"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // the line of the login is written
	disk.Arm(faultfs.Kill, n, faultfs.Nothing(), func() { _ = s.Cmd.Process.Kill() })
	_, err = c.sign(s, "attestation", "a token", nil)
	if err != nil && !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	select {
	case <-s.Exited:
	case <-time.After(2 * time.Second): // lines are written after 200 ms
	}
	_, killed = disk.Fired()
	return err == nil, killed
}

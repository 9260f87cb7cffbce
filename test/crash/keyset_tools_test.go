//go:build tools

package crash_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"attestcsr/keystore/sealed"
	"attestcsr/server"
	"attestcsr/test/faultfs"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// newKeysetSetup prepares a disk for a keyset command. For retire an operator has put a
// rotated keyset in place, so that the command has everything to do.
func newKeysetSetup(t *testing.T, verb string) *faultSetup {
	t.Helper()
	st := newFaultSetup(t, scenario{name: "keyset " + verb})
	dir := st.folder(t)
	if err := st.disk.Save(dir); err != nil {
		t.Fatal(err)
	}
	s := st.launch(t, dir)
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	s.Must(201, "POST", start.CSRPath, start.ValidSpec)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if verb == "retire" {
		file := filepath.Join(dir, server.KeysetFile)
		if err := sealed.Rotate(file, file, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	found, err := inspect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	st.stored = found.stored
	if st.disk, err = faultfs.Load(dir); err != nil {
		t.Fatal(err)
	}
	return st
}

// command runs a command on the data_dir of the mount, as run does.
func (r *faultRun) command(args ...string) (out string, killed bool) {
	r.t.Helper()
	return r.run(append(args, "--data-dir", r.dir)...)
}

// run runs a command until it ends, or kill ends it.
func (r *faultRun) run(args ...string) (out string, killed bool) {
	r.t.Helper()
	cmd := exec.Command(r.options.Binary, args...)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.s = &start.Instance{T: r.t, Cmd: cmd}
	r.begun.Do(func() { close(r.started) })
	err := cmd.Wait()
	if killed = cmd.ProcessState.ExitCode() < 0; err != nil && !killed {
		r.t.Errorf("%s: %v %s", r.what, err, text.String())
	}
	if err := r.mount.Close(); err != nil {
		r.t.Fatal(err)
	}
	return text.String(), killed
}

// TestKeysetKilledAtEveryOperation ends keyset rotate and keyset retire at each operation
// on the disk, and cuts the power then. A service starts on what is left with every key,
// and the same command goes on to the end.
func TestKeysetKilledAtEveryOperation(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"rotate", "retire"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			st := newKeysetSetup(t, verb)
			r := st.newRun(t, "without a fault")
			r.command("keyset", verb)
			last := len(r.disk.Operations(faultfs.Kill.Meets()...))
			r.check("without a fault", r.disk, true)
			stride := kit.Effort(3, 1)
			var fired atomic.Int64
			walk(1, last, stride, func(n int) {
				r := st.newRun(t, fmt.Sprintf("killed at operation %d of %d", n, last))
				r.disk.Arm(faultfs.Kill, n, faultfs.Nothing(), r.kill)
				out, killed := r.command("keyset", verb)
				o, met := r.disk.Fired()
				switch {
				case !met && n > last-10:
					return // the trail takes more operations in one run than in another
				case !met || !killed:
					t.Errorf("%s: not killed: %s", r.what, out)
				}
				r.what += " (" + o.String() + ")"
				fired.Add(1)
				r.goesOn("after SIGKILL", r.disk, n%2 == 0)
				r.goesOn("after a power cut that left only what was flushed", r.disk.Cut(faultfs.Nothing()), n%2 == 1)
				r.goesOn(fmt.Sprint("after a power cut, seed ", n), r.disk.Cut(faultfs.Some(uint64(n))), false)
			})
			kit.Count(t, "kills of keyset commands", int(fired.Load()))
		})
	}
}

// goesOn checks what a command has left, and ends what it began.
func (r *faultRun) goesOn(what string, d *faultfs.Disk, restart bool) {
	r.t.Helper()
	r.check(what, d, restart)
	dir := r.folder(r.t)
	if err := d.Save(dir); err != nil {
		r.t.Fatal(err)
	}
	wantRetired(r.t, r.what+": "+what, dir)
	if found, err := inspect(r.t.Context(), dir); err != nil || !r.holds(found.stored) {
		r.t.Errorf("%s: %s: after the retirement stored is %s, acknowledged was %s, %v", r.what, what, found.stored, r.stored, err)
	}
}

package control_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"attestcsr/server/control"
)

// Backup streams as the request says.
func (o operations) Backup(ctx context.Context, ask control.BackupRequest, to io.Writer) (control.BackupReport, error) {
	report := control.BackupReport{Keyset: o.who.Method, Without: []string{"a file, /ä"}}
	for _, what := range ask.Recipients {
		switch what {
		case "fail":
			return control.BackupReport{}, errors.New("the disk is full")
		case "hang":
			o.block <- struct{}{}
			<-ctx.Done()
			return control.BackupReport{}, ctx.Err()
		}
		if _, err := io.WriteString(to, strings.Repeat(what, 20_000)); err != nil {
			return control.BackupReport{}, err
		}
	}
	return report, nil
}

// TestStream: what arrives is whole, or an error says that it is not: before the first
// byte, after some, when the command gives up, and when the service ends.
func TestStream(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, o, log := serve(t, dir)
	client, err := control.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, what ...string) (string, control.BackupReport, error) {
		var got bytes.Buffer
		report, err := client.Backup(ctx, control.BackupRequest{Recipients: what}, &got)
		return got.String(), report, err
	}
	for _, what := range [][]string{{}, {"one"}, {"one", "another"}} {
		want := ""
		for _, text := range what {
			want += strings.Repeat(text, 20_000)
		}
		if got, report, err := ask(t.Context(), what...); err != nil || got != want || report.Keyset != "control" || report.Without[0] != "a file, /ä" {
			t.Errorf("%v: %d bytes, %+v, %v", what, len(got), report, err)
		}
	}
	for _, what := range [][]string{{"fail"}, {"one", "fail"}} {
		if got, _, err := ask(t.Context(), what...); err == nil || err.Error() != "the disk is full" {
			t.Errorf("%v: %d bytes, %v", what, len(got), err)
		}
	}
	if _, err := client.Backup(t.Context(), control.BackupRequest{Recipients: []string{"one"}}, failing{}); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a writer that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-o.block; cancel() }()
	if _, _, err := ask(ctx, "one", "hang"); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	ended := make(chan error)
	go func() {
		_, _, err := ask(t.Context(), "one", "hang")
		ended <- err
	}()
	<-o.block
	stopping, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Stop(stopping); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "cut") && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("the service ended: %v", err)
	}
	if !strings.Contains(log.String(), "operation=backup") {
		t.Errorf("not logged: %s", log)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no room") }

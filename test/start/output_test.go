package start_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestStalledLog: while nobody reads stdout, or stderr, or the pipe that is both,
// requests are answered as before, the trail is written, and SIGTERM ends the service.
func TestStalledLog(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{"stdout", "stderr", "both"} {
		t.Run(stream, func(t *testing.T) {
			t.Parallel()
			text := &kit.Buffer{}
			pipe := start.NewPipe(t, text)
			o := start.Options{Binary: start.Binary(t), Settings: "audit:\n  copy_to_log: true\nshutdown_timeout: 10s\n"}
			if stream != "stderr" {
				o.Stdout = pipe.W
			}
			if stream != "stdout" {
				o.Stderr = pipe.W
			}
			s := start.Launch(t, o)
			if o.Stderr != nil {
				s.Stderr = text
			}
			if err := s.WaitReady(); err != nil {
				t.Fatal(err)
			}
			pipe.Stall()
			rounds := kit.Effort(100, 1000)
			fetchAndCreate(s, rounds)
			kit.Count(t, "rounds while nobody read the log", rounds)
			if stream != "stderr" {
				wantGap(t, s, pipe, text)
			}

			began := time.Now()
			if err := s.Stop(); err != nil {
				t.Errorf("after SIGTERM: %v", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("SIGTERM took %s, more than shutdown_timeout", took)
			}
			must(t, s.DataDir, "audit verify")
		})
	}
}

// wantGap lets the reader go on: it gets whole lines, and one that says how many are
// missing, as the metric does. Then nobody reads again.
func wantGap(t *testing.T, s *start.Instance, pipe *start.Pipe, text *kit.Buffer) {
	t.Helper()
	dropped := s.Metric(`attestcsr_log_lines_dropped_total{stream="stdout"}`)
	if dropped == 0 {
		t.Error("no line was dropped: this is no stall")
	}
	pipe.Resume()
	kit.Eventually(t, "the line of the gap", func() bool { return strings.Contains(text.String(), "log lines are missing here") })
	said := 0
	for line := range strings.Lines(text.String()) {
		var event struct {
			Msg   string
			Lines int
		}
		if strings.HasPrefix(line, "{") {
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatalf("%v: %.300s", err, line)
			}
			said += event.Lines
		}
	}
	if after := s.Metric(`attestcsr_log_lines_dropped_total{stream="stdout"}`); said < dropped || said > after {
		t.Errorf("the log says that %d lines are missing, the metric %d to %d", said, dropped, after)
	}
	s.Must(http.StatusNotFound, "GET", start.CSRPath, "", start.Header("X-Request-ID", "after-the-gap"))
	kit.Eventually(t, "a line after the gap", func() bool { return strings.Contains(text.String(), "after-the-gap") })
	if !strings.Contains(text.String(), `"msg":"audit"`) {
		t.Error("the log has no copy of the trail")
	}
	pipe.Stall()
}

// fetchAndCreate makes rounds of requests, and fails where answers take long.
func fetchAndCreate(s *start.Instance, rounds int) {
	s.T.Helper()
	session := s.LogIn()
	var gets []time.Duration
	for round := range rounds {
		for range 40 {
			began := time.Now()
			s.Must(http.StatusNotFound, "GET", start.CSRPath, "", session, start.Header("X-Request-ID", strings.Repeat("x", 64)))
			gets = append(gets, time.Since(began))
		}
		if round%10 == 0 {
			if err := s.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
				s.T.Fatal(err)
			}
		}
		began := time.Now()
		s.Must(http.StatusCreated, "POST", fmt.Sprintf("%s/r%d?action=create", start.NSXCSRs, round), start.ECSpec("a.example.com"))
		if took := time.Since(began); took > 10*time.Second {
			s.T.Errorf("round %d: a create took %s", round, took)
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			s.Must(http.StatusOK, "GET", path, "", start.Anonymous)
		}
	}
	slices.Sort(gets)
	median := gets[len(gets)/2]
	s.T.Logf("median of %d GET: %s, longest %s", len(gets), median, gets[len(gets)-1])
	if median > 100*time.Millisecond {
		s.T.Errorf("the median of GET is %s", median)
	}
}

// TestLogReaderLeaves: the service outlives the readers of both streams. That stdout
// has none is said once.
func TestLogReaderLeaves(t *testing.T) {
	t.Parallel()
	out, errs := start.NewPipe(t, &kit.Buffer{}), &kit.Buffer{}
	stderr := start.NewPipe(t, errs)
	s := start.Launch(t, start.Options{Binary: start.Binary(t), Stdout: out.W, Stderr: stderr.W})
	s.Stderr = errs
	if err := s.WaitReady(); err != nil {
		t.Fatal(err)
	}
	out.Leave()
	ask := func() {
		t.Helper()
		for range 100 {
			s.Must(http.StatusNotFound, "GET", start.CSRPath, "")
		}
	}
	ask()
	kit.Eventually(t, "a word on stderr", func() bool { return strings.Contains(errs.String(), "stdout cannot be written") })
	time.Sleep(1500 * time.Millisecond) // it is tried again
	ask()
	if n := strings.Count(errs.String(), "cannot be written"); n != 1 {
		t.Errorf("said %d times:\n%s", n, errs)
	}
	stderr.Leave()
	for range 3 {
		if err := s.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		ask()
	}
	if err := s.Cmd.Process.Signal(syscall.SIGPIPE); err != nil {
		t.Fatal(err)
	}
	ask()
	if err := s.Stop(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// TestStartWithoutReader: a service whose streams nobody reads from the beginning
// starts, and one that cannot start ends.
func TestStartWithoutReader(t *testing.T) {
	t.Parallel()
	t.Run("starts", func(t *testing.T) {
		t.Parallel()
		pipe, port := start.NewPipe(t, &kit.Buffer{}), start.FreePort(t)
		pipe.Stall()
		s := start.Launch(t, start.Options{Binary: start.Binary(t), Stdout: pipe.W, Stderr: pipe.W, Args: []string{"--listen", "127.0.0.1:" + port, "--log-level", "debug"}})
		s.URL, s.Client = "https://127.0.0.1:"+port, start.NewClient()
		kit.Eventually(t, "readiness", func() bool { return s.Answers(http.StatusOK, "/readyz", start.Anonymous) })
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("refuses", func(t *testing.T) {
		t.Parallel()
		pipe := start.NewPipe(t, &kit.Buffer{})
		pipe.Stall()
		s := start.Launch(t, start.Options{Binary: start.Binary(t), Stdout: pipe.W, Stderr: pipe.W, Settings: "listen: 1\n", Args: []string{"--log-level", "loud"}})
		select {
		case <-s.Exited:
		case <-time.After(10 * time.Second):
			t.Fatal("it waits for a reader of stderr")
		}
		if code := s.Cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit status %d", code)
		}
	})
}

package output_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"attestcsr/server/output"
	"attestcsr/test/kit"
)

// pipe makes a pipe that nobody reads yet.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func startLog(t *testing.T, stdout, stderr io.Writer) (*output.Output, *slog.Logger) {
	t.Helper()
	o := output.New(stderr)
	log, err := o.StartLog(stdout, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	return o, log
}

type logged struct {
	Msg     string
	From, N int
	Lines   int
}

func parse(t *testing.T, text string) logged {
	t.Helper()
	var l logged
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatalf("no whole line: %v: %.200q", err, text)
	}
	return l
}

// TestStalledReader: nobody waits for a reader that stalls. What it gets later is whole
// and in order, and says how much is missing and where.
func TestStalledReader(t *testing.T) {
	t.Parallel()
	const writers, each = 4, 3000
	r, w := pipe(t)
	o, log := startLog(t, w, io.Discard)
	began := time.Now()
	var all sync.WaitGroup
	for from := range writers {
		all.Go(func() {
			for n := range each {
				log.Info("line", "from", from, "n", n, "padding", strings.Repeat("x", 100+n%5000/10))
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%d lines took %s", writers*each, took)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			lines <- s.Text()
		}
	}()
	got, missing, next := 0, 0, [writers]int{}
	for missing == 0 {
		l := parse(t, <-lines)
		if l.Lines > 0 {
			missing = l.Lines
			break
		}
		if l.N != next[l.From] {
			t.Fatalf("line %d of %d, want %d", l.N, l.From, next[l.From])
		}
		next[l.From], got = l.N+1, got+1
	}
	if got+missing != writers*each || got < 1000 {
		t.Errorf("%d lines came and %d are said to be missing, of %d", got, missing, writers*each)
	}
	log.Info("again")
	if l := parse(t, <-lines); l.Msg != "again" {
		t.Errorf("after the gap: %+v", l)
	}
	want := fmt.Sprintf("# HELP %[1]s Lines that were dropped because nobody read the stream.\n# TYPE %[1]s counter\n%[1]s{stream=\"stderr\"} 0\n%[1]s{stream=\"stdout\"} %[2]d\n",
		"attestcsr_log_lines_dropped_total", missing)
	if err := testutil.CollectAndCompare(o.Collectors()[0], strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	kit.Count(t, "log lines dropped", missing)
	o.Close()
}

// TestReaderGoesAndComesBack: a reader that goes away is said once on stderr. One that
// comes back gets the lines that waited.
func TestReaderGoesAndComesBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	read := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	reader := read()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	stderr := &kit.Buffer{}
	o, log := startLog(t, w, stderr)
	defer o.Close()
	next := func(r io.Reader, want int) {
		t.Helper()
		text, err := bufio.NewReaderSize(r, 16).ReadString('\n')
		if l := parse(t, text); err != nil || l.N != want {
			t.Fatalf("%s %v, want line %d", text, err, want)
		}
	}
	log.Info("line", "n", 1)
	next(reader, 1)
	reader.Close()
	for n := range 3 {
		log.Info("line", "n", 2+n)
	}
	kit.Eventually(t, "a word on stderr", func() bool { return strings.Contains(stderr.String(), "stdout cannot be written") })
	time.Sleep(2500 * time.Millisecond) // it is tried again twice
	if text := stderr.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "broken pipe") {
		t.Errorf("%s", text)
	}
	again := bufio.NewReader(read())
	for n := range 3 {
		var text string
		kit.Eventually(t, "the lines that waited", func() bool {
			more, err := again.ReadString('\n') // io.EOF as long as nothing was written
			text += more
			return err == nil
		})
		if l := parse(t, text); l.N != 2+n {
			t.Errorf("%+v, want line %d", l, 2+n)
		}
	}
}

// TestStderrGoes: the log says that stderr is gone, since a new password may have been
// lost there.
func TestStderrGoes(t *testing.T) {
	t.Parallel()
	r, w := pipe(t)
	r.Close()
	stdout := &kit.Buffer{}
	o, _ := startLog(t, stdout, w)
	defer o.Close()
	fmt.Fprintln(o.Stderr, "password")
	kit.Eventually(t, "a line of the log", func() bool { return strings.Contains(stdout.String(), "reset-password") })
}

// TestClose: a reader that reads gets everything. For one that does not, the end waits
// a second, and not at all where it had a second before.
func TestClose(t *testing.T) {
	t.Parallel()
	const lines = 2000
	closed := func(o *output.Output) time.Duration {
		began := time.Now()
		o.Close()
		return time.Since(began)
	}
	t.Run("reads", func(t *testing.T) {
		t.Parallel()
		stdout := &kit.Buffer{}
		o, log := startLog(t, stdout, io.Discard)
		for n := range lines {
			log.Info("line", "n", n)
		}
		o.Close()
		if n := strings.Count(stdout.String(), "\n"); n != lines {
			t.Errorf("%d lines, want %d", n, lines)
		}
	})
	t.Run("stalls", func(t *testing.T) {
		t.Parallel()
		for _, stalledFor := range []time.Duration{0, 1500 * time.Millisecond} {
			_, w := pipe(t)
			o, log := startLog(t, w, w)
			for n := range lines {
				log.Info("line", "n", n)
			}
			time.Sleep(stalledFor)
			if took := closed(o); took > 5*time.Second || stalledFor > 0 && took > 900*time.Millisecond {
				t.Errorf("stalled for %s before: the end took %s", stalledFor, took)
			}
		}
	})
	t.Run("is gone", func(t *testing.T) {
		t.Parallel()
		r, w := pipe(t)
		r.Close()
		o, log := startLog(t, w, w)
		log.Info("line")
		if took := closed(o); took > 5*time.Second {
			t.Errorf("the end took %s", took)
		}
	})
}

// writes keeps what each write had.
type writes struct {
	mu  sync.Mutex
	all []string
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	return len(p), nil
}

// TestWholeLines: a write has whole lines, and several lines only as far as the kernel
// keeps them together in a pipe that others write to.
func TestWholeLines(t *testing.T) {
	t.Parallel()
	got := &writes{}
	o, log := startLog(t, got, io.Discard)
	const lines = 3000
	for n := range lines {
		size := 1 + n*37%900
		if n%100 == 0 {
			size = 10_000
		}
		log.Info("line", "n", n, "padding", strings.Repeat("x", size))
	}
	log.Info("line", "padding", strings.Repeat("x", 2<<20)) // fits nothing
	log.Info("last")
	o.Close()
	for _, text := range got.all {
		if !strings.HasSuffix(text, "\n") || len(text) > 4096 && strings.Count(text, "\n") > 1 {
			t.Fatalf("%d bytes in one write, %d lines", len(text), strings.Count(text, "\n"))
		}
	}
	if len(got.all) > lines/2 {
		t.Errorf("%d writes for %d lines", len(got.all), lines)
	}
	if all := strings.Join(got.all, ""); !strings.Contains(all, `"msg":"log lines are missing here`) {
		t.Error("nothing says that a line is missing")
	}
}

// TestLevelAndFormat: the level changes while the service runs. A wrong one is refused.
func TestLevelAndFormat(t *testing.T) {
	t.Parallel()
	stdout := &kit.Buffer{}
	o := output.New(io.Discard)
	if _, err := o.StartLog(stdout, "text", "loud"); err == nil {
		t.Error("a level that there is not")
	}
	log, err := o.StartLog(stdout, "text", "warn")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("one")
	if err := o.SetLevel("info"); err != nil {
		t.Fatal(err)
	}
	log.Info("two")
	o.Close()
	if text := stdout.String(); !strings.Contains(text, "msg=two") || strings.Contains(text, "one") {
		t.Errorf("%s", text)
	}
}

// TestGoroutines: the stacks of all goroutines are shown, without what they work on.
func TestGoroutines(t *testing.T) {
	t.Parallel()
	stderr := &kit.Buffer{}
	o := output.New(stderr)
	secret := [4]uint64{0x5ec2e75ec2e75ec2, 0x5ec2e75ec2e75ec2, 3, 4}
	end := make(chan struct{})
	started := make(chan struct{})
	go waitWith(secret, started, end)
	defer close(end)
	<-started
	o.ShowGoroutines()
	o.Close()
	if text := stderr.String(); !strings.Contains(text, "waitWith") || strings.Contains(text, "5ec2e75ec2e75ec2") {
		t.Errorf("%s", text)
	}
}

//go:noinline
func waitWith(secret [4]uint64, started, end chan struct{}) uint64 {
	close(started)
	<-end
	return secret[0]
}

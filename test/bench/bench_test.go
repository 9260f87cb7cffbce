package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestMain makes the test binary stand for this program where that starts itself
// again as the empty handler; otherwise it would run the tests in there.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == emptyCommand {
		main()
		return
	}
	m.Run()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	o, err := parseOptions([]string{"-phase", "read,create", "-runs", "3", "-quick"}, &bytes.Buffer{})
	if err != nil || len(o.phases) != 2 || o.phases[0].name != "create" || o.runs != 3 || !o.quick {
		t.Errorf("%+v: %v", o, err)
	}
	for _, wrong := range []string{"-fast", "-phase=reed", "create", "-runs=0"} {
		if _, err := parseOptions([]string{wrong}, &bytes.Buffer{}); err == nil {
			t.Errorf("%s was taken", wrong)
		}
	}
}

// The real binary, run as the phases run it.
func TestServer(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	b, err := newBench(ctx, dir, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	b.binary = b.profiled
	defer func() {
		if err := b.stopAll(); err != nil {
			t.Error(err)
		}
	}()
	s, err := b.startSeeded(ctx, 100, 1)
	if err != nil {
		t.Fatal(err)
	}
	without, err := b.start(ctx, b.binary, b.dataDir(), 1, withoutAudit)
	if err != nil {
		t.Fatal(err)
	}
	for process, audited := range map[*server]bool{s: true, without: false} {
		if _, err := os.Stat(filepath.Join(process.dataDir, "audit")); (err == nil) != audited {
			t.Errorf("audited: %v, want %t", err, audited)
		}
	}
	if page, err := s.once(ctx, listNSX(pageSize)); err != nil || !strings.Contains(string(page), `"result_count":100`) {
		t.Errorf("%.300s: %v", page, err)
	}
	if used, err := s.anonymousMemory(); err != nil || used < 1 {
		t.Errorf("memory %v: %v", used, err)
	}
	clients, err := s.greeted(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "profile")
	profiled := make(chan error, 1)
	go func() { profiled <- s.saveProfile(ctx, time.Second, file) }()
	if _, err := closedLoop(clients, limit{time: 2 * time.Second}, createESX)(ctx); err != nil {
		t.Error(err)
	}
	if err := <-profiled; err != nil {
		t.Fatal(err)
	}
	if share, err := profileShare(ctx, file, keygen); err != nil || share <= 0 || share > 1 {
		t.Errorf("share %v: %v", share, err)
	}
	if err := filled(ctx, s); err != nil {
		t.Error(err)
	}
	empty, err := b.startEmpty(ctx, s.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := empty.once(ctx, call{"GET", "/", "", http.StatusOK}); err != nil || len(answer) != 0 {
		t.Errorf("the empty handler does something: %q %v", answer, err)
	}
}

// The core in this process signs with evidence, as the service does.
func TestCore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c, err := newCore(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.sign(t.Context()), c.close(t.Context())); err != nil {
		t.Fatal(err)
	}
	lines, err := os.ReadFile(filepath.Join(dir, "audit", "signatures-000001.jsonl"))
	if err != nil || !strings.Contains(string(lines), `"operation":"key.sign"`) {
		t.Errorf("%v: %s", err, lines)
	}
}

func clientsOf(t *testing.T, n int, h http.HandlerFunc) []*client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	var clients []*client
	for range n {
		c := newClient(s.URL, http.Header{})
		t.Cleanup(c.http.CloseIdleConnections)
		clients = append(clients, c)
	}
	return clients
}

func get(int) call { return call{"GET", "/", "", http.StatusOK} }

// A stall is seen by every request that was due in it, not by one.
func TestOpenLoopCountsFromDueTime(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond
	var served atomic.Int64
	clients := clientsOf(t, 1, func(http.ResponseWriter, *http.Request) {
		if served.Add(1) == 1 {
			time.Sleep(stall)
		}
	})
	s, err := openLoop(t.Context(), clients[0], 100, 20, get) // one each 10 ms
	if err != nil || len(s.latencies) != 20 {
		t.Fatalf("%d samples: %v", len(s.latencies), err)
	}
	for i, latency := range s.latencies[:10] {
		if least := stall - time.Duration(i)*10*time.Millisecond; latency < least {
			t.Errorf("request %d was due in the stall and shows %s, under %s", i, latency, least)
		}
	}
}

// A wrong answer must end a measurement: refusals are fast.
func TestLoadFailsOnAnotherStatus(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	clients := clientsOf(t, 4, func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) > 10 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("too busy"))
		}
	})
	if s, err := closedLoop(clients, limit{count: 10}, get)(t.Context()); err != nil || len(s.latencies) != 10 {
		t.Errorf("%d samples: %v", len(s.latencies), err)
	}
	_, err := closedLoop(clients, limit{time: time.Minute}, get)(t.Context())
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "too busy") {
		t.Errorf("error %v", err)
	}
}

func of(milliseconds ...int) samples {
	s := samples{elapsed: time.Second}
	for _, ms := range milliseconds {
		s.latencies = append(s.latencies, time.Duration(ms)*time.Millisecond)
	}
	return s
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	hundred := samples{}
	for i := 100; i > 0; i-- {
		hundred.latencies = append(hundred.latencies, time.Duration(i)*time.Millisecond)
	}
	for _, c := range []struct {
		s       samples
		q, want float64
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1}, {of(7), 0.99, 7}, {of(9, 7), 0.5, 7},
	} {
		if got := quantile(c.q)(c.s); got != c.want {
			t.Errorf("%v of %d: %v, want %v", c.q, len(c.s.latencies), got, c.want)
		}
	}
}

// A machine that gets slower from round to round must not change the ratio.
func TestCompareOnADriftingMachine(t *testing.T) {
	t.Parallel()
	step := 0
	slower := func(base int) measure {
		return func(context.Context) (samples, error) {
			step++
			return of(base * (10 + step)), nil
		}
	}
	c, err := compare(t.Context(), 3, slower(1), slower(3))
	if err != nil || len(c.figures) != 3 || len(c.floors) != 4 {
		t.Fatalf("%d rounds, %d floors: %v", len(c.figures), len(c.floors), err)
	}
	if got := c.ratio(quantile(0.5), quantile(0.5)); math.Abs(got-3) > 1e-9 {
		t.Errorf("ratio %v, want 3", got)
	}
}

// Of several runs the report has the median, and judges that.
func TestReport(t *testing.T) {
	t.Parallel()
	r := &report{Failures: []string{"read: it broke"}}
	for _, slow := range []int{40, 3, 2} {
		c := comparison{figures: []samples{of(slow)}, floors: []samples{of(2), of(2)}}
		r.atMost(1.6, c.figure("create", "floor", quantile(0.5), quantile(0.5)))
		r.atLeast(1, row{What: "share", Value: 0.5, Unit: "of 1"})
	}
	var document, table bytes.Buffer
	if err := r.write(&document, true); err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(document.Bytes(), &again); err != nil || len(again.Rows) != 2 {
		t.Fatalf("%v: %s", err, &document)
	}
	if w := again.Rows[0]; w.Value != 1.5 || w.P50 != 3 || w.Lowest != 1 || w.Highest != 20 || !w.Met || again.Rows[1].Met {
		t.Errorf("%+v", again.Rows)
	}
	if err := r.write(&table, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"floor 2.00", "1.50 ×", "≤ 1.6", "met", "≥ 1", "MISSED", "read: it broke"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, &table)
		}
	}
}

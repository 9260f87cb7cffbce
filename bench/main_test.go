package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr"
)

// TestMain makes the test binary stand for this program where that starts itself
// again as the do-nothing server; otherwise it would run the tests in there.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == echoCommand {
		main()
		return
	}
	m.Run()
}

func TestParsePeer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, base, path string
	}{
		{"cfssl=http://127.0.0.1:8888", "http://127.0.0.1:8888", "/api/v1/cfssl/newkey"},
		{"cfssl=http://127.0.0.1:8888/", "http://127.0.0.1:8888", "/api/v1/cfssl/newkey"},
		{"openbao=https://[::1]:8200", "https://[::1]:8200", "/v1/pki/intermediate/generate/internal"},
		{"openbao=http://127.0.0.9:8200/v1/other/intermediate/generate/internal", "http://127.0.0.9:8200", "/v1/other/intermediate/generate/internal"},
	} {
		p, err := parsePeer(c.text)
		if err != nil || p.base != c.base || p.create.path != c.path {
			t.Errorf("%s: %v %+v", c.text, err, p)
		}
	}
	for _, text := range []string{
		"", "cfssl", "cfssl=", "other=http://127.0.0.1:1", "cfssl=127.0.0.1:8888", "cfssl=ftp://127.0.0.1",
		"cfssl=http://192.0.2.1:8888", "cfssl=http://localhost:8888", "cfssl=http://0.0.0.0:8888", "cfssl=http://[::]:8888",
		"cfssl=http://127.0.0.1.example.com", "cfssl=http://user:pass@127.0.0.1:8888", "cfssl=http://127.0.0.1@192.0.2.1/",
	} {
		if p, err := parsePeer(text); err == nil {
			t.Errorf("%q was taken: %+v", text, p)
		}
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		args   []string
		want   string // the phases
		status int    // where they cannot be followed
	}{
		{"everything but peers", nil, "floors warm audit sustained reads list growth start memory size", 0},
		{"with a peer", []string{"-peer", "cfssl=http://127.0.0.1:1"}, "floors warm audit sustained reads list growth start memory size peers", 0},
		{"some, in their order", []string{"-phase", "size,floors", "-phase", "reads"}, "floors reads size", 0},
		{"unknown phase", []string{"-phase", "flors"}, "", 2},
		{"unknown flag", []string{"-fast"}, "", 2},
		{"an argument", []string{"warm"}, "", 2},
		{"a peer elsewhere", []string{"-peer", "cfssl=http://192.0.2.1:1"}, "", 2},
	} {
		if c.status != 0 {
			var out, errs bytes.Buffer
			if got := run(t.Context(), c.args, &out, &errs); got != c.status || errs.Len() == 0 || out.Len() != 0 {
				t.Errorf("%s: status %d, %q, %q", c.name, got, &out, &errs)
			}
			continue
		}
		o, err := parseOptions(c.args, &bytes.Buffer{})
		var names []string
		for _, p := range o.phases {
			names = append(names, p.name)
		}
		if got := strings.Join(names, " "); err != nil || got != c.want {
			t.Errorf("%s: %v, %s", c.name, err, got)
		}
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := &report{phase: "warm"}
	c := comparison{figure: []samples{of(2, 4, 6)}, floor: []samples{of(2), of(2)}}
	r.add(figure("create", c.figure).besides(c, "floor p50", quantile(0.5), "ms"))
	r.add(value("memory", 12.345, "MB", "a note"))
	r.atMost("p50 / floor", 2, 1.5, "×")
	r.atLeast("throughput", 1.234, 1, "×")
	r.Failures = []failure{{"reads", "it broke"}}

	var table, document bytes.Buffer
	if err := r.writeTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"floor p50: 2.00 ms", "12.3 MB", "a note", "≤ 1.5 ×  MISSED", "≥ 1 ×    met", "reads FAILED: it broke"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, &table)
		}
	}
	if err := r.writeJSON(&document); err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(document.Bytes(), &again); err != nil || len(again.Rows) != 2 || again.Rows[0].Ratio != 2 || again.Checks[0].Met || !again.Checks[1].Met {
		t.Errorf("%v: %s", err, &document)
	}
}

func TestNumber(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "-", 0.04567: "0.0457", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 98765: "98765"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestShareIn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{
		"Type: cpu\nActive filters:\n   focus=x\nShowing nodes accounting for 960ms, 96.00% of 1000ms total\n      flat  flat%\n": 0.96,
		"Showing nodes accounting for 0, 0% of 2180ms total\n":                                                                    0,
	} {
		if got, err := shareIn([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	if _, err := shareIn([]byte("no samples")); err == nil {
		t.Error("nonsense has a share")
	}
}

// What was seeded and thinned out is what the core reads.
func TestSeed(t *testing.T) {
	t.Parallel()
	const n, stride = 300, 100
	dir := filepath.Join(t.TempDir(), "seed")
	if err := seed(t.Context(), dir, n); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "copy")
	if err := copyFiles(other, dir); err != nil {
		t.Fatal(err)
	}
	if err := thin(t.Context(), other, n, stride); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{dir: n, other: n / stride} {
		err := withCore(t.Context(), path, n, func(core *csr.Service) error {
			grant, err := core.Authorise(operator(), csr.ListNamedCSRs)
			if err != nil {
				return err
			}
			items, _, total, err := grant.ListNamedCSRs(t.Context(), csr.Page{Sort: csr.SortByID, Limit: 1000})
			if len(items) != want || total != want {
				t.Errorf("%d items, total %d, want %d", len(items), total, want)
			}
			for i, item := range items {
				if id := seedID(i * (n / want)); item.ID != id {
					t.Errorf("item %d is %s, want %s", i, item.ID, id)
				}
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// The real binary, run as the phases run it: served, profiled, measured, and
// refused where it cannot be measured.
func TestServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary, err := build(t.Context(), dir, "bench")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: dir, stderr: &bytes.Buffer{}}
	s, err := b.start(t.Context(), binary, b.dataDir(), settings{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	if _, err := s.once(t.Context(), createNSX("a", ecP256)); err != nil {
		t.Error(err)
	}
	if _, err := s.session(t.Context()); err != nil {
		t.Error(err)
	}
	if anonymous, resident, err := s.memory(); err != nil || anonymous < 1 || resident < anonymous {
		t.Errorf("memory %v %v: %v", anonymous, resident, err)
	}
	if used, err := s.processorTime(); err != nil || used <= 0 || used > time.Minute {
		t.Errorf("processor time %v: %v", used, err)
	}
	without, err := b.start(t.Context(), binary, b.dataDir(), settings{withoutAudit: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(without.kill)
	for process, audited := range map[*server]bool{s: true, without: false} {
		if _, err := os.Stat(filepath.Join(process.dataDir, "audit")); (err == nil) != audited {
			t.Errorf("audited: %v, want %t", err, audited)
		}
	}
	file := filepath.Join(dir, "profile")
	if err := s.saveProfile(t.Context(), time.Second, file); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("no profile: %v", err)
	}
	echo, err := b.startEcho(t.Context(), s.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(echo.kill)
	if answer, err := echo.once(t.Context(), call{"GET", "/", "", http.StatusOK}); err != nil || len(answer) != 0 {
		t.Errorf("the echo does something: %q %v", answer, err)
	}
	for _, process := range []*server{echo, s, without} {
		if err := process.stop(); err != nil {
			t.Error(err)
		}
	}
}

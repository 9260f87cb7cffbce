package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the outcome of a run.
type report struct {
	Machine  machine       `json:"machine"`
	Quick    bool          `json:"quick"` // too short for more than a first look
	Started  time.Time     `json:"started"`
	Took     time.Duration `json:"took_ns"`
	Rows     []row         `json:"figures"`
	Checks   []check       `json:"targets"`
	Failures []failure     `json:"failures"`

	phase string // that rows are added in
}

// machine is what the figures depend on.
type machine struct {
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	MemoryMB   int    `json:"memory_mb"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"` // of the data
	Go         string `json:"go"`
}

// row is one figure beside its floor. Fields that do not apply are zero.
type row struct {
	Phase     string  `json:"phase"`
	What      string  `json:"what"`
	Samples   int     `json:"samples,omitempty"`
	P50       float64 `json:"p50_ms,omitempty"`
	P90       float64 `json:"p90_ms,omitempty"`
	P99       float64 `json:"p99_ms,omitempty"`
	PerSecond float64 `json:"per_second,omitempty"`
	Value     float64 `json:"value,omitempty"`
	Unit      string  `json:"unit,omitempty"` // of Value
	Floor     string  `json:"floor,omitempty"`
	Ratio     float64 `json:"ratio,omitempty"` // to the floor
	Note      string  `json:"note,omitempty"`
}

// check is a target and what was measured.
type check struct {
	Phase    string  `json:"phase"`
	What     string  `json:"what"`
	Measured float64 `json:"measured"`
	Relation string  `json:"relation"` // "≤" or "≥"
	Target   float64 `json:"target"`
	Unit     string  `json:"unit"` // "×" for a ratio
	Met      bool    `json:"met"`
}

type failure struct {
	Phase string `json:"phase"`
	Error string `json:"error"`
}

func (r *report) add(row row) {
	row.Phase = r.phase
	r.Rows = append(r.Rows, row)
}

func (r *report) atMost(what string, measured, target float64, unit string) {
	r.Checks = append(r.Checks, check{r.phase, what, measured, "≤", target, unit, measured <= target})
}

func (r *report) atLeast(what string, measured, target float64, unit string) {
	r.Checks = append(r.Checks, check{r.phase, what, measured, "≥", target, unit, measured >= target})
}

// figure is the row of a measurement: quantiles of all its samples, and the
// median rate of its rounds.
func figure(what string, rounds []samples) row {
	all := merge(rounds)
	return row{
		What: what, Samples: len(all.latencies),
		P50: quantile(0.50)(all), P90: quantile(0.90)(all), P99: quantile(0.99)(all),
		PerSecond: medianOf(rounds, perSecond),
	}
}

// besides completes a row with the floor it stands beside: its number of that
// kind, and the ratio of the two.
func (w row) besides(c comparison, name string, of statistic, unit string) row {
	w.Floor = fmt.Sprintf("%s: %s %s", name, number(c.floorMedian(of)), unit)
	w.Ratio = c.ratio(of, of)
	return w
}

func value(what string, v float64, unit, note string) row {
	return row{What: what, Value: v, Unit: unit, Note: note}
}

// number writes a figure with three digits; more would not be the same in the
// next run.
func number(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.*f", max(0, 2-int(math.Floor(math.Log10(math.Abs(v))))), v)
}

func count(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// align writes lines of cells in columns, and an empty line.
func align(w io.Writer, lines [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range lines {
		if _, err := fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")); err != nil {
			return err
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (r *report) writeTable(w io.Writer) error {
	m := r.Machine
	text := &strings.Builder{}
	fmt.Fprintf(text, "%s, %s, %d MB, Linux %s, %s, %s; %s", m.Processor, plural(m.Processors, "processor"), m.MemoryMB,
		m.Kernel, m.FileSystem, m.Go, r.Started.UTC().Format(time.DateOnly))
	if r.Quick {
		text.WriteString("; -quick: too short to judge by")
	}
	text.WriteString("\n\n")
	figures := [][]string{{"phase", "figure", "n", "p50 ms", "p90 ms", "p99 ms", "per s", "value", "beside", "ratio", "note"}}
	for _, w := range r.Rows {
		figures = append(figures, []string{
			w.Phase, w.What, count(w.Samples), number(w.P50), number(w.P90), number(w.P99), number(w.PerSecond),
			strings.TrimSpace(number(w.Value) + " " + w.Unit), w.Floor, number(w.Ratio), w.Note,
		})
	}
	targets := [][]string{{"phase", "target", "measured", "wanted"}}
	for _, c := range r.Checks {
		verdict := "met"
		if !c.Met {
			verdict = "MISSED"
		}
		targets = append(targets, []string{c.Phase, c.What, number(c.Measured) + " " + c.Unit, fmt.Sprintf("%s %g %s", c.Relation, c.Target, c.Unit), verdict})
	}
	for _, lines := range [][][]string{figures, targets} {
		if err := align(text, lines); err != nil {
			return err
		}
	}
	for _, f := range r.Failures {
		fmt.Fprintf(text, "%s FAILED: %s\n", f.Phase, f.Error)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// samples are the latencies of one measurement and how long it took in all.
type samples struct {
	latencies []time.Duration
	elapsed   time.Duration
}

// statistic is one number of a measurement.
type statistic func(samples) float64

// quantile is the smallest latency, in milliseconds, that a share q of the
// samples does not exceed (nearest rank).
func quantile(q float64) statistic {
	return func(s samples) float64 {
		sorted := slices.Sorted(slices.Values(s.latencies))
		rank := int(math.Ceil(q * float64(len(sorted))))
		return sorted[max(rank, 1)-1].Seconds() * 1000
	}
}

// perSecond is the throughput.
func perSecond(s samples) float64 { return float64(len(s.latencies)) / s.elapsed.Seconds() }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func medianOf(rounds []samples, of statistic) float64 {
	values := make([]float64, len(rounds))
	for i, s := range rounds {
		values[i] = of(s)
	}
	return median(values)
}

// measure takes one round of samples.
type measure func(context.Context) (samples, error)

// comparison holds the rounds of a figure and those of its floor, which was
// measured before the first round, between all of them, and after the last: the
// machine may be another one a minute later.
type comparison struct{ figures, floors []samples }

// compare measures a figure between rounds of its floor.
func compare(ctx context.Context, rounds int, floor, figure measure) (comparison, error) {
	var c comparison
	for i := 0; ; i++ {
		s, err := floor(ctx)
		if err != nil {
			return c, err
		}
		c.floors = append(c.floors, s)
		if i == rounds {
			return c, nil
		}
		if s, err = figure(ctx); err != nil {
			return c, err
		}
		c.figures = append(c.figures, s)
	}
}

// ratio is the median over the rounds of a number of the figure, divided by the
// mean of a number of the floor before and after.
func (c comparison) ratio(figure, floor statistic) float64 {
	ratios := make([]float64, len(c.figures))
	for i, s := range c.figures {
		ratios[i] = figure(s) / ((floor(c.floors[i]) + floor(c.floors[i+1])) / 2)
	}
	return median(ratios)
}

// report is the outcome of all runs.
type report struct {
	Title    string   `json:"title"` // the machine and the day
	Rows     []row    `json:"figures"`
	Failures []string `json:"failures"`
}

// row is one figure. Fields that do not apply are zero.
type row struct {
	What      string  `json:"what"`              // no two of a run are the same
	Samples   int     `json:"samples,omitempty"` // of one run
	P50       float64 `json:"p50_ms,omitempty"`
	P99       float64 `json:"p99_ms,omitempty"`
	PerSecond float64 `json:"per_second,omitempty"`
	// Value is what the target is for: a ratio to the floor, or a number of Unit.
	Value    float64 `json:"value"`
	Lowest   float64 `json:"lowest"` // Value of the runs
	Highest  float64 `json:"highest"`
	Unit     string  `json:"unit"`            // "×": Value is a ratio
	Floor    string  `json:"floor,omitempty"` // what it is a ratio to
	Relation string  `json:"relation"`        // "≤" or "≥"
	Target   float64 `json:"target"`
	Met      bool    `json:"met"`
}

// atMost adds a row with a target.
func (r *report) atMost(target float64, w row) { r.add("≤", target, w) }

// atLeast adds a row with a target.
func (r *report) atLeast(target float64, w row) { r.add("≥", target, w) }

func (r *report) add(relation string, target float64, w row) {
	w.Relation, w.Target = relation, target
	r.Rows = append(r.Rows, w)
}

// figure is the row of a comparison: quantiles of all samples, the median rate of the
// rounds, and the ratio of a number of the figure to a number of the floor.
func (c comparison) figure(what, floor string, of, floorOf statistic) row {
	var all samples
	for _, round := range c.figures {
		all.latencies = append(all.latencies, round.latencies...)
	}
	return row{
		What: what, Samples: len(all.latencies),
		P50: quantile(0.50)(all), P99: quantile(0.99)(all), PerSecond: medianOf(c.figures, perSecond),
		Value: c.ratio(of, floorOf), Unit: "×",
		Floor: floor + " " + number(medianOf(c.floors, floorOf)),
	}
}

// medians joins the rows of several runs to one for each figure, with the median of
// each number.
func medians(rows []row) []row {
	var order []string
	runs := map[string][]row{}
	for _, w := range rows {
		if runs[w.What] == nil {
			order = append(order, w.What)
		}
		runs[w.What] = append(runs[w.What], w)
	}
	var joined []row
	for _, what := range order {
		w := runs[what][0]
		column := func(number func(row) float64) (values []float64) {
			for _, run := range runs[what] {
				values = append(values, number(run))
			}
			return values
		}
		values := column(func(w row) float64 { return w.Value })
		w.Value, w.Lowest, w.Highest = median(values), slices.Min(values), slices.Max(values)
		w.P50 = median(column(func(w row) float64 { return w.P50 }))
		w.P99 = median(column(func(w row) float64 { return w.P99 }))
		w.PerSecond = median(column(func(w row) float64 { return w.PerSecond }))
		w.Met = w.Relation == "≤" && w.Value <= w.Target || w.Relation == "≥" && w.Value >= w.Target
		joined = append(joined, w)
	}
	return joined
}

func (r *report) write(w io.Writer, asJSON bool) error {
	r.Rows = medians(r.Rows)
	if !asJSON {
		return r.writeTable(w)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) writeTable(w io.Writer) error {
	text := &strings.Builder{}
	fmt.Fprintf(text, "%s\n\n", r.Title)
	fmt.Fprintln(text, "figure\tn\tp50 ms\tp99 ms\tper s\tfloor\tmeasured\truns\twanted\t")
	for _, w := range r.Rows {
		verdict := "MISSED"
		if w.Met {
			verdict = "met"
		}
		fmt.Fprintf(text, "%s\t%d\t%s\t%s\t%s\t%s\t%s %s\t%s–%s\t%s %g\t%s\n", w.What, w.Samples,
			number(w.P50), number(w.P99), number(w.PerSecond), w.Floor,
			number(w.Value), w.Unit, number(w.Lowest), number(w.Highest), w.Relation, w.Target, verdict)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(text, "FAILED\t%s\n", f)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(t, text.String()); err != nil {
		return err
	}
	return t.Flush()
}

// number writes no more digits than would be the same in the next run.
func number(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// thisMachine says what the figures depend on, as far as Linux tells. On a file system
// in memory (tmpfs) an fsync costs nothing; dir is where the data is.
func thisMachine(dir string) string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")                         // unknown elsewhere
	files, _ := exec.Command("stat", "--file-system", "--format=%T", dir).Output() //nolint:gosec,noctx // of one folder, at once
	return fmt.Sprintf("%s, processors: %d, Linux %s, %s, %s", procValue("/proc/cpuinfo", "model name"), runtime.NumCPU(),
		bytes.TrimSpace(kernel), bytes.TrimSpace(files), runtime.Version())
}

// procValue is the value of the first line "name: value" of a file.
func procValue(file, name string) string {
	text, _ := os.ReadFile(file) // there is none elsewhere than on Linux
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

package main

import (
	"context"
	"math"
	"testing"
	"time"
)

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
		name string
		s    samples
		q    float64
		want float64
	}{
		{"median", hundred, 0.5, 50},
		{"p99", hundred, 0.99, 99},
		{"all", hundred, 1, 100},
		{"none", hundred, 0, 1},
		{"of one", of(7), 0.99, 7},
		{"of two", of(9, 7), 0.5, 7},
	} {
		if got := quantile(c.q)(c.s); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := quantile(0.5)(samples{}); !math.IsNaN(got) {
		t.Errorf("of no samples: %v", got)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 3}, 3},
		{[]float64{1, 100, 3, 2}, 2.5},
	} {
		if got := median(c.values); got != c.want {
			t.Errorf("%v: %v, want %v", c.values, got, c.want)
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
	if err != nil {
		t.Fatal(err)
	}
	if len(c.figure) != 3 || len(c.floor) != 4 {
		t.Fatalf("%d rounds, %d floors", len(c.figure), len(c.floor))
	}
	if got := c.ratio(quantile(0.5), quantile(0.5)); math.Abs(got-3) > 1e-9 {
		t.Errorf("ratio %v, want 3", got)
	}
}

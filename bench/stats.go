package main

import (
	"context"
	"math"
	"slices"
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
		if len(s.latencies) == 0 {
			return math.NaN()
		}
		sorted := slices.Sorted(slices.Values(s.latencies))
		rank := int(math.Ceil(q * float64(len(sorted))))
		return milliseconds(sorted[max(rank, 1)-1])
	}
}

// perSecond is the throughput.
func perSecond(s samples) float64 { return float64(len(s.latencies)) / s.elapsed.Seconds() }

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// merge puts the samples of all rounds together.
func merge(rounds []samples) samples {
	var all samples
	for _, s := range rounds {
		all.latencies = append(all.latencies, s.latencies...)
		all.elapsed += s.elapsed
	}
	return all
}

// measure takes one round of samples.
type measure func(context.Context) (samples, error)

// comparison holds the rounds of a figure and those of its floor, which was
// measured before the first round, between all of them, and after the last: the
// machine may be another one a minute later.
type comparison struct{ figure, floor []samples }

// compare measures a figure between rounds of its floor.
func compare(ctx context.Context, rounds int, floor, figure measure) (comparison, error) {
	var c comparison
	for i := 0; ; i++ {
		s, err := floor(ctx)
		if err != nil {
			return c, err
		}
		c.floor = append(c.floor, s)
		if i == rounds {
			return c, nil
		}
		if s, err = figure(ctx); err != nil {
			return c, err
		}
		c.figure = append(c.figure, s)
	}
}

// ratio is the median over the rounds of a number of the figure, divided by the
// mean of a number of the floor before and after.
func (c comparison) ratio(figure, floor statistic) float64 {
	ratios := make([]float64, len(c.figure))
	for i, s := range c.figure {
		ratios[i] = figure(s) / ((floor(c.floor[i]) + floor(c.floor[i+1])) / 2)
	}
	return median(ratios)
}

// floorMedian is the median over all rounds of a number of the floor.
func (c comparison) floorMedian(of statistic) float64 { return medianOf(c.floor, of) }

func medianOf(rounds []samples, of statistic) float64 {
	values := make([]float64, len(rounds))
	for i, s := range rounds {
		values[i] = of(s)
	}
	return median(values)
}

// Package output writes what the service says: the log on stdout, and the rest on
// stderr. Nothing that the service does waits for whoever reads it: lines are queued,
// and dropped and counted where they do not fit. So a log call may stand anywhere,
// within a lock too.
//
// What the Go runtime writes when it crashes goes to stderr past this package.
package output

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Output is both streams of the process and the log.
type Output struct {
	Stderr  *Stream
	stdout  *Stream // nil before StartLog
	logger  atomic.Pointer[slog.Logger]
	level   slog.LevelVar
	dropped *prometheus.CounterVec
}

// New begins with stderr.
func New(stderr io.Writer) *Output {
	o := &Output{dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "attestcsr_log_lines_dropped_total",
		Help: "Lines that were dropped because nobody read the stream.",
	}, []string{"stream"})}
	gapLine := func(lines int) []byte {
		return fmt.Appendf(nil, "attestcsr: %d lines are missing here: nobody read them\n", lines)
	}
	o.Stderr = newStream(stderr, o.dropped.WithLabelValues("stderr"), gapLine, func(err error) {
		if log := o.logger.Load(); log != nil {
			log.Warn("stderr cannot be written: if it was to show a new password, attestcsr reset-password makes another", "err", err)
		}
	})
	return o
}

// StartLog begins the log, in the format json or text.
func (o *Output) StartLog(stdout io.Writer, format, level string) (*slog.Logger, error) {
	if err := o.SetLevel(level); err != nil {
		return nil, err
	}
	gapLine := func(lines int) []byte {
		var b bytes.Buffer
		line := slog.NewRecord(time.Now(), slog.LevelWarn, "log lines are missing here: nobody read them", 0)
		line.AddAttrs(slog.Int("lines", lines))
		_ = o.handler(&b, format).Handle(context.Background(), line) // a buffer takes everything
		return b.Bytes()
	}
	o.stdout = newStream(stdout, o.dropped.WithLabelValues("stdout"), gapLine, func(err error) {
		fmt.Fprintf(o.Stderr, "attestcsr: stdout cannot be written: the log waits until it can, and drops what does not fit: %v\n", err) //nolint:errcheck // it never fails
	})
	log := slog.New(o.handler(o.stdout, format))
	o.logger.Store(log)
	return log, nil
}

func (o *Output) handler(w io.Writer, format string) slog.Handler {
	options := &slog.HandlerOptions{Level: &o.level}
	if format == "text" {
		return slog.NewTextHandler(w, options)
	}
	return slog.NewJSONHandler(w, options)
}

// SetLevel changes the level of the log.
func (o *Output) SetLevel(level string) error { return o.level.UnmarshalText([]byte(level)) }

// maxStacks is how many bytes of stacks are shown.
const maxStacks = bound / 4

// ShowGoroutines writes the stacks of all goroutines to stderr, equal ones counted. They
// have no arguments, unlike the stacks of a crash: an argument may be part of a key.
func (o *Output) ShowGoroutines() {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil { // a buffer takes everything
		fmt.Fprintln(&b, err)
	}
	text := b.Bytes()
	if len(text) > maxStacks {
		text = append(text[:maxStacks:maxStacks], "\nand more\n"...)
	}
	_, _ = o.Stderr.Write(text) // it never fails
}

// Close writes what is queued. For readers who take nothing it waits a second at most.
func (o *Output) Close() {
	var streams sync.WaitGroup
	if o.stdout != nil {
		streams.Go(o.stdout.close)
	}
	streams.Go(o.Stderr.close)
	streams.Wait()
}

// Collectors returns the metrics, for the caller to register.
func (o *Output) Collectors() []prometheus.Collector { return []prometheus.Collector{o.dropped} }

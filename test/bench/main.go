// Bench measures the service from outside: it builds the real binary, runs it on
// a loopback address with a throw-away data_dir, loads it over HTTPS, and prints
// what it measured beside the floor that no such service gets below, which is
// measured in the same minutes on the same machine.
//
//	go run ./test/bench                        everything, about ten minutes
//	go run ./test/bench -runs 5                the median of five such runs
//	go run ./test/bench -quick                 a first look, about a minute
//	go run ./test/bench -phase create,read     some phases
//
// The exit status is 0 when all phases were measured, whether or not targets
// were met.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err) // nobody is left to tell
		os.Exit(1)                                    //nolint:forbidigo // this is main
	}
}

// phase is a part of the run that can be chosen.
type phase struct {
	name, about string
	run         func(context.Context, *bench) error
}

func phases() []phase {
	return []phase{
		{"create", "creates that find a key ready", creates},
		{"audit", "creates with the audit trail and without", audited},
		{"sustained", "creates that wait for keys, with a CPU profile", sustained},
		{"read", "GET of the CSR with a session", reads},
		{"sign", "signatures with the installed key, and the published keys", signs},
		{"stored", "creates and list pages beside few and many objects", stored},
		{"guess", "logins while a thousand networks guess passwords", guessed},
		{"page", "what the first view of the page takes", page},
		{"memory", "anonymous memory of an idle service", memory},
	}
}

// bench is what the phases share.
type bench struct {
	scale    scale
	dir      string // for all files, removed at the end
	binary   string // built as the Dockerfile does
	profiled string // the same with the tag bench: it gives profiles and can do without the audit trail
	report   *report
	stderr   io.Writer
	dataDirs int
	seeds    map[int]string // data_dirs with that many objects
	running  []*server      // in this phase
}

// progress tells the one who waits what is going on.
func (b *bench) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(b.stderr, "bench: "+format+"\n", args...) // nobody is left to tell
}

// dataDir is the path of a data_dir that does not exist yet.
func (b *bench) dataDir() string {
	b.dataDirs++
	return filepath.Join(b.dir, fmt.Sprintf("data-%d", b.dataDirs))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	if len(args) == 3 && args[0] == emptyCommand {
		return serveEmpty(ctx, args[1], args[2])
	}
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "attestcsr-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := newBench(ctx, dir, stderr)
	if err != nil {
		return err
	}
	b.scale = o.scale()
	b.report = &report{Title: fmt.Sprintf("%s, %s, runs: %d", thisMachine(dir), time.Now().UTC().Format(time.DateOnly), o.runs)}
	if o.quick {
		b.report.Title += ", -quick: too short to judge by"
	}
	for n := range o.runs {
		for _, p := range o.phases {
			if ctx.Err() != nil {
				break
			}
			b.progress("run %d of %d, %s: %s", n+1, o.runs, p.name, p.about)
			if err := errors.Join(p.run(ctx, b), b.stopAll()); err != nil { // the others are measured all the same
				b.report.Failures = append(b.report.Failures, p.name+": "+err.Error())
			}
		}
	}
	if err := b.report.write(stdout, o.json); err != nil {
		return err
	}
	if len(b.report.Failures) > 0 {
		return errors.New("some phases failed")
	}
	return ctx.Err()
}

// options are the command line.
type options struct {
	quick, json bool
	runs        int
	dir         string
	phases      []phase
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{phases: phases()}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.quick, "quick", false, "measure little: a first look")
	flags.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flags.IntVar(&o.runs, "runs", 1, "print the medians of `N` runs")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "where the data is, on the kind of `disk` to be measured")
	about := []string{"measure only these phases, as `NAME[,NAME…]`:"}
	for _, p := range o.phases {
		about = append(about, p.name+": "+p.about)
	}
	chosen := flags.String("phase", "", strings.Join(about, "\n"))
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.runs < 1 {
		return o, errors.New("wrong arguments: see -help")
	}
	if *chosen == "" {
		return o, nil
	}
	names := strings.Split(*chosen, ",")
	o.phases = slices.DeleteFunc(o.phases, func(p phase) bool { return !slices.Contains(names, p.name) })
	if len(o.phases) != len(names) {
		return o, fmt.Errorf("-phase %s: not all of these are phases, see -help", *chosen)
	}
	return o, nil
}

// scale is how much is measured.
type scale struct {
	rounds    int           // of a figure between its floors
	samples   int           // of a floor and of a list, in each round
	time      time.Duration // of a round that is measured by time
	sustained time.Duration // of a round of the phase sustained
	pool      int           // keys that are kept ready where creates find one
	few, many int           // objects of the small and of the large store
	idle      int           // objects of the store whose memory is read
	settle    time.Duration // before memory is read
}

func (o options) scale() scale {
	if o.quick {
		return scale{
			rounds: 2, samples: 100, time: time.Second / 2, sustained: 4 * time.Second, pool: 48,
			few: 100, many: 2_000, idle: 1_000, settle: time.Second,
		}
	}
	return scale{
		rounds: 3, samples: 300, time: 3 * time.Second, sustained: 20 * time.Second, pool: 240,
		few: 100, many: 100_000, idle: 10_000, settle: 5 * time.Second,
	}
}

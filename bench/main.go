// Bench measures the service from outside: it builds the real binary, runs it on
// a loopback address with a throw-away data_dir, loads it over HTTPS, and prints
// what it measured beside the floor that no such service gets below, which is
// measured in the same minutes on the same machine.
//
//	go run ./bench                        everything, up to three quarters of an hour
//	go run ./bench -quick                 a first look, about a minute
//	go run ./bench -phase warm,reads      some phases
//	go run ./bench -peer cfssl=http://127.0.0.1:8888 -phase peers
//
// The exit status is 0 when all phases were measured, whether or not targets
// were met; 1 when one failed; 2 when the command line was wrong.
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
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr)) //nolint:forbidigo // this is main
}

// scale is how much is measured.
type scale struct {
	rounds    int           // of a figure between its floors
	samples   int           // of a round, at least
	time      time.Duration // of a round that is measured by time
	keygen    time.Duration // of each raw rsa.GenerateKey
	sustained time.Duration // of the phase sustained
	pool      int           // keys that are kept ready where a row wants many
	few       int           // objects of the small stores
	page      int           // objects of the small store that pages are listed of
	stored    int           // objects that a busy service has
	many      int           // objects of the large stores
	starts    int
	settle    time.Duration // before memory is read
}

func fullScale() scale {
	return scale{
		rounds: 5, samples: 300, time: 3 * time.Second, keygen: 10 * time.Second, sustained: 20 * time.Second, pool: 512,
		few: 100, page: 1000, stored: 10_000, many: 100_000, starts: 9, settle: 5 * time.Second,
	}
}

func quickScale() scale {
	return scale{
		rounds: 2, samples: 100, time: time.Second / 2, keygen: time.Second, sustained: 4 * time.Second, pool: 64,
		few: 100, page: 1000, stored: 2_000, many: 5_000, starts: 3, settle: time.Second,
	}
}

// phase is a part of the run that can be chosen.
type phase struct {
	name, about string
	run         func(context.Context, *bench) error
}

func phases() []phase {
	return []phase{
		{"floors", "raw key generation; signature and fsynced commit", floors},
		{"warm", "creates with keys from the pool, bursts, named creates", warm},
		{"audit", "creates with the audit trail and without", audited},
		{"sustained", "creates with an empty pool, with a CPU profile", sustained},
		{"reads", "GET of the CSR, with Basic and with a session", reads},
		{"list", "pages of a small and of a large collection", list},
		{"growth", "creates beside few and many stored objects, and after deletions", growth},
		{"start", "start to ready, after a clean stop and after kill -9", starts},
		{"memory", "resident memory of an idle service", memory},
		{"size", "binary and image", sizes},
		{"peers", "the load of the other servers that -peer names", peers},
	}
}

// bench is what the phases share.
type bench struct {
	scale    scale
	dir      string // for all files, removed at the end
	binary   string // built as the Dockerfile does
	profiled string // the same, giving profiles
	peers    []peer
	report   *report
	stderr   io.Writer
	dataDirs int
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

// allCores is the floor of what makes keys: raw rsa.GenerateKey of 2048 bits on
// all processors.
func (b *bench) allCores() measure {
	return func(ctx context.Context) (samples, error) {
		return generateKeys(ctx, 2048, runtime.GOMAXPROCS(0), b.scale.keygen)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var err error
	if len(args) == 3 && args[0] == echoCommand {
		err = serveEcho(ctx, args[1], args[2])
	} else {
		err = measureAll(ctx, args, stdout, stderr)
	}
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return 0
	}
	_, _ = fmt.Fprintln(stderr, "bench:", err) // nobody is left to tell
	if wrong := (*usageError)(nil); errors.As(err, &wrong) {
		return 2
	}
	return 1
}

// usageError is a command line that cannot be followed.
type usageError struct{ error }

// options are the command line.
type options struct {
	quick, json bool
	dir         string
	phases      []phase
	peers       []peer
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var (
		o            options
		chosen, urls []string
		tokenFile    string
	)
	known := phases()
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.quick, "quick", false, "measure for about a minute: a first look")
	flags.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flags.StringVar(&o.dir, "dir", os.TempDir(), "where the data is, on the kind of `disk` to be measured")
	flags.StringVar(&tokenFile, "peer-token-file", "", "`file` with the token for a peer openbao")
	flags.Func("peer", "another server to load, as `NAME=URL`: cfssl or openbao, on a loopback address (may be repeated)", func(s string) error {
		urls = append(urls, s)
		return nil
	})
	about := []string{"measure only these phases, as `NAME[,NAME…]`:"}
	for _, p := range known {
		about = append(about, p.name+": "+p.about)
	}
	flags.Func("phase", strings.Join(about, "\n"), func(s string) error {
		for name := range strings.SplitSeq(s, ",") {
			if !slices.ContainsFunc(known, func(p phase) bool { return p.name == name }) {
				return fmt.Errorf("there is no phase %q", name)
			}
			chosen = append(chosen, name)
		}
		return nil
	})
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return o, err
	case err != nil:
		return o, &usageError{err}
	case flags.NArg() > 0:
		return o, &usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	if o.peers, err = parsePeers(urls, tokenFile); err != nil {
		return o, &usageError{err}
	}
	for _, p := range known {
		if len(chosen) == 0 && (p.name != "peers" || len(o.peers) > 0) || slices.Contains(chosen, p.name) {
			o.phases = append(o.phases, p)
		}
	}
	return o, nil
}

// measureAll runs the chosen phases and prints the report. A phase that fails
// does not keep the others from being measured.
func measureAll(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	b := &bench{scale: fullScale(), peers: o.peers, stderr: stderr}
	if o.quick {
		b.scale = quickScale()
	}
	if b.dir, err = os.MkdirTemp(o.dir, "attestcsr-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	b.report = &report{Machine: thisMachine(b.dir), Quick: o.quick, Started: time.Now(), Rows: []row{}, Checks: []check{}, Failures: []failure{}}
	b.progress("building the server")
	if b.binary, err = build(ctx, b.dir, ""); err != nil {
		return err
	}
	if b.profiled, err = build(ctx, b.dir, "bench"); err != nil {
		return err
	}
	for _, p := range o.phases {
		b.report.phase = p.name
		b.progress("%s: %s", p.name, p.about)
		if err := p.run(ctx, b); err != nil {
			b.report.Failures = append(b.report.Failures, failure{p.name, err.Error()})
		}
		if ctx.Err() != nil {
			break
		}
	}
	b.report.Took = time.Since(b.report.Started)
	write := b.report.writeTable
	if o.json {
		write = b.report.writeJSON
	}
	if err := write(stdout); err != nil {
		return err
	}
	if n := len(b.report.Failures); n > 0 {
		return fmt.Errorf("%s failed", plural(n, "phase"))
	}
	return ctx.Err()
}

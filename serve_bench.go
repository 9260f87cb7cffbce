//go:build bench

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A binary built with the tag "bench" gives profiles of itself, on a UNIX socket
// in data_dir. Only the program in bench/ builds it, and always passes
// --data-dir=DIR. It hangs on an init function so that the released program has
// no seam for it.
func init() { //nolint:gochecknoinits // see above
	for _, arg := range os.Args[1:] {
		dir, is := strings.CutPrefix(arg, "--data-dir=")
		if is && os.Args[1] == "serve" {
			serveProfiles(filepath.Join(dir, "pprof.sock"))
		}
	}
}

// auditing is off where the program in bench/ measures what the audit trail costs.
func auditing() bool {
	_, off := os.LookupEnv("BENCH_WITHOUT_AUDIT")
	return !off
}

func serveProfiles(socket string) {
	_ = os.Remove(socket) // of a process that was killed
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		panic(fmt.Sprintf("bench: %v", err))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(listener) }() // ends with the process
}

//go:build bench

package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"path/filepath"
	"time"
)

// startBenchmark is for the program in test/bench, which alone builds with the tag
// "bench". It serves profiles of the process on a UNIX socket in data_dir, and
// reports whether the audit trail is off, to measure what it costs.
func startBenchmark(dataDir string) (withoutAudit bool) {
	socket := filepath.Join(dataDir, "pprof.sock")
	_ = os.Remove(socket) // of a process that was killed
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		panic(fmt.Sprintf("bench: %v", err))
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second} // serves what pprof has registered
	go func() { _ = srv.Serve(listener) }()             // ends with the process
	_, withoutAudit = os.LookupEnv("BENCH_WITHOUT_AUDIT")
	return withoutAudit
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// profileSocket is where a server that was built with the tag "bench" serves
// net/http/pprof, in its data_dir.
const profileSocket = "pprof.sock"

// saveProfile takes a CPU profile of the server for that time, to the nearest
// second, and writes it to a file.
func (s *server) saveProfile(ctx context.Context, d time.Duration, file string) (err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(s.dataDir, profileSocket))
	}}
	defer transport.CloseIdleConnections()
	seconds := max(1, int(d.Round(time.Second).Seconds()))
	c := &client{base: "http://pprof", http: &http.Client{Transport: transport}}
	profile, err := c.do(ctx, call{"GET", "/debug/pprof/profile?seconds=" + strconv.Itoa(seconds), "", http.StatusOK})
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return os.WriteFile(file, profile, 0o600)
}

// profileShare returns the share of a CPU profile's samples that have a function
// matching the regular expression anywhere on their stack, from 0 to 1.
func profileShare(ctx context.Context, file, function string) (float64, error) {
	// All nodes are asked for, so that none is missing from the sum.
	cmd := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=1000000", "-nodefraction=0", "-unit=ms", "-focus="+function, file) //nolint:gosec // our own arguments
	cmd.Stderr = io.Discard
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("go tool pprof: %w", err)
	}
	return shareIn(out)
}

// shareIn reads the share out of what pprof -top prints above its table.
func shareIn(top []byte) (float64, error) {
	found := regexp.MustCompile(`(?m)^Showing nodes accounting for ([0-9.]+)(?:ms)?, .* of ([0-9.]+)ms total$`).FindSubmatch(top)
	if found == nil {
		return 0, fmt.Errorf("go tool pprof printed something else:\n%.300s", top)
	}
	part, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return 0, err
	}
	whole, err := strconv.ParseFloat(string(found[2]), 64)
	if err != nil {
		return 0, err
	}
	return part / whole, nil
}

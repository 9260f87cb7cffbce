package start

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
)

// Instance is a running service, in a process of its own.
type Instance struct {
	T        *testing.T
	Cmd      *exec.Cmd
	DataDir  string
	URL, Ops string // of the API, and of ops_listen
	Password string // of User
	Stdout   *kit.Buffer
	Stderr   *kit.Buffer
	Client   *http.Client
	Exited   chan struct{}
	Err      error // of the exit
	options  Options
}

var (
	addressLine = regexp.MustCompile(`(?m)^  address +(https://\S+)(?: \((.*)\))?$`)
	lastLine    = regexp.MustCompile(`(?m)^  (password +.*|certificate +.*)$`)
)

// WaitReady waits until the service has said where it listens.
func (s *Instance) WaitReady() error {
	deadline := time.After(30 * time.Second)
	for {
		text := s.Stderr.String()
		if found := addressLine.FindAllStringSubmatch(text, -1); found != nil && lastLine.MatchString(text) {
			for _, line := range found {
				if line[2] == "health and metrics" {
					s.Ops = line[1]
				} else {
					s.URL = line[1]
				}
			}
			break
		}
		select {
		case <-s.Exited:
			return fmt.Errorf("the service ended: %w\n%s%s", s.Err, s.Stderr, s.Stdout)
		case <-deadline:
			return fmt.Errorf("the service does not get ready:\n%s%s", s.Stderr, s.Stdout)
		case <-time.After(2 * time.Millisecond):
		}
	}
	s.Client = NewClient()
	return nil
}

// NewClient makes a client that believes every server.
func NewClient() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: 16,
	}}
}

// Address returns host and port of the API.
func (s *Instance) Address() string { return strings.TrimPrefix(s.URL, "https://") }

// InitialPassword returns the password that the service has made, or "" after the
// first login.
func (s *Instance) InitialPassword() string {
	text, err := os.ReadFile(filepath.Join(s.DataDir, server.InitialPasswordFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.T.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Kill ends the service with SIGKILL.
func (s *Instance) Kill() {
	_ = s.Cmd.Process.Kill() // it may have ended
	<-s.Exited
	if s.Client != nil {
		s.Client.CloseIdleConnections()
	}
}

// Killed reports whether SIGKILL has ended the service.
func (s *Instance) Killed() bool {
	status, is := s.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	return is && status.Signal() == syscall.SIGKILL
}

// Stop ends the service as an orchestrator does and returns its exit error.
func (s *Instance) Stop() error {
	s.T.Helper()
	if err := s.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.T.Fatal(err)
	}
	select {
	case <-s.Exited:
	case <-time.After(30 * time.Second):
		s.T.Fatal("no end after SIGTERM")
	}
	return s.Err
}

// Again starts a service that has ended once more: with the same settings, on the same
// data directory, and with the password that the test knows.
func (s *Instance) Again() *Instance {
	s.T.Helper()
	o := s.options
	o.DataDir = s.DataDir
	again := Serve(s.T, o)
	again.Password = s.Password
	return again
}

// WantLog waits until the log has a text.
func (s *Instance) WantLog(text string) {
	s.T.Helper()
	if !kit.Until(func() bool { return strings.Contains(s.Stdout.String(), text) }) {
		s.T.Errorf("the log does not say %q:\n%s", text, s.Stdout)
	}
}

// Config returns the path of the file of settings. Its folder has the users file that
// Config has written.
func (s *Instance) Config() string { return s.options.Config }

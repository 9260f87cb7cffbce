package start

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"attestcsr/test/kit"
)

// Paths of the ESX dialect, and a body for a create.
const (
	CSRPath         = "/api/esx/attestation/certificate/csr"
	CertificatePath = "/api/esx/attestation/certificate"
	SessionPath     = "/api/session"

	ValidSpec = `{"organization":"Example Ltd","organization_unit":"Hosts","locality":"Palo Alto",` +
		`"state_or_province":"California","country":"US","email_address":"pki@example.com"}`
)

// Instance is a running service, in a process of its own.
type Instance struct {
	T        *testing.T
	Cmd      *exec.Cmd
	DataDir  string
	URL, Ops string
	Password string
	Stdout   *kit.Buffer
	Stderr   *kit.Buffer
	Client   *http.Client
	Exited   chan struct{}
	Err      error // of the exit
}

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
	s.Client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: 16,
	}}
	return nil
}

// Kill ends the service with SIGKILL.
func (s *Instance) Kill() {
	_ = s.Cmd.Process.Kill() // it may have ended
	<-s.Exited
	if s.Client != nil {
		s.Client.CloseIdleConnections()
	}
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

// Do sends one request with Basic credentials, or with the session where one is
// given.
func (s *Instance) Do(method, path, body, session string) (int, string, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	if session != "" {
		req.Header.Set("vmware-api-session-id", session)
	} else {
		req.SetBasicAuth("admin", s.Password)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// Must is do for a request that has to end with the status.
func (s *Instance) Must(want int, method, path, body string) string {
	s.T.Helper()
	status, answer, err := s.Do(method, path, body, "")
	if err != nil || status != want {
		s.T.Fatalf("%s %s: %v %d %s", method, path, err, status, answer)
	}
	return answer
}

// Member returns a member of a JSON object that is a string.
func Member(t *testing.T, body, name string) string {
	t.Helper()
	var object map[string]string
	if err := json.Unmarshal([]byte(body), &object); err != nil || object[name] == "" {
		t.Fatalf("no member %s: %v: %s", name, err, body)
	}
	return object[name]
}

// Of the NSX dialect: its path, and the type of a login.
const (
	NSXPath  = "/policy/api/v1/infra"
	FormType = "application/x-www-form-urlencoded"
)

// Package serving is the file in data_dir with which a running service says how it is
// reached, and what asks that service whether it is ready.
package serving

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/procfs"

	"attestcsr/keystore/ownfile"
)

// File is the name of the file in data_dir.
const File = "serving.json"

// maxFile is far more than the file takes, in bytes.
const maxFile = 64 << 10

// State is what the file says.
type State struct {
	Address     string `json:"address"`              // host:port of the API
	OpsAddress  string `json:"ops_address,omitzero"` // of health and metrics, where they have one
	Certificate string `json:"certificate"`          // PEM, the leaf alone
	PID         int    `json:"pid"`
	// StartTime is when the process began, in clock ticks since the kernel did
	// (proc_pid_stat(5), starttime). A process with another one is another process.
	StartTime uint64 `json:"start_time"`
}

// Announcement is the file of this process.
type Announcement struct {
	mu      sync.Mutex
	path    string
	state   State
	removed bool
}

// Announce writes the file in dir. The caller listens already, and holds the lock on
// the store: no other service has its file there. What cannot be written is tried
// again by SetCertificate.
func Announce(dir, address, opsAddress string, leaf *x509.Certificate) (*Announcement, error) {
	started, err := startTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	a := &Announcement{path: filepath.Join(dir, File), state: State{Address: address, OpsAddress: opsAddress, PID: os.Getpid(), StartTime: started}}
	err = a.SetCertificate(leaf)
	return a, err
}

// SetCertificate writes the file again if the server shows another certificate now.
func (a *Announcement) SetCertificate(leaf *x509.Certificate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	if a.removed || text == a.state.Certificate {
		return nil
	}
	next := a.state
	next.Certificate = text
	content, err := json.Marshal(next, json.Deterministic(true))
	if err == nil {
		err = ownfile.Replace(a.path, append(content, '\n'))
	}
	if err == nil {
		a.state = next
	}
	return err
}

// Remove removes the file. A crash leaves it: Read tells that its process has ended.
func (a *Announcement) Remove() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removed = true
	if err := os.Remove(a.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Read returns what the service in dir says, or an error if none runs there.
func Read(dir string) (State, error) {
	path := filepath.Join(dir, File)
	text, err := ownfile.Read(path, maxFile, slog.New(slog.DiscardHandler))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("not running: there is no %s", path)
	}
	if err != nil {
		return State{}, fmt.Errorf("not running: %w", err)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil || s.PID <= 0 || s.Address == "" {
		return State{}, fmt.Errorf("not running: %s is not what a service writes", path)
	}
	started, err := startTime(s.PID)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && started != s.StartTime:
		return State{}, fmt.Errorf("not running: the process that wrote %s, %d, has ended (or it is in another container: ask there)", path, s.PID)
	case err != nil:
		return State{}, fmt.Errorf("not running: %w", err)
	}
	return s, nil
}

func startTime(pid int) (uint64, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	stat, err := proc.Stat()
	return stat.Starttime, err
}

// Package control is how commands ask a running service: HTTP over a UNIX socket
// in data_dir, for root and the user of the service. The same operations run in the
// command itself where no service runs.
package control

import (
	"context"
	"errors"
	"io"
	"time"

	"attestcsr/csr/audit"
)

// SocketFile is the name of the socket in data_dir.
const SocketFile = "control.sock"

// ErrNoService: nobody listens on the socket.
var ErrNoService = errors.New("no service answers on the control socket")

// Operations are what an operator does with a store that is open. Client asks a
// running service to do them. Package server does them. Each leaves its line in the
// audit trail under the name of whoever asked; those that change nothing leave none.
type Operations interface {
	// ResetPassword gives the built-in admin a new random password. It is in the
	// answer where the caller has a terminal to show it, otherwise in a file.
	ResetPassword(ctx context.Context, terminal bool) (Password, error)

	KeysetStatus(ctx context.Context) (KeysetStatus, error)
	// RotateKeyset adds a primary key. A running service re-seals its records later.
	RotateKeyset(ctx context.Context) (KeysetStatus, error)
	// RetireKeys removes every key but the primary one.
	RetireKeys(ctx context.Context) (KeysetStatus, error)

	// Unstage withdraws the staged certificate and its key.
	Unstage(ctx context.Context) error

	// Checkpoint returns a signed line that says how far the trail has got.
	Checkpoint(ctx context.Context) (string, error)
	// CheckpointKey returns the public key of checkpoints, in PEM.
	CheckpointKey(ctx context.Context) (string, error)
	// Accept records that the trail and the store do not fit each other, and why that
	// is right.
	Accept(ctx context.Context, reason string) (audit.Accepted, error)
	// Snapshot returns what the store says of the trail.
	Snapshot(ctx context.Context) (audit.Snapshot, error)

	// Backup writes a backup. What comes before an error is not whole.
	Backup(ctx context.Context, ask BackupRequest, to io.Writer) (BackupReport, error)

	// CheckStore opens every record.
	CheckStore(ctx context.Context) (StoreReport, error)

	// OpenSession begins a session of a dialect (esx, nsx, transit) of a running service,
	// with every privilege.
	OpenSession(ctx context.Context, dialect string) (Session, error)

	// ListUsers returns all users, in alphabetical order.
	ListUsers(ctx context.Context) ([]User, error)
	// ChangeUser returns the user after a change, which is in effect then: sessions of
	// who was removed or has another password have ended.
	ChangeUser(ctx context.Context, change UserChange) (User, error)
}

// Session is a session of a running service, and how to reach that.
type Session struct {
	Server      string    `json:"server"`      // https://host:port
	Fingerprint string    `json:"fingerprint"` // of the public key
	User        string    `json:"user"`
	Session     string    `json:"session"`
	XSRF        string    `json:"xsrf,omitzero"` // in the dialect that has one
	Expires     time.Time `json:"expires"`
}

// User is someone who may log in.
type User struct {
	Name           string   `json:"name"`
	Source         string   `json:"source"` // the file that has the user, or "built in"
	Privileges     []string `json:"privileges"`
	PrivilegesFrom string   `json:"privileges_from"` // "built in", "auth.privileges" or "privileges.yaml"; empty: there is no entry
}

// UserAction says what is done to a user. The trail has it as the operation "user." and
// this word.
type UserAction string

// The actions.
const (
	AddUser     UserAction = "add"
	RemoveUser  UserAction = "remove"
	SetPassword UserAction = "password"
	Grant       UserAction = "grant"
	Revoke      UserAction = "revoke"
)

// UserChange is a change of one user. It holds no password.
type UserChange struct {
	Action     UserAction `json:"action"`
	Name       string     `json:"name"`
	Hash       string     `json:"hash,omitzero"`        // bcrypt, of AddUser and SetPassword
	Privileges []string   `json:"privileges,omitempty"` // of AddUser, Grant and Revoke
}

// Password says how the built-in admin's password can be known. Only text that
// a terminal shows holds the password itself.
type Password struct {
	Shown string `json:"shown,omitzero"` // the password, for a terminal
	File  string `json:"file,omitzero"`  // the file that holds it
}

// KeysetStatus says which keys the sealing keyset has.
type KeysetStatus struct {
	File       string       `json:"file"`
	Keys       []SealingKey `json:"keys"`                    // the primary one first
	Pending    int          `json:"pending"`                 // records that are not under the primary key yet
	Compaction bool         `json:"compaction_due,omitzero"` // old references are still in free pages of the store
	Note       string       `json:"note,omitzero"`           // what is under way or has failed, and what to do
}

// SealingKey is a key of the keyset.
type SealingKey struct {
	ID  string `json:"id"`  // 8 hexadecimal digits
	Use string `json:"use"` // "primary", "opens older records", "verifies older lines"
}

// BackupRequest says how a backup is made.
type BackupRequest struct {
	Recipients    []string `json:"recipients"`              // public keys of age
	Passphrase    bool     `json:"passphrase,omitzero"`     // who asks encrypts it again, with a passphrase
	WithoutKeyset bool     `json:"without_keyset,omitzero"` // and without the key of the server certificate
}

// BackupReport says what a backup holds.
type BackupReport struct {
	Created  time.Time `json:"created"`
	Revision uint64    `json:"revision"` // of the store
	Files    int       `json:"files"`
	Keyset   string    `json:"keyset"`            // id of the primary sealing key
	Without  []string  `json:"without,omitempty"` // what belongs to the service and is not in it
}

// StoreReport is what a check of the store has found.
type StoreReport struct {
	Records  int            `json:"records"`
	Problems []StoreProblem `json:"problems"` // the first MaxProblems
	More     int            `json:"more_problems,omitzero"`
}

// MaxProblems bounds a report: whoever has more needs a backup, not a longer list.
const MaxProblems = 1000

// Add notes a problem.
func (r *StoreReport) Add(where string, err error) {
	if len(r.Problems) == MaxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, StoreProblem{where, err.Error()})
}

// StoreProblem is a place in the store and what is wrong there.
type StoreProblem struct {
	Where string `json:"where"` // a slot, or the part of the store
	What  string `json:"what"`
}

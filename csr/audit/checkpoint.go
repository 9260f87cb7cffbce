package audit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
)

// checkpointVersion is the format that checkpoints are written in.
const checkpointVersion = 1

// Checkpoint says how far the changes had got at a time. Kept elsewhere, it shows that
// store and trail were put back together, which nothing in them can show. Its text has
// two lines: the members as JSON, and the signature over the SHA-256 of the first line
// with its newline, in base64.
type Checkpoint struct {
	Version   int       `json:"v"`
	Stream    string    `json:"stream"`
	Chain     string    `json:"chain"`
	Seq       uint64    `json:"seq"`          // of the newest line
	Time      time.Time `json:"time"`         // of the checkpoint
	Sum       string    `json:"lines_sha256"` // over all lines up to that; see addLine
	Signature []byte    `json:"-"`
}

// signed is the first line of the text.
func (c Checkpoint) signed() []byte {
	b, err := json.Marshal(c)
	if err != nil {
		return nil // no member of it can fail
	}
	return append(b, '\n')
}

func (c Checkpoint) String() string {
	return string(c.signed()) + base64.StdEncoding.EncodeToString(c.Signature) + "\n"
}

// maxCheckpoint is how long the text of a checkpoint may be, in bytes.
const maxCheckpoint = 1024

var errNoCheckpoint = errors.New("is not the text of a checkpoint")

// ParseCheckpoint reads what String returns, and nothing else.
func ParseCheckpoint(text []byte) (c Checkpoint, err error) {
	if len(text) > maxCheckpoint {
		return Checkpoint{}, errNoCheckpoint
	}
	object, signature, _ := bytes.Cut(text, []byte("\n"))
	if err := json.Unmarshal(object, &c, json.RejectUnknownMembers(true)); err != nil {
		return Checkpoint{}, errNoCheckpoint
	}
	if c.Version != checkpointVersion {
		return Checkpoint{}, fmt.Errorf("the checkpoint has format %d, this version reads %d", c.Version, checkpointVersion)
	}
	c.Signature, err = base64.StdEncoding.Strict().DecodeString(string(bytes.TrimSuffix(signature, []byte("\n"))))
	if err != nil || c.String() != string(text) || c.Stream != Changes || c.Seq == 0 || !isSum(c.Sum) {
		return Checkpoint{}, errNoCheckpoint
	}
	return c, nil
}

// Checkpoint writes what waits and returns where the changes end, signed by sign. It
// changes nothing else.
func (l *Log) Checkpoint(ctx context.Context, sign func(digest []byte) ([]byte, error)) (Checkpoint, error) {
	if l == nil {
		return Checkpoint{}, errors.New("there is no audit trail")
	}
	if err := l.Settle(ctx); err != nil {
		return Checkpoint{}, err
	}
	l.changes.mu.Lock()
	at := l.changes.anchored
	l.changes.mu.Unlock()
	c := Checkpoint{
		Version: checkpointVersion, Stream: Changes, Chain: at.Chain, Seq: at.Last.Seq, Time: stamp(l.o.Now()), Sum: at.Last.Sum,
	}
	digest := sha256.Sum256(c.signed())
	var err error
	c.Signature, err = sign(digest[:])
	return c, err
}

// VerifyCheckpoint checks that the lines up to a checkpoint are in the files as they
// were then. It needs no key of the service.
func VerifyCheckpoint(dirs []string, c Checkpoint, public crypto.PublicKey) error {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return errors.New("the public key of checkpoints is one of ECDSA")
	}
	digest := sha256.Sum256(c.signed())
	if !ecdsa.VerifyASN1(key, digest[:], c.Signature) {
		return errors.New("the checkpoint was not signed with this key")
	}
	files, err := filesIn(dirs, Changes)
	if err != nil {
		return err
	}
	seq, sum := c.Seq, c.Sum
	// The newest file comes first: each begins with the sum of the lines before it.
	for _, f := range slices.Backward(files) {
		first, found, err := findSum(f.open, c.Chain, seq, sum)
		if err != nil {
			return err
		}
		if found {
			seq, sum = first.Seq-1, first.Sum
		}
		if seq == 0 {
			return nil
		}
	}
	if seq == c.Seq {
		return fmt.Errorf("line %d is not in the files as it was at %s: lines were changed or cut off, or trail and store were put back", c.Seq, c.Time.Format(time.RFC3339))
	}
	return fmt.Errorf("lines %d to %d are as they were, and those up to %d are not in the files, or were changed: give the directory of the archive, too", seq+1, c.Seq, seq)
}

// findSum looks for a line of a chain after which the lines have a sum, and returns the
// first line of its file.
func findSum(open opener, chain string, seq uint64, sum string) (first line, found bool, err error) {
	at := ""
	_, err = eachLine(open, 0, func(text []byte) error {
		l, _, err := decodeLine(bytes.TrimSuffix(text, []byte("\n")))
		if err != nil || l.Chain != chain || l.Seq > seq {
			return errStop
		}
		if first.Seq == 0 {
			first, at = l, l.Sum
		}
		at = addLine(at, text)
		if found = l.Seq == seq && at == sum; found {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return first, found, err
}

// errStop ends the reading of a file.
var errStop = errors.New("no more lines are read")

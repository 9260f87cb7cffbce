package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
)

// The answer of some operations is a stream. Its end comes in a trailer, which says how
// long it was and its digest: without one the stream was cut.
const endTrailer = "Attestcsr-End"

// stallTimeout is how long the service waits for a command that does not read.
const stallTimeout = time.Minute

// end is what comes after a stream.
type end[Out any] struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Answer Out    `json:"answer"`
	Error  string `json:"error,omitzero"`
}

// stream serves an operation that writes. What fails before the first byte is a failure
// as that of any other operation.
func stream[In, Out any](mux *http.ServeMux, s *Server, name string, do func(Operations, context.Context, In, io.Writer) (Out, error)) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		who, err := caller(r.Context().Value(connKey{}))
		status := http.StatusForbidden
		to := &streamWriter{to: w, deadline: http.NewResponseController(w), sum: sha256.New()}
		var out Out
		if err == nil {
			w.Header().Set("Trailer", endTrailer)
			out, status, err = run(w, r, s.as(who), func(o Operations, ctx context.Context, in In) (Out, error) { return do(o, ctx, in, to) })
		}
		log := s.log.With("operation", name, "user", who.User, "duration_ms", time.Since(begun).Milliseconds(), "bytes", to.size)
		last := end[Out]{Size: to.size, SHA256: hex.EncodeToString(to.sum.Sum(nil)), Answer: out}
		if err != nil {
			log.Warn("control: refused or failed", "err", err)
			last.Error = err.Error()
		} else {
			log.Info("control: done")
		}
		if err != nil && to.size == 0 {
			w.Header().Del("Trailer")
			w.WriteHeader(status)
			err = json.MarshalWrite(w, failure{err.Error()})
		} else {
			var text []byte
			text, err = json.Marshal(last)
			w.Header().Set(endTrailer, base64.StdEncoding.EncodeToString(text))
		}
		if err != nil {
			log.Warn("control: the answer did not reach the command", "err", err)
		}
	})
}

// streamWriter counts what it writes, and gives up on a reader who has stopped.
type streamWriter struct {
	to       io.Writer
	deadline *http.ResponseController
	sum      hash.Hash
	size     int64
}

func (w *streamWriter) Write(p []byte) (n int, err error) {
	if err := w.deadline.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
		return 0, err
	}
	n, err = w.to.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// askStream asks for an operation that writes, and copies what it writes.
func askStream[Out any](ctx context.Context, c *Client, name string, in any, to io.Writer) (out Out, err error) {
	resp, err := c.post(ctx, name, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return answer[Out](resp)
	}
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(to, sum), resp.Body)
	if err != nil {
		return out, fmt.Errorf("the stream from the running service was cut after %d bytes; its log may say why: %w", size, err)
	}
	text, err := base64.StdEncoding.DecodeString(resp.Trailer.Get(endTrailer))
	var last end[Out]
	if err == nil {
		err = json.Unmarshal(text, &last, json.RejectUnknownMembers(true))
	}
	switch {
	case err != nil:
		return out, fmt.Errorf("the stream from the running service has no end after %d bytes: its log may say why", size)
	case last.Error != "":
		return out, errors.New(last.Error)
	case last.Size != size || !bytes.Equal([]byte(last.SHA256), hex.AppendEncode(nil, sum.Sum(nil))):
		return out, fmt.Errorf("the stream from the running service is not what it sent: %d bytes of %d", size, last.Size)
	}
	return last.Answer, nil
}

// Backup implements Operations.
func (c *Client) Backup(ctx context.Context, ask BackupRequest, to io.Writer) (BackupReport, error) {
	return askStream[BackupReport](ctx, c, "backup", ask, to)
}

package transit

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"

	"attestcsr/csr"
	"attestcsr/handler/strict"
)

const (
	// maxInput is how much data one signature is of, before it is hashed.
	maxInput = 1 << 20
	// bodyBytes is how long the body of a sign or a verify may be: room for maxInput in
	// base64. The inputs of a batch share it.
	bodyBytes = 2 << 20
	// maxFreeBody is the longest body that does not count, so that signatures of digests
	// go on while long bodies use up the bound.
	maxFreeBody = 64 << 10
	// maxBodies bounds the long bodies that are being read, in bytes. What is decoded of
	// one can take many times its length.
	maxBodies = 4 * bodyBytes
	// bodyWait is how long a request waits until its body may be read.
	bodyWait = 5 * time.Second
)

// bodies bounds the memory of bodies. Who asks first is served first.
type bodies struct{ long *semaphore.Weighted }

func newBodies() *bodies { return &bodies{semaphore.NewWeighted(maxBodies)} }

// read reads the body of a request and calls parse, which must keep little of it. The
// Content-Type does not matter: clients send none. The length is bounded by whoever made
// the request's Body.
func (b *bodies) read(c echo.Context, parse func(text []byte) error) error {
	r := c.Request()
	if coding := r.Header.Get(echo.HeaderContentEncoding); coding != "" && !strings.EqualFold(coding, "identity") {
		return invalid("a Content-Encoding is not supported; send the body without one")
	}
	if r.ContentLength < 0 || r.ContentLength > maxFreeBody {
		held := int64(bodyBytes)
		if r.ContentLength > 0 {
			held = min(held, r.ContentLength)
		}
		waiting, cancel := context.WithTimeout(r.Context(), bodyWait)
		defer cancel()
		if err := b.long.Acquire(waiting, held); err != nil {
			return &csr.Error{Kind: csr.Busy, RetryAfter: bodyWait, Err: errors.New("too many long bodies are being read")}
		}
		defer b.long.Release(held)
	}
	text, err := io.ReadAll(r.Body)
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return err
	}
	if err != nil {
		return invalid("the body ended early")
	}
	return parse(text)
}

// decode reads a JSON object.
func decode[T any](in *strict.Decoder[T], text []byte) (body T, err error) {
	body, problems := in.Decode(text)
	if problems != nil {
		return body, explain(problems)
	}
	return body, nil
}

// explain makes the error of a body.
func explain(problems strict.Problems) error {
	bad := &badRequest{}
	for _, p := range problems {
		name := strict.Printable(p.Name, 64)
		switch p.Kind {
		case strict.NotUTF8, strict.LoneSurrogate:
			bad.quotes = true
			bad.add(name + " " + p.Encoding())
		case strict.Duplicate:
			bad.quotes = true
			bad.add(name + " occurs more than once")
		case strict.WrongType:
			bad.add(name + " must be " + p.Expected + ", not " + p.Found)
		case strict.Missing:
			bad.add("missing " + name)
		default:
			bad.add("failed to parse JSON input: " + p.Encoding())
		}
	}
	return bad
}

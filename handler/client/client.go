// Package client sends requests to a server over HTTPS, for the clients of all
// dialects. It believes a server by a CA or by its public key, follows no redirect, and
// bounds what it reads.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	maxAnswer = 16 << 20
	maxHeader = 64 << 10

	connectTimeout = 10 * time.Second
)

// ErrUnreachable: no answer came from the server. What was asked for may have happened.
var ErrUnreachable = errors.New("no answer")

// ErrUntrusted: the server did not show that it is the one that was meant. Nothing was sent.
var ErrUntrusted = errors.New("not trusted")

// Options say which server is meant, and how it is known.
type Options struct {
	Server      string        // https://host[:port], or host[:port]
	CAFile      string        // PEM; "": the CAs of the system
	Fingerprint string        // sha256:HEX of the public key; with it no CA is looked at
	Timeout     time.Duration // of one request, with the wait for a key
}

// Client is safe for concurrent use.
type Client struct {
	base string
	http http.Client
}

// Request is what is asked for.
type Request struct {
	Method string
	Path   string // escaped
	Query  url.Values
	Header http.Header
	Body   any // is sent as JSON; []byte is sent as it is; nil: none
}

// Response is an answer of any status.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// New makes a client. It connects to nothing.
func New(o Options) (*Client, error) {
	base, err := ServerURL(o.Server)
	if err != nil {
		return nil, err
	}
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	return &Client{base, http.Client{
		Timeout: o.Timeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    connectTimeout,
			DisableCompression:     true, // the bound holds for what is read
			MaxResponseHeaderBytes: maxHeader,
		},
		// A redirect could lead the credentials to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ServerURL returns the address of a server in its one form: https://host[:port].
func ServerURL(server string) (string, error) {
	text := server
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", fmt.Errorf("a server is https://host or https://host:port, not %q", withoutPassword(server))
	}
	return "https://" + strings.ToLower(u.Host), nil
}

// withoutPassword cuts what may be a password before an @.
func withoutPassword(server string) string {
	if at := strings.LastIndex(server, "@"); at >= 0 {
		return "…" + server[at:]
	}
	return server
}

// Server is the address of the server: https://host[:port].
func (c *Client) Server() string { return c.base }

// Do sends a request. Its error says that no answer came, and wraps ErrUnreachable or
// ErrUntrusted.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	body, is := r.Body.([]byte)
	if r.Body != nil && !is {
		var err error
		if body, err = json.Marshal(r.Body, json.Deterministic(true)); err != nil {
			return nil, err
		}
	}
	address := c.base + r.Path
	if len(r.Query) > 0 {
		address += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, r.Header)
	if r.Body != nil && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.noAnswer(ctx, r.Method, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(answer) > maxAnswer {
		err = fmt.Errorf("the answer is longer than %d bytes: is it the right server?", maxAnswer)
	}
	if err != nil {
		return nil, c.noAnswer(ctx, r.Method, err)
	}
	return &Response{resp.StatusCode, resp.Header, answer}, nil
}

// noAnswer says why no answer came, without the path and the query of the request, and
// whether the server may have done what was asked.
func (c *Client) noAnswer(ctx context.Context, method string, err error) error {
	if wrapped, is := errors.AsType[*url.Error](err); is {
		err = wrapped.Err
	}
	if isUntrusted(err) {
		return fmt.Errorf("%s is %w: %w", c.base, ErrUntrusted, err)
	}
	perhaps := ""
	if dial, is := errors.AsType[*net.OpError](err); method != http.MethodGet && !(is && dial.Op == "dial") {
		perhaps = ", and it may have done what was asked"
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("%w from %s%s: %w", ErrUnreachable, c.base, perhaps, err)
}

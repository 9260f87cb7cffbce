package vapi

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/handler/client"
)

// Client asks a server of this dialect: this service or the vendor's product.
type Client struct{ caller client.Caller }

// NewClient makes a client without a session.
func NewClient(c *client.Client) *Client {
	return &Client{client.Caller{Client: c, Put: func(h http.Header, s client.Session) { h.Set(SessionHeader, s.ID) }}}
}

// Use makes the client send a session. renew may be nil, as in client.Caller.
func (c *Client) Use(s client.Session, renew func(context.Context) (client.Session, error)) {
	c.caller.Session, c.caller.Renew = s, renew
}

// Login begins a session.
func (c *Client) Login(ctx context.Context, user, password string) (s client.Session, err error) {
	header := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}}
	header.Set("vmware-use-header-authn", "true")
	answer, err := c.caller.Client.Do(ctx, client.Request{Method: http.MethodPost, Path: sessionPath, Header: header})
	if err == nil {
		err = read(answer, &s.ID)
	}
	return s, err
}

// Logout ends the session.
func (c *Client) Logout(ctx context.Context) error {
	return c.Do(ctx, http.MethodDelete, sessionPath, nil, nil)
}

// SessionInfo is what a server says of a session.
type SessionInfo struct {
	User         string
	Created      time.Time
	LastAccessed time.Time
}

// Session describes the session.
func (c *Client) Session(ctx context.Context) (SessionInfo, error) {
	var info sessionInfo
	if err := c.Do(ctx, http.MethodGet, sessionPath, nil, &info); err != nil {
		return SessionInfo{}, err
	}
	created, err := time.Parse(time.RFC3339, info.CreatedTime)
	if err != nil {
		return SessionInfo{}, errUnreadable
	}
	last, err := time.Parse(time.RFC3339, info.LastAccessedTime)
	if err != nil {
		return SessionInfo{}, errUnreadable
	}
	return SessionInfo{info.User, created, last}, nil
}

// Do sends a request with the session, and decodes its answer into out, which may be nil.
func (c *Client) Do(ctx context.Context, method, path string, body, out any) error {
	answer, err := c.caller.Do(ctx, client.Request{Method: method, Path: path, Body: body})
	if err != nil {
		return err
	}
	return read(answer, out)
}

// CreateCSR makes a key and its CSR, which takes the place of the pending one.
func (c *Client) CreateCSR(ctx context.Context, spec CreateSpec) (string, error) {
	var answer struct {
		CSR string `json:"csr"`
	}
	err := c.Do(ctx, http.MethodPost, csrPath, spec, &answer)
	return answer.CSR, err
}

// CSR returns the pending CSR.
func (c *Client) CSR(ctx context.Context) (string, error) {
	var answer struct {
		CSR string `json:"csr"`
	}
	err := c.Do(ctx, http.MethodGet, csrPath, nil, &answer)
	return answer.CSR, err
}

// DeleteCSR discards the pending CSR and its key.
func (c *Client) DeleteCSR(ctx context.Context) error {
	return c.Do(ctx, http.MethodDelete, csrPath, nil, nil)
}

// Certificate returns the installed certificate, with its chain.
func (c *Client) Certificate(ctx context.Context) (string, error) {
	var answer struct {
		Certificate string `json:"certificate"`
	}
	err := c.Do(ctx, http.MethodGet, certificatePath, nil, &answer)
	return answer.Certificate, err
}

// SetCertificate installs a certificate chain in PEM, the leaf first.
func (c *Client) SetCertificate(ctx context.Context, chain string) error {
	return c.Do(ctx, http.MethodPut, certificatePath, setSpec{&chain}, nil)
}

// read decodes an answer into out, which may be nil, or returns the error that it is.
// Members that are unknown here are other versions' or the vendor's.
func read(answer *client.Response, out any) error {
	if answer.Status < 200 || answer.Status > 299 {
		return ErrorOf(answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Body, out); err != nil {
		return errUnreadable
	}
	return nil
}

// errUnreadable does not quote the answer, which may have a session id.
var errUnreadable = errors.New("the answer is not one of this API: is it the right server?")

// ErrorOf returns the error of an answer, also where it is no document of this dialect.
func ErrorOf(answer *client.Response) error {
	var d document
	if err := json.Unmarshal(answer.Body, &d); err != nil {
		return client.NewError(answer, "")
	}
	var texts []string
	for _, m := range d.Messages {
		texts = append(texts, m.Default)
	}
	return client.NewError(answer, d.ErrorType, texts...)
}

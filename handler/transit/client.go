package transit

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"

	"attestcsr/handler/client"
)

// Client asks a server of this dialect: this service, Vault or OpenBao.
type Client struct{ caller client.Caller }

// NewClient makes a client without a session.
func NewClient(c *client.Client) *Client {
	return &Client{client.Caller{Client: c, Put: func(h http.Header, s client.Session) { h.Set("X-Vault-Token", s.ID) }}}
}

// Use makes the client send a session. renew may be nil, as in client.Caller.
func (c *Client) Use(s client.Session, renew func(context.Context) (client.Session, error)) {
	c.caller.Session, c.caller.Renew = s, renew
}

// Login begins a session. Wrong credentials are an error of the status 401, as in the other
// dialects.
func (c *Client) Login(ctx context.Context, user, password string) (client.Session, error) {
	answer, err := c.caller.Client.Do(ctx, client.Request{
		Method: http.MethodPost, Path: "/v1/auth/userpass/login/" + url.PathEscape(user), Body: map[string]string{"password": password},
	})
	if err != nil {
		return client.Session{}, err
	}
	var body struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	err = readAnswer(answer, &body)
	if e, is := errors.AsType[*client.Error](err); is && e.Status == http.StatusBadRequest {
		e.Status = http.StatusUnauthorized
	}
	if err == nil && body.Auth.Token == "" {
		err = errUnreadable
	}
	return client.Session{ID: body.Auth.Token}, err
}

// Logout ends the session.
func (c *Client) Logout(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "auth/token/revoke-self", nil, nil)
}

// KeyInfo is what a server says of a key.
type KeyInfo struct {
	Name     string                `json:"name"`
	Type     string                `json:"type"`
	Latest   int                   `json:"latest_version"`
	Versions map[string]KeyVersion `json:"keys"` // by their number
}

// KeyVersion is one version of a key.
type KeyVersion struct {
	PublicKey   string `json:"public_key"`        // PEM
	Certificate string `json:"certificate_chain"` // PEM, the leaf first
}

// Key reads a key.
func (c *Client) Key(ctx context.Context, name string) (info KeyInfo, err error) {
	err = c.do(ctx, http.MethodGet, "transit/keys/"+url.PathEscape(name), nil, &struct {
		Data *KeyInfo `json:"data"`
	}{&info})
	return info, err
}

// ToSign is a digest, and how it is signed.
type ToSign struct {
	Digest []byte
	Hash   string // sha2-256, sha2-384 or sha2-512
	Scheme string // pss or pkcs1v15, for RSA keys
}

// wire is the body of a sign or a verify. The salt of PSS is as long as the digest: that
// is the only length here, and not Vault's own choice.
func (t ToSign) wire(signature string) any {
	return struct {
		Input     string `json:"input"`
		Prehashed bool   `json:"prehashed"`
		Hash      string `json:"hash_algorithm"`
		Scheme    string `json:"signature_algorithm"`
		Salt      string `json:"salt_length"`
		Signature string `json:"signature,omitzero"`
	}{base64.StdEncoding.EncodeToString(t.Digest), true, t.Hash, t.Scheme, "hash", signature}
}

// Sign signs with the latest version of a key. A signature of an elliptic curve is ASN.1.
func (c *Client) Sign(ctx context.Context, name string, t ToSign) (version int, signature []byte, err error) {
	var body struct {
		Data struct {
			Signature string `json:"signature"`
		} `json:"data"`
	}
	if err := c.do(ctx, http.MethodPost, "transit/sign/"+url.PathEscape(name), t.wire(""), &body); err != nil {
		return 0, nil, err
	}
	return ParseSignature(body.Data.Signature)
}

// Verify reports whether a signature is that of a version of a key.
func (c *Client) Verify(ctx context.Context, name string, t ToSign, version int, signature []byte) (bool, error) {
	text := prefix + strconv.Itoa(version) + ":" + base64.StdEncoding.EncodeToString(signature)
	var body struct {
		Data struct {
			Valid bool `json:"valid"`
		} `json:"data"`
	}
	err := c.do(ctx, http.MethodPost, "transit/verify/"+url.PathEscape(name), t.wire(text), &body)
	return body.Data.Valid, err
}

// ParseSignature reads a signature in the form of this dialect: vault:vN:BASE64.
func ParseSignature(text string) (version int, signature []byte, err error) {
	s, err := parseSignature(text, false)
	return s.version, s.bytes, err
}

// do sends a request with the session, and decodes its answer into out, which may be nil.
//
// In this dialect, 403 says that a privilege is missing, and also that the session has
// ended. Whether the session is still known tells them apart: then it is begun anew, or the
// error has the status 401, as in the other dialects.
func (c *Client) do(ctx context.Context, method, path string, body, out any) error {
	request := client.Request{Method: method, Path: "/v1/" + path, Body: body}
	answer, err := c.caller.Do(ctx, request)
	if err != nil {
		return err
	}
	if answer.Status == http.StatusForbidden {
		self, err := c.caller.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/auth/token/lookup-self"})
		if err != nil {
			return err
		}
		if self.Status == http.StatusForbidden {
			if answer, err = c.again(ctx, request, answer); err != nil {
				return err
			}
		}
	}
	return readAnswer(answer, out)
}

// again sends a request with a new session, if it may begin one.
func (c *Client) again(ctx context.Context, request client.Request, refused *client.Response) (*client.Response, error) {
	if c.caller.Renew == nil {
		refused.Status = http.StatusUnauthorized
		return refused, nil
	}
	session, err := c.caller.Renew(ctx)
	if err != nil {
		return nil, err
	}
	c.caller.Session = session
	return c.caller.Do(ctx, request)
}

// errUnreadable does not quote the answer, which may have a token.
var errUnreadable = errors.New("the answer is not one of Vault's API: is it the right server?")

// readAnswer decodes an answer, or returns the error that it is. Members that are unknown
// here are other versions' or Vault's.
func readAnswer(answer *client.Response, out any) error {
	if answer.Status < 200 || answer.Status > 299 {
		var d document
		if err := json.Unmarshal(answer.Body, &d); err != nil {
			return client.NewError(answer, "")
		}
		return client.NewError(answer, "", d.Errors...)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Body, out); err != nil {
		return errUnreadable
	}
	return nil
}

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/audit"
)

// maxAnswer has room for a snapshot of a million records.
const maxAnswer = 256 << 20

// Client asks a running service. It implements Operations.
type Client struct{ http http.Client }

var _ Operations = (*Client)(nil)

// Dial returns a client of the service that uses dataDir, or ErrNoService.
func Dial(ctx context.Context, dataDir string) (*Client, error) {
	c, err := dial(ctx, dataDir)
	if err != nil {
		return nil, err
	}
	return &Client{http.Client{
		Timeout: operationTimeout + 2*readTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, dataDir) },
		},
	}}, c.Close()
}

// ask asks for one operation. in is its argument.
func ask[Out any](ctx context.Context, c *Client, name string, in any) (out Out, err error) {
	resp, err := c.post(ctx, name, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	return answer[Out](resp)
}

func (c *Client) post(ctx context.Context, name string, in any) (*http.Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/"+name, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the running service: %w", err)
	}
	return resp, nil
}

// answer reads the result of an operation, or why it failed.
func answer[Out any](resp *http.Response) (out Out, err error) {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return out, fmt.Errorf("the running service did not finish its answer; its log may say why: %w", err)
	case len(text) > maxAnswer:
		return out, errors.New("the answer of the running service is too long: stop the service and run this command again")
	}
	var failed failure
	if resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, &out, json.RejectUnknownMembers(true))
	} else if err = json.Unmarshal(text, &failed, json.RejectUnknownMembers(true)); err == nil {
		return out, errors.New(failed.Error)
	}
	if err != nil {
		return out, fmt.Errorf("the running service is of another version than this command (%s): run the command of its own version, or restart the service", resp.Status)
	}
	return out, nil
}

// ResetPassword implements Operations.
func (c *Client) ResetPassword(ctx context.Context, terminal bool) (Password, error) {
	return ask[Password](ctx, c, "reset-password", terminal)
}

// KeysetStatus implements Operations.
func (c *Client) KeysetStatus(ctx context.Context) (KeysetStatus, error) {
	return ask[KeysetStatus](ctx, c, "keyset-status", nothing{})
}

// RotateKeyset implements Operations.
func (c *Client) RotateKeyset(ctx context.Context) (KeysetStatus, error) {
	return ask[KeysetStatus](ctx, c, "rotate-keyset", nothing{})
}

// RetireKeys implements Operations.
func (c *Client) RetireKeys(ctx context.Context) (KeysetStatus, error) {
	return ask[KeysetStatus](ctx, c, "retire-keys", nothing{})
}

// Unstage implements Operations.
func (c *Client) Unstage(ctx context.Context) error {
	_, err := ask[nothing](ctx, c, "unstage", nothing{})
	return err
}

// Checkpoint implements Operations.
func (c *Client) Checkpoint(ctx context.Context) (string, error) {
	return ask[string](ctx, c, "checkpoint", nothing{})
}

// CheckpointKey implements Operations.
func (c *Client) CheckpointKey(ctx context.Context) (string, error) {
	return ask[string](ctx, c, "checkpoint-key", nothing{})
}

// Accept implements Operations.
func (c *Client) Accept(ctx context.Context, reason string) (audit.Accepted, error) {
	return ask[audit.Accepted](ctx, c, "accept", reason)
}

// Snapshot implements Operations.
func (c *Client) Snapshot(ctx context.Context) (audit.Snapshot, error) {
	return ask[audit.Snapshot](ctx, c, "snapshot", nothing{})
}

// CheckStore implements Operations.
func (c *Client) CheckStore(ctx context.Context) (StoreReport, error) {
	return ask[StoreReport](ctx, c, "check-store", nothing{})
}

// OpenSession implements Operations.
func (c *Client) OpenSession(ctx context.Context, dialect string) (Session, error) {
	return ask[Session](ctx, c, "open-session", dialect)
}

// ListUsers implements Operations.
func (c *Client) ListUsers(ctx context.Context) ([]User, error) {
	return ask[[]User](ctx, c, "list-users", nothing{})
}

// ChangeUser implements Operations.
func (c *Client) ChangeUser(ctx context.Context, change UserChange) (User, error) {
	return ask[User](ctx, c, "change-user", change)
}

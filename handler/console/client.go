package console

import (
	"context"
	"net/http"
	"time"

	"attestcsr/handler/vapi"
)

// Client asks a service of ours what the APIs of the vendors do not say. Its errors have
// the status 404 where the server is another product.
type Client struct{ esx *vapi.Client }

// NewClient makes a client that asks in the session of another one.
func NewClient(esx *vapi.Client) Client { return Client{esx} }

// CheckSpec says what is checked.
type CheckSpec struct {
	Kind        string `json:"kind"`        // certificate or import
	ID          string `json:"id,omitzero"` // of the CSR, with import
	Certificate string `json:"certificate"`
}

// Check asks what a set of a certificate, or an import, would do.
func (c Client) Check(ctx context.Context, spec CheckSpec) (r Report, err error) {
	err = c.esx.Do(ctx, http.MethodPost, checkPath, spec, &r)
	return r, err
}

// PendingSince returns when the pending CSR was made; zero where the server does not say.
func (c Client) PendingSince(ctx context.Context) (time.Time, error) {
	var state struct {
		Pending struct {
			Created string `json:"created"`
		} `json:"pending"`
	}
	if err := c.esx.Do(ctx, http.MethodGet, statePath, nil, &state); err != nil {
		return time.Time{}, err
	}
	since, _ := time.Parse(time.RFC3339, state.Pending.Created)
	return since, nil
}

package serving

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"attestcsr/server/tlscert"
)

const (
	askTimeout = 5 * time.Second
	// The file follows the server's certificate within milliseconds, on a slow disk
	// within a second.
	renewals     = 20
	renewalPause = 100 * time.Millisecond
)

// Ready is a service that is ready.
type Ready struct {
	Address      string // that was asked, host:port
	Fingerprints tlscert.Fingerprints
}

// keyError says that the server on an address has not the key of the file.
type keyError struct{ address, got, want string }

func (e *keyError) Error() string {
	return fmt.Sprintf("another program answers on %s: its public key is %s, not %s", e.address, e.got, e.want)
}

// Check asks the service that runs in dir whether it is ready. It believes only the
// public key in the file: the program that listens on the address may be another one.
// While the operator replaces key and certificate, the file may be a moment behind.
func Check(ctx context.Context, dir string) (Ready, error) {
	for attempt := 1; ; attempt++ {
		state, err := Read(dir)
		if err != nil {
			return Ready{}, err
		}
		ready, err := state.ask(ctx)
		if _, other := errors.AsType[*keyError](err); err == nil || !other || attempt == renewals {
			return ready, err
		}
		select {
		case <-ctx.Done():
			return Ready{}, err
		case <-time.After(renewalPause):
		}
	}
}

// ask calls /readyz.
func (s State) ask(ctx context.Context) (Ready, error) {
	block, _ := pem.Decode([]byte(s.Certificate))
	if block == nil {
		return Ready{}, errors.New("not running: " + File + " has no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Ready{}, fmt.Errorf("not running: the certificate in %s: %w", File, err)
	}
	r := Ready{Address: cmp.Or(s.OpsAddress, s.Address), Fingerprints: tlscert.FingerprintsOf(leaf)}
	client := &http.Client{Timeout: askTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, &r)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost/readyz", nil)
	if err != nil {
		return Ready{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Ready{}, fmt.Errorf("not ready: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return Ready{}, fmt.Errorf("not ready: https://%s/readyz answers %s", r.Address, resp.Status)
	}
	return r, nil
}

// dial connects to the server with the public key of r, and sets the address and the
// certificate that it found.
func dial(ctx context.Context, r *Ready) (net.Conn, error) {
	var errs []error
	for _, address := range Near(r.Address) {
		want := r.Fingerprints.PublicKey
		d := tls.Dialer{Config: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			InsecureSkipVerify: true, //nolint:gosec // VerifyConnection compares the very key
			VerifyConnection: func(state tls.ConnectionState) error {
				found := tlscert.FingerprintsOf(state.PeerCertificates[0])
				if found.PublicKey != want {
					return &keyError{address, found.PublicKey, want}
				}
				r.Address, r.Fingerprints = address, found
				return nil
			},
		}}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// Near returns the addresses under which this machine reaches a listener. One on all
// addresses is reached on both loopback addresses, where the machine has both.
func Near(listener string) []string {
	host, port, err := net.SplitHostPort(listener)
	address, addrErr := netip.ParseAddr(host)
	if err != nil || addrErr != nil || !address.IsUnspecified() {
		return []string{listener}
	}
	v4, v6 := net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)
	if address.Is4() {
		return []string{v4}
	}
	return []string{v4, v6}
}

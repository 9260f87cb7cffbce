package server

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"attestcsr/config"
	"attestcsr/server/tlscert"
)

// CheckHealth calls /readyz of the service that runs with these settings on this
// machine. It trusts exactly the certificate in the service's certificate file.
func CheckHealth(ctx context.Context, cfg *config.Config) error {
	host, port, err := net.SplitHostPort(cmp.Or(cfg.OpsListen, cfg.Listen))
	if err != nil {
		return err
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	certFile, _, _ := certFiles(cfg)
	tlsConfig, err := tlscert.PinnedTo(certFile)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("not ready: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}

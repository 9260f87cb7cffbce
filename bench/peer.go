package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// peer is another server that makes keys and CSRs.
type peer struct {
	name   string
	base   string // scheme and host
	create call   // of an RSA key of 2048 bits
	header http.Header
}

// peerShapes are the servers whose requests are known here.
func peerShapes() map[string]call {
	return map[string]call{
		"cfssl": {"POST", "/api/v1/cfssl/newkey",
			`{"CN":"` + hostname + `","hosts":["` + hostname + `"],"key":{"algo":"rsa","size":2048},"names":[{"O":"Example Ltd","OU":"Hosts","L":"Palo Alto","ST":"California","C":"US"}]}`,
			http.StatusOK},
		"openbao": {"POST", "/v1/pki/intermediate/generate/internal",
			`{"common_name":"` + hostname + `","alt_names":"` + hostname + `","organization":"Example Ltd","ou":"Hosts","key_type":"rsa","key_bits":2048}`,
			http.StatusOK},
	}
}

// parsePeer reads NAME=URL. A path in the URL replaces the usual one, where the
// peer is mounted elsewhere. Only addresses of the loopback interface are taken:
// this program loads a server until it has nothing left.
func parsePeer(text string) (peer, error) {
	name, address, _ := strings.Cut(text, "=")
	create, known := peerShapes()[name]
	if !known {
		return peer{}, fmt.Errorf("peer %q: the shapes of cfssl and openbao are known: cfssl=URL or openbao=URL", text)
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return peer{}, fmt.Errorf("peer %q: the URL has to be http://ADDRESS:PORT or https://ADDRESS:PORT, with or without a path", text)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err != nil || !ip.Unmap().IsLoopback() {
		return peer{}, fmt.Errorf("peer %q: only loopback addresses such as 127.0.0.1 and [::1] are loaded", text)
	}
	if path := u.EscapedPath(); path != "" && path != "/" {
		create.path = path
	}
	return peer{
		name: name, base: u.Scheme + "://" + u.Host, create: create,
		header: http.Header{"Content-Type": {"application/json"}},
	}, nil
}

// parsePeers reads all of them. The token in tokenFile, if any, goes to OpenBao.
func parsePeers(texts []string, tokenFile string) ([]peer, error) {
	var token string
	if tokenFile != "" {
		text, err := os.ReadFile(tokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(string(text))
	}
	var peers []peer
	for _, text := range texts {
		p, err := parsePeer(text)
		if err != nil {
			return nil, err
		}
		if p.name == "openbao" && token != "" {
			p.header.Set("X-Vault-Token", token)
		}
		peers = append(peers, p)
	}
	return peers, nil
}

func (p peer) clients(n int) []*client {
	// Nothing but loopback is reached, and peers have certificates of any kind.
	return newClients(n, p.base, &tls.Config{InsecureSkipVerify: true}, p.header) //nolint:gosec // see above
}

// peers drives the other servers as the phase sustained drives this one.
func peers(ctx context.Context, b *bench) error {
	for _, p := range b.peers {
		for _, n := range []int{1, sustainedClients} {
			clients := p.clients(n)
			figures, err := compare(ctx, b.scale.rounds, b.allCores(), func(ctx context.Context) (samples, error) {
				return closedLoop(ctx, clients, limit{time: b.scale.sustained / 2}, func(int) call { return p.create })
			})
			closeAll(clients)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			b.report.add(figure(p.name+": create RSA 2048, "+plural(n, "client"), figures.figure).
				besides(figures, "raw keys", perSecond, "/s"))
		}
	}
	return nil
}

//go:build tools

package proxies_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// The names that clients know the proxy by. The second is in allowed_origins.
const (
	site    = "csr.example.com"
	console = "console.example.com"
)

// proxy is how to run one: its documented configuration, and what a test replaces.
type proxy struct {
	config  string // in docs/proxies
	listen  string // the address in the configuration
	rewrite func(t *testing.T, config string) string
	run     func(t *testing.T, dir string) *exec.Cmd
}

func proxies() map[string]proxy {
	return map[string]proxy{
		"nginx": {
			config: "nginx.conf", listen: "listen 443 ",
			rewrite: func(t *testing.T, config string) string {
				t.Helper()
				return replace(t, config, "proxy_set_header Host $http_host;", "proxy_set_header Host $proxy_host;")
			},
			run: func(t *testing.T, dir string) *exec.Cmd {
				t.Helper()
				// As root nginx would serve as a user who cannot enter the folder of the test.
				main := kit.Overwrite(t, dir, "main.conf", "daemon off; user root; pid nginx.pid; worker_processes 1;\n"+
					"events {}\nhttp { access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n"+
					"uwsgi_temp_path uwsgi; scgi_temp_path scgi; include "+filepath.Join(dir, "nginx.conf")+"; }\n")
				return exec.Command("nginx", "-p", dir, "-e", "stderr", "-c", main)
			},
		},
		"haproxy": {
			config: "haproxy.cfg", listen: "bind :443 ",
			rewrite: func(t *testing.T, config string) string {
				t.Helper()
				return replace(t, config, "option forwardfor\n", "option forwardfor\n    http-request set-header Host esx-01.example.com\n")
			},
			run: func(t *testing.T, dir string) *exec.Cmd {
				t.Helper()
				return exec.Command("haproxy", "-db", "-f", kit.Overwrite(t, dir, "global.cfg", "global\n    maxconn 200\n"), "-f", filepath.Join(dir, "haproxy.cfg"))
			},
		},
	}
}

// replace replaces what must be there: the configuration that runs is the documented
// one.
func replace(t *testing.T, text, old, by string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("the configuration has %q %d times", old, strings.Count(text, old))
	}
	return strings.Replace(text, old, by, 1)
}

// front is a proxy that runs before a service.
type front struct {
	address string
	roots   *x509.CertPool
	log     *kit.Buffer
	opened  *atomic.Int64 // connections to the service
	http2   bool          // what clients speak
	service *start.Instance
}

// serve runs the proxy before a service.
func (p proxy) serve(t *testing.T, s *start.Instance, rewritten bool) *front {
	t.Helper()
	dir := t.TempDir()
	f := &front{address: freeAddress(t), roots: x509.NewCertPool(), log: &kit.Buffer{}, service: s}
	upstream, opened := forward(t, s.Address())
	f.opened = opened

	config := string(kit.Read(t, "../../docs/proxies", p.config))
	config = replace(t, config, p.listen, strings.Replace(strings.Replace(p.listen, ":443", f.address, 1), "443", f.address, 1))
	config = replace(t, config, "127.0.0.1:8443", upstream)
	config = strings.NewReplacer("/etc/nginx/", dir+"/", "/etc/haproxy/", dir+"/").Replace(config)
	config = strings.ReplaceAll(config, "server_name "+site, "server_name "+site+" "+console)
	if rewritten {
		config = p.rewrite(t, config)
	}
	kit.Overwrite(t, dir, p.config, config)
	f.certify(t, dir)
	kit.CopyFile(t, filepath.Join(s.DataDir, server.OwnCertFile), filepath.Join(dir, "attestcsr.pem"))
	f.start(t, p.run(t, dir))
	kit.Count(t, "proxies before the service", 1)
	return f
}

// freeAddress has a host of its own, since another test may take a port that is free.
func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.%d.%d.%d:%s", 1+rand.IntN(250), 1+rand.IntN(250), 1+rand.IntN(250), start.FreePort(t))
}

// certify gives the proxy a certificate for its names.
func (f *front) certify(t *testing.T, dir string) {
	t.Helper()
	ca, key := kit.NewCA(t, "Example CA", time.Now()), kit.NewKey(t)
	leaf := ca.Issue(t, site, key.Public(), func(c *x509.Certificate) { c.DNSNames = []string{site, console} })
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	kit.Overwrite(t, dir, site+".key", private)
	kit.Overwrite(t, dir, site+".pem", kit.PEM(leaf)+private)
	f.roots.AddCert(ca.Cert)
}

func (f *front) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = f.log, f.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the signal ends it
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		<-exited
		if t.Failed() {
			t.Logf("the proxy says: %s", f.log)
		}
	})
	kit.Eventually(t, "the proxy listens", func() bool {
		select {
		case <-exited:
			t.Fatalf("the proxy ended: %s", f.log)
		default:
		}
		conn, err := net.Dial("tcp", f.address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// forward passes connections on, and counts them.
func forward(t *testing.T, to string) (address string, opened *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	opened = &atomic.Int64{}
	pass := func(from, to net.Conn) {
		_, _ = io.Copy(to, from) // ends with either connection
		_ = to.(*net.TCPConn).CloseWrite()
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			opened.Add(1)
			out, err := net.Dial("tcp", to)
			if err != nil { // the service is gone
				_ = in.Close()
				continue
			}
			go pass(in, out)
			go func() {
				pass(out, in)
				_, _ = in.Close(), out.Close()
			}()
		}
	}()
	return l.Addr().String(), opened
}

// client sends requests to the proxy, by one of its names and from an address of
// this host. It believes the certificate of the proxy alone, and keeps cookies.
func (f *front) client(t *testing.T, from, name string) *start.Instance {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: f.roots},
		ForceAttemptHTTP2: f.http2,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, f.address)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	c := f.service.WithClient(&http.Client{Timeout: time.Minute, Transport: transport, Jar: jar})
	c.T, c.URL = t, "https://"+name
	return c
}

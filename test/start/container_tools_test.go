//go:build tools

package start_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/server"
	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// TestContainer builds the image of the Dockerfile with buildah and runs it with
// podman the way a careful operator would: read-only root file system, no
// capabilities, no way to gain any.
func TestContainer(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.build(t)
	e.inspect(t)

	address := "127.0.0.1:" + start.FreePort(t)
	e.podman(t, "run", "--detach", "--name", "attestcsr", "--network", "host",
		"--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", containerImage,
		"serve", "--listen", address, "--data-dir", "/data/below") // the image's health check is not told
	t.Cleanup(func() {
		if t.Failed() {
			logs, err := e.command(context.Background(), "podman", "logs", "attestcsr").CombinedOutput()
			t.Logf("the container's log: %v\n%s", err, logs)
		}
		if _, err := e.try(context.Background(), "podman", "rm", "--force", "--volumes", "attestcsr"); err != nil {
			t.Error(err)
		}
	})
	e.healthy(t)

	files := e.dataFiles(t)
	s := &start.Instance{
		T: t, URL: "https://" + address, Client: start.NewClient(),
		Password: strings.TrimSpace(string(files["data/below/"+server.InitialPasswordFile])),
	}
	s.Must(http.StatusOK, http.MethodGet, "/readyz", "")
	made := s.Must(http.StatusCreated, http.MethodPost, start.CSRPath, start.ValidSpec)
	if _, err := kit.ParseCSR(start.Member(t, made, "csr")); err != nil {
		t.Error(err)
	}

	// SIGTERM ends it cleanly, well before the engine would kill it, and what it
	// kept is there after a restart.
	begin := time.Now()
	e.podman(t, "stop", "--time", "30", "attestcsr")
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if status := e.podman(t, "inspect", "--format", "{{.State.ExitCode}}", "attestcsr"); status != "0" {
		t.Errorf("exit status %s after SIGTERM", status)
	}
	e.podman(t, "start", "attestcsr")
	e.healthy(t)
	if kept := s.Must(http.StatusOK, http.MethodGet, start.CSRPath, ""); kept != made {
		t.Errorf("after a restart: %s", kept)
	}
}

const containerImage = "localhost/attestcsr:test"

// engine runs buildah and podman on a storage of their own.
type engine struct{ dir string }

func newEngine(t *testing.T) engine {
	t.Helper()
	e := engine{dir: t.TempDir()}
	// vfs needs nothing of the host's file systems.
	conf := fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", e.dir+"/graph", e.dir+"/run")
	if err := os.WriteFile(e.dir+"/storage.conf", []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e engine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if name == "podman" {
		args = append([]string{"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--tmpdir", e.dir + "/tmp"}, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+e.dir+"/storage.conf")
	return cmd
}

// try runs a command that may fail and returns what it wrote to standard output.
func (e engine) try(ctx context.Context, name string, args ...string) (string, error) {
	cmd := e.command(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", cmd, err, out, stderr.Bytes())
	}
	return string(out), nil
}

func (e engine) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := e.try(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (e engine) podman(t *testing.T, args ...string) string {
	t.Helper()
	return e.run(t, "podman", args...)
}

// build builds the Dockerfile without a registry and without a network. In place
// of the golang image stands an empty tree on which the build finds this host's
// /usr, Go and module cache mounted.
func (e engine) build(t *testing.T) {
	t.Helper()
	e.run(t, "go", "mod", "download") // go test fetches only what this platform compiles
	goEnv := strings.Split(e.run(t, "go", "env", "GOROOT", "GOMODCACHE", "GOCACHE"), "\n")

	base := filepath.Join(e.dir, "base")
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(base+"/rootfs.tar", rootFS(t), 0o600); err != nil {
		t.Fatal(err)
	}
	const standIn = "FROM scratch\nADD rootfs.tar /\nENV PATH=/goroot/bin:/usr/bin GOPATH=/go GOCACHE=/gocache GOTOOLCHAIN=local\n"
	if err := os.WriteFile(base+"/Dockerfile", []byte(standIn), 0o600); err != nil {
		t.Fatal(err)
	}
	e.run(t, "buildah", "bud", "--isolation", "chroot", "--pull-never", "--tag", "docker.io/library/golang:1.26", base)
	e.run(t, "buildah", "bud", "--isolation", "chroot", "--pull-never", "--format", "docker", "--tag", containerImage,
		"--volume", "/usr:/usr:ro",
		"--volume", goEnv[0]+":/goroot:ro",
		"--volume", goEnv[1]+"/cache/download:/proxy:ro",
		"--volume", goEnv[2]+":/gocache",
		"--build-arg", "GOPROXY=file:///proxy,off", "--build-arg", "GOFLAGS=", "--build-arg", "VERSION=1.2.3", "../..")
}

// rootFS is a tree of mount points and of the links by which programs in /usr
// find their libraries.
func rootFS(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	entry := func(h tar.Header) {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"dev", "etc", "go", "gocache", "goroot", "proc", "proxy", "root", "sys", "usr"} {
		entry(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
	}
	entry(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777})
	for _, link := range []string{"bin", "lib", "lib64"} {
		entry(tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: "usr/" + link})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inspect checks what the image promises to those who run it.
func (e engine) inspect(t *testing.T) {
	t.Helper()
	for format, want := range map[string]string{
		"{{.Config.User}}":                                      "65532:65532",
		"{{json .Config.Entrypoint}}":                           `["/attestcsr"]`,
		"{{json .Config.Cmd}}":                                  `["serve"]`,
		"{{json .Config.Volumes}}":                              `{"/data":{}}`,
		"{{json .Config.ExposedPorts}}":                         `{"8443/tcp":{}}`,
		"{{json .HealthCheck.Test}}":                            `["CMD","/attestcsr","healthcheck"]`,
		`{{index .Labels "org.opencontainers.image.version"}}`:  "1.2.3",
		`{{index .Labels "org.opencontainers.image.licenses"}}`: "Apache-2.0",
	} {
		if got := e.podman(t, "image", "inspect", "--format", format, containerImage); got != want {
			t.Errorf("%s is %s, want %s", format, got, want)
		}
	}
	const maxSize = 27e6 // bytes: the binary and nothing else to speak of
	size, err := strconv.Atoi(e.podman(t, "image", "inspect", "--format", "{{.Size}}", containerImage))
	if err != nil || size > maxSize {
		t.Errorf("the image has %d bytes, %v; at most %d", size, err, int(maxSize))
	}
	t.Logf("the image has %.1f MB", float64(size)/1e6)
	if got := e.podman(t, "run", "--rm", "--network", "none", "--read-only", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", containerImage, "version"); got != "attestcsr 1.2.3" {
		t.Errorf("version prints %q", got)
	}
}

// healthy waits until the image's own health check passes.
func (e engine) healthy(t *testing.T) {
	t.Helper()
	var err error
	healthy := kit.Until(func() bool {
		_, err = e.try(t.Context(), "podman", "healthcheck", "run", "attestcsr")
		return err == nil
	})
	if !healthy {
		t.Fatal("not healthy: ", err)
	}
}

// dataFiles returns what is in the volume, and checks that nobody but the
// service can look at it.
func (e engine) dataFiles(t *testing.T) map[string][]byte {
	t.Helper()
	archive, err := e.try(t.Context(), "podman", "cp", "attestcsr:/data", "-")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(strings.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		want := int64(0o600)
		if h.Typeflag == tar.TypeDir {
			want = 0o700
		}
		if h.Uid != 65532 || h.Gid != 65532 || h.Mode&0o7777 != want {
			t.Errorf("%s belongs to %d:%d with mode %04o, want 65532:65532 and %04o", h.Name, h.Uid, h.Gid, h.Mode, want)
		}
		if files[path.Clean(h.Name)], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

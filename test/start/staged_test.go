package start_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// setNew makes a CSR and sets a certificate for it. It returns the certificate in PEM, and
// the answer.
func setNew(t *testing.T, s *start.Instance, ca *kit.CA, want int) (leaf, answer string) {
	t.Helper()
	var made struct{ CSR string }
	err := json.Unmarshal([]byte(s.Must(201, "POST", start.CSRPath, start.ValidSpec)), &made)
	request, err2 := kit.ParseCSR(made.CSR)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	leaf = kit.PEM(ca.Issue(t, "x", request.PublicKey))
	return leaf, s.Must(want, "PUT", start.CertificatePath, `{"certificate":`+strconv.Quote(leaf)+`}`)
}

// installed returns the certificate that clients get.
func installed(t *testing.T, s *start.Instance) string {
	t.Helper()
	var got struct{ Certificate string }
	if err := json.Unmarshal([]byte(s.Must(200, "GET", start.CertificatePath, "")), &got); err != nil {
		t.Fatal(err)
	}
	return got.Certificate
}

// TestUnstage: the command takes a staged certificate back, beside a running service and
// without one. The one before stays, and the trail says who did it.
func TestUnstage(t *testing.T) {
	t.Parallel()
	s := start.Serve(t, start.Options{Binary: start.Binary(t), Settings: "certificate: {activate_after: 1h}\n"})
	ca, before := kit.NewCA(t, "CA", time.Now()), installed(t, s)
	for i, method := range []string{"control", "command"} {
		setNew(t, s, ca, 204)
		if method == "command" {
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		if out := must(t, s.DataDir, "certificate unstage"); !strings.Contains(out, "the staged certificate is withdrawn") {
			t.Errorf("it prints %s", out)
		}
		l := wantLine(t, s.DataDir, "certificate.unstage", i+1)
		if l.Event != "change" || l.Method != method || !strings.HasPrefix(l.User, fmt.Sprintf("uid:%d", os.Geteuid())) || l.Slot != "esx/attestation/staged" {
			t.Errorf("%+v", l)
		}
		if out, status := command(t, s.DataDir, "certificate unstage"); status != 1 || out != "attestcsr: no certificate is staged\n" {
			t.Errorf("status %d: %s", status, out)
		}
		must(t, s.DataDir, "store check")
	}
	s = start.Serve(t, start.Options{Binary: start.Binary(t), DataDir: s.DataDir})
	if installed(t, s) != before {
		t.Error("another certificate is installed")
	}
}

// TestActivation: clients get the old certificate until the new one is due. A service that
// was killed meanwhile makes it active at its start.
func TestActivation(t *testing.T) {
	t.Parallel()
	o := start.Options{Binary: start.Binary(t), Settings: "publish: {max_age: 1s}\ncertificate: {activate_after: 4s}\n"}
	s := start.Serve(t, o)
	ca := kit.NewCA(t, "CA", time.Now())
	for i := range 2 {
		before := installed(t, s)
		leaf, _ := setNew(t, s, ca, 204)
		if got := installed(t, s); got != before {
			t.Errorf("it is active at once:\n%s", got)
		}
		if i > 0 {
			s.Kill()
			<-s.Exited
			o.DataDir = s.DataDir
			s = start.Serve(t, o)
		}
		kit.Eventually(t, "the certificate is active", func() bool { return installed(t, s) == leaf })
		if l := wantLine(t, s.DataDir, "certificate.activate", i+1); l.User != "system:service" || l.Slot != "esx/attestation/certificate" {
			t.Errorf("%+v", l)
		}
	}
	must(t, s.DataDir, "store check")
}

package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"attestcsr/csr/pkcs10"
	"attestcsr/handler/console"
	"attestcsr/handler/vapi"
	"attestcsr/test/kit"
)

// at is the clock of these tests.
func at() time.Time { return time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC) }

// golden compares a text with that of a file. With UPDATE_GOLDEN in the environment it
// writes the file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		kit.Overwrite(t, "testdata/show", file, got)
	}
	if want := string(kit.Read(t, "testdata/show", file)); got != want {
		t.Errorf("%s differs:\n%s\nwant:\n%s", file, got, want)
	}
}

// show runs a command on a file, far from any server.
func show(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), process{args: args, stdin: strings.NewReader(""), stdout: &out, stderr: &errs, now: at}); status != 0 {
		t.Fatalf("%v: exit status %d: %s", args, status, &errs)
	}
	return out.String()
}

// TestShow: what people see of CSRs and certificates of many makes.
func TestShow(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/show/*.*")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, file := range files {
		name := filepath.Base(file)
		command := "certificate"
		switch filepath.Ext(file) {
		case ".golden":
			continue
		case ".csr":
			command = "csr"
		}
		text := show(t, command, "show", file)
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Errorf("%s: a control character is shown", name)
		}
		golden(t, name+".golden", text)
		// What is shown as PEM is the same CSR or chain.
		again := kit.Overwrite(t, t.TempDir(), "again", show(t, command, "show", file, "--output", "pem"))
		if show(t, command, "show", again) != text {
			t.Errorf("%s: its PEM is shown as another one", name)
		}
		if text := show(t, command, "show", file, "--output", "json"); !strings.HasPrefix(text, "{\n") || strings.Contains(text, "null") {
			t.Errorf("%s in JSON: %s", name, text)
		}
		shown++
	}
	if shown < 20 {
		t.Errorf("%d files", shown)
	}
	kit.Count(t, "CSRs and certificates shown", shown)
}

// TestShowCompared: what a server adds.
func TestShowCompared(t *testing.T) {
	t.Parallel()
	chain, err := readChain([]string{"testdata/show/openssl-pkcs7.der"})
	if err != nil {
		t.Fatal(err)
	}
	messages := func(check string, result string, texts ...string) console.Result {
		r := console.Result{Check: check, Result: result}
		for _, text := range texts {
			r.Messages = append(r.Messages, vapi.Message{Default: text})
		}
		return r
	}
	for name, report := range map[string]console.Report{
		"pending": {
			Accepted: true, Key: "pending", Active: "2027-03-02T12:00:00Z",
			Staged: &console.Staged{Since: "2027-02-28T12:00:00Z", Active: "2027-03-01T13:00:00Z", SHA256: strings.Repeat("ab", 32)},
			Checks: []console.Result{
				messages("names", "warning", `alternative name "a" is missing`, "a\x1b[31m"), messages("anchor", "not_made", "not checked against an anchor"),
				messages("renewal", "warning", "it ends before"),
			},
		},
		"anchored": {Accepted: true, Key: "installed", Anchored: true, Unchanged: true},
		"none":     {Checks: []console.Result{messages("key", "failed", "it answers nothing")}},
	} {
		view := newChainView(chain, at())
		view.take(report)
		golden(t, "compared-"+name+".golden", view.text(at())+view.done()+"\n")
	}
	csr := func(name string) string { return string(kit.Read(t, "testdata/show", name)) }
	for name, text := range map[string]string{"here": csr("openssl-rsa.csr"), "other": csr("ours.csr")} {
		view := newChainView(chain, at())
		if err := view.compareWith(text, chain.Leaf()); err != nil {
			t.Fatal(err)
		}
		golden(t, "compared-"+name+".golden", view.text(at()))
	}
	if view := newChainView(chain, at()); view.compareWith("x", chain.Leaf()) == nil {
		t.Error("compared with no CSR")
	}
	request, err := pkcs10.ParseRequest(csr("ours.csr"))
	if err != nil {
		t.Fatal(err)
	}
	view := newRequestView(request)
	view.PendingSince = new(at().Add(-3 * time.Hour))
	golden(t, "pending-csr.golden", view.text(at()))
}

// TestAges: how long something is ago, and how many days are left.
func TestAges(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 seconds", 59 * time.Second: "59 seconds", time.Minute: "1 minute", 3 * time.Hour: "3 hours", 47 * time.Hour: "47 hours", 48 * time.Hour: "2 days",
	} {
		if got := age(d); got != want {
			t.Errorf("%s: %q", d, got)
		}
	}
	for left, want := range map[time.Duration]int{0: 0, time.Hour: 0, 24 * time.Hour: 1, -time.Hour: -1, -24 * time.Hour: -1, -25 * time.Hour: -2} {
		if got := daysLeft(at().Add(left), at()); got != want {
			t.Errorf("%s: %d", left, got)
		}
	}
}

package audit_test

import (
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"attestcsr/csr/audit"
	"attestcsr/test/kit"
)

// Each line of both streams is in the log, as it is in its file and in the same
// order.
func TestCopyToLog(t *testing.T) {
	t.Parallel()
	out := &kit.Buffer{}
	tr := newTrail(t, func(o *audit.Options) {
		o.CopyToLog, o.Logger = true, slog.New(slog.NewJSONHandler(out, nil))
	})
	tr.changes(5)
	tr.log.Refuse(refusal("<ü>", "192.0.2.1", "unauthenticated"))
	tr.close()

	copied := map[string]string{}
	for text := range strings.Lines(out.String()) {
		var event struct {
			Msg  string          `json:"msg"`
			Line json.RawMessage `json:"line"`
		}
		var line parsed
		if err := json.Unmarshal([]byte(text), &event); err != nil || event.Msg != "audit" {
			t.Fatalf("%s: %v", text, err)
		}
		if err := json.Unmarshal(event.Line, &line); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		copied[line.Stream] += string(event.Line) + "\n"
	}
	for _, stream := range []string{audit.Changes, audit.Refusals} {
		if want := string(kit.Read(t, "", tr.files(stream)[0])); copied[stream] != want {
			t.Errorf("the log has\n%s\nnot\n%s", copied[stream], want)
		}
	}
}

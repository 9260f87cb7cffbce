package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
)

// copyToLog brings durable lines to the log, for collectors, where the settings say so.
// The files are the evidence, and nothing waits for a log: where the log drops lines,
// their sequence numbers are missing.
func (c *chain) copyToLog(lines []byte) {
	if !c.copies {
		return
	}
	for line := range bytes.Lines(lines) {
		// A JSON log holds the line as an object, byte for byte as in the file. A text
		// log holds it as a quoted string.
		c.log.LogAttrs(context.Background(), slog.LevelInfo, "audit", slog.Any("line", json.RawMessage(bytes.TrimSuffix(line, []byte("\n")))))
	}
}

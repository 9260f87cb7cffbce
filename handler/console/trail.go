package console

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/vapi"
)

const (
	trailLines    = 50 // of a page that does not say how many
	maxTrailLines = 200
)

// trailReply is the answer of GET /console/trail. A page may have few lines, or none,
// though the cursor goes on: the filters kept none of those that were read.
type trailReply struct {
	Lines      []audit.Line `json:"lines"`
	Cursor     string       `json:"cursor,omitzero"`
	Unreadable int          `json:"unreadable,omitzero"`
}

func readTrail(c echo.Context, _ csr.Caller, authorise Authorise) error {
	grant, err := authorise(csr.ReadTrail)
	if err != nil {
		return err
	}
	parameters, err := readQuery(c, []string{"who", "what", "object", "cursor", "limit"})
	if err != nil {
		return err
	}
	limit, err := limitOf(parameters, trailLines, maxTrailLines)
	if err != nil {
		return err
	}
	page, err := grant.Trail(c.Request().Context(), audit.Query{
		Who: parameters["who"], What: parameters["what"], Object: parameters["object"], After: parameters["cursor"], Limit: limit,
	})
	if errors.Is(err, audit.ErrPosition) {
		return errCursor()
	}
	if err != nil {
		return err
	}
	return vapi.Reply(c, http.StatusOK, trailReply{page.Lines, page.Next, page.Unreadable})
}

package auth

import (
	"cmp"
	"context"

	"attestcsr/csr/audit"
)

// record counts an attempt, and reports it to the audit trail where it was refused.
func (a *Authenticator) record(ctx context.Context, at attempt, err error) {
	a.metrics.count(at.method, outcomeOf(err))
	a.reportRefusal(ctx, at, err)
}

// reportRefusal reports bad credentials to the audit trail, and nothing else.
func (a *Authenticator) reportRefusal(ctx context.Context, at attempt, err error) {
	o := outcomeOf(err)
	text := string(o)
	switch o {
	case failure:
		text = "unauthenticated"
	case forged, throttled:
	default:
		return
	}
	request := audit.FromContext(ctx)
	request.Address = cmp.Or(request.Address, at.address)
	a.refused(audit.Refusal{Request: request, User: a.knownUser(at), Method: at.method, Outcome: text})
}

// knownUser returns the user of refused credentials if there is such a user. Another
// name is not reported: people type passwords into the wrong field.
func (a *Authenticator) knownUser(at attempt) string {
	if at.method == bySession {
		return a.sessions.owner(at.claim)
	}
	if _, known := a.users.Load().hashOf(at.user); !known {
		return ""
	}
	return at.user
}

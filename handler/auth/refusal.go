package auth

import (
	"cmp"
	"context"

	"attestcsr/csr/audit"
)

// count counts an attempt, and tells the audit trail of one that was refused. user
// is what was offered where the request does not say it.
func (a *Authenticator) count(ctx context.Context, by string, at attempt, user string, err error) {
	a.metrics.count(by, outcomeOf(err))
	a.tell(ctx, by, at, user, err)
}

// begin makes a session for whoever an attempt found, which is refused where the
// user has gone meanwhile.
func (a *Authenticator) begin(ctx context.Context, by string, at attempt, who identity, realm Realm) (Login, error) {
	made, err := a.sessions.create(who, realm)
	a.tell(ctx, by, at, who.user, err)
	return made, err
}

// tell tells the audit trail of a refusal.
func (a *Authenticator) tell(ctx context.Context, by string, at attempt, user string, err error) {
	o := outcomeOf(err)
	if o != failure && o != forged && o != throttled {
		return
	}
	request := audit.FromContext(ctx)
	request.Address = cmp.Or(request.Address, at.address)
	a.refused(audit.Refusal{Request: request, User: a.whose(by, at, user), Method: by, Outcome: refusalOutcome(o)})
}

// refusalOutcome is the outcome as the audit trail names it.
func refusalOutcome(o outcome) string {
	if o == failure {
		return "unauthenticated"
	}
	return string(o)
}

// whose returns the user whom refused credentials are about, where there is one. A
// name that is no user's is not told: people type passwords into the wrong field.
func (a *Authenticator) whose(by string, at attempt, user string) string {
	switch by {
	case bySession:
		return a.sessions.owner(at)
	case byPassword:
		user, _, _ = parseBasic(at.request.Header["Authorization"][0])
	}
	if _, known := a.users.Load().hashOf(user); !known {
		return ""
	}
	return user
}

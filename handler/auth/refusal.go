package auth

import (
	"net/http"

	"attestcsr/csr"
	"attestcsr/csr/audit"
)

// RefuseForged refuses a request that another site made a browser send, as cause says,
// without looking at its credentials. It is counted and reported as a cookie without
// its token is. The error is a *csr.Error of kind Forged.
func (a *Authenticator) RefuseForged(r *http.Request, from audit.Request, realm Realm, cause error) error {
	err := &csr.Error{Kind: csr.Forged, Err: cause}
	a.record(newAttempt(r, from, realm), err)
	return err
}

// record counts an attempt, and reports it to the audit trail where it was refused.
func (a *Authenticator) record(at attempt, err error) {
	a.metrics.attempts.WithLabelValues(at.method, string(outcomeOf(err))).Inc()
	a.reportRefusal(at, err)
}

// reportRefusal reports bad credentials to the audit trail, and nothing else.
func (a *Authenticator) reportRefusal(at attempt, err error) {
	o := outcomeOf(err)
	text := string(o)
	switch o {
	case failure:
		text = "unauthenticated"
	case forged, throttled:
	default:
		return
	}
	a.cfg.Refused(audit.Refusal{Request: at.by(a.knownUser(at)), Outcome: text})
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

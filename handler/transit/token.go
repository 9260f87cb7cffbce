package transit

import (
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
)

// Token is a session of this dialect.
type Token struct {
	ID         string
	User       string
	Privileges []csr.Privilege
	Created    time.Time
	Expires    time.Time // unless it is used before
}

// Sessions begins and ends the sessions of this dialect, and says who sends a request. Its
// errors are *csr.Error.
type Sessions interface {
	LoginToken(c echo.Context, user, password string) (Token, error)
	// Token is the one that the request carries. It counts as a use of it.
	Token(c echo.Context) (Token, error)
	Logout(c echo.Context) error
	Caller(c echo.Context) (csr.Caller, error)
}

// grantee is the member "auth" of an answer. Policies are the privileges of the user.
type grantee struct {
	ClientToken   string            `json:"client_token"`
	Accessor      string            `json:"accessor"`
	Policies      []csr.Privilege   `json:"policies"`
	TokenPolicies []csr.Privilege   `json:"token_policies"`
	Metadata      map[string]string `json:"metadata"`
	LeaseDuration int64             `json:"lease_duration"`
	Renewable     bool              `json:"renewable"`
	EntityID      string            `json:"entity_id"`
	TokenType     string            `json:"token_type"`
	Orphan        bool              `json:"orphan"`
	NumUses       int               `json:"num_uses"`
}

func (t Token) grantee() *grantee {
	return &grantee{
		ClientToken: t.ID, Policies: t.policies(), TokenPolicies: t.policies(), Metadata: t.metadata(),
		LeaseDuration: t.seconds(), Renewable: true, TokenType: "service", Orphan: true,
	}
}

// policies is never null.
func (t Token) policies() []csr.Privilege { return append([]csr.Privilege{}, t.Privileges...) }

func (t Token) metadata() map[string]string { return map[string]string{"username": t.User} }

// seconds are left until the token ends if it is not used.
func (t Token) seconds() int64 { return max(0, int64(time.Until(t.Expires).Seconds())) }

type loginBody struct {
	Password *string `json:"password" validate:"required"`
}

func (t *transit) login(c echo.Context) error {
	user, err := parameter(c, "user")
	if err != nil {
		return err
	}
	var body loginBody
	if err := t.bodies.read(c, func(text []byte) (err error) { body, err = decode(t.logins, text); return err }); err != nil {
		return err
	}
	token, err := t.cfg.Sessions.LoginToken(c, user, *body.Password)
	if e, ok := errors.AsType[*csr.Error](err); ok && e.Kind == csr.Unauthenticated {
		return &wrongPassword{err}
	}
	if err != nil {
		return err
	}
	return answer(c, nil, token.grantee())
}

// lookup answers what a token is.
func (t *transit) lookup(c echo.Context) error {
	token, err := t.cfg.Sessions.Token(c)
	if err != nil {
		return err
	}
	return answer(c, struct {
		Accessor       string            `json:"accessor"`
		CreationTime   int64             `json:"creation_time"`
		CreationTTL    int64             `json:"creation_ttl"`
		DisplayName    string            `json:"display_name"`
		EntityID       string            `json:"entity_id"`
		ExpireTime     string            `json:"expire_time"`
		ExplicitMaxTTL int64             `json:"explicit_max_ttl"`
		ID             string            `json:"id"`
		IssueTime      string            `json:"issue_time"`
		Meta           map[string]string `json:"meta"`
		NumUses        int               `json:"num_uses"`
		Orphan         bool              `json:"orphan"`
		Path           string            `json:"path"`
		Policies       []csr.Privilege   `json:"policies"`
		Renewable      bool              `json:"renewable"`
		TTL            int64             `json:"ttl"`
		Type           string            `json:"type"`
	}{
		CreationTime: token.Created.Unix(), CreationTTL: int64(token.Expires.Sub(token.Created).Seconds()),
		DisplayName: "userpass-" + token.User, ExpireTime: formatTime(token.Expires), ID: token.ID, IssueTime: formatTime(token.Created),
		Meta: token.metadata(), Orphan: true, Path: "auth/userpass/login/" + token.User, Policies: token.policies(),
		Renewable: true, TTL: token.seconds(), Type: "service",
	}, nil)
}

// renew answers how long the token lasts. Any use renews it, up to the lifetime of
// sessions, and no increment changes that: the body is not read.
func (t *transit) renew(c echo.Context) error {
	token, err := t.cfg.Sessions.Token(c)
	if err != nil {
		return err
	}
	return answer(c, nil, token.grantee())
}

func (t *transit) revoke(c echo.Context) error {
	if err := t.cfg.Sessions.Logout(c); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

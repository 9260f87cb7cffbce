package console

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/handler/strict"
	"attestcsr/handler/vapi"
)

const sessionPath = "/console/session"

// User is whose session it is.
type User struct {
	Name       string
	Privileges []csr.Privilege
}

// Sessions begins, shows and ends the sessions of pages. Its errors are *csr.Error.
type Sessions interface {
	LoginConsole(c echo.Context, user, password string) (id string, who User, err error)
	User(c echo.Context) (User, error)
	Logout(c echo.Context) error
}

func registerSessions(cfg Config, open func(method, path string, handle echo.HandlerFunc)) {
	open(http.MethodPost, sessionPath, newLogin(cfg))
	open(http.MethodGet, sessionPath, func(c echo.Context) error {
		who, err := cfg.Sessions.User(c)
		if err != nil {
			return err
		}
		return replyUser(c, who)
	})
	open(http.MethodDelete, sessionPath, func(c echo.Context) error {
		if err := cfg.Sessions.Logout(c); err != nil {
			return err
		}
		setCookie(c, cfg.Cookie+"=; Max-Age=0")
		return c.NoContent(http.StatusNoContent)
	})
}

type loginSpec struct {
	User     *string `json:"user" validate:"required"`
	Password *string `json:"password" validate:"required"`
}

func newLogin(cfg Config) echo.HandlerFunc {
	in := strict.New[loginSpec]()
	return func(c echo.Context) error {
		body, err := vapi.Decode(c, in)
		if err != nil {
			return err
		}
		id, who, err := cfg.Sessions.LoginConsole(c, *body.User, *body.Password)
		if err != nil {
			return err
		}
		setCookie(c, cfg.Cookie+"="+id)
		return replyUser(c, who)
	}
}

// setCookie adds what a browser asks of a cookie whose name begins with __Host-.
func setCookie(c echo.Context, cookie string) {
	c.Response().Header().Set(echo.HeaderSetCookie, cookie+"; Path=/; Secure; HttpOnly; SameSite=Strict")
}

func replyUser(c echo.Context, who User) error {
	return vapi.Reply(c, http.StatusOK, struct {
		User       string          `json:"user"`
		Privileges []csr.Privilege `json:"privileges"`
	}{who.Name, append([]csr.Privilege{}, who.Privileges...)})
}

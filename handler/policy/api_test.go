package policy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"attestcsr/csr"
	"attestcsr/csr/audit"
	"attestcsr/handler/policy"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/sealed"
)

// quickSpec has a key that is cheap to make.
const quickSpec = `{"subject":{"attributes":[{"key":"CN","value":"quick.example.com"}]},"algorithm":"EC"}`

// noSessions is for callers that need none.
type noSessions struct{}

func (noSessions) LoginPassword(echo.Context, string, string) (id, token string, err error) {
	return "", "", &csr.Error{Kind: csr.Unauthenticated}
}
func (noSessions) Logout(echo.Context) error { return &csr.Error{Kind: csr.Unauthenticated} }

// newAPI serves the dialect over a store of its own, to a caller who may do
// everything, with room for limit certification requests.
func newAPI(tb testing.TB, limit int) (http.Handler, keystore.Store) {
	tb.Helper()
	dir := tb.TempDir()
	store, err := bolt.Open(filepath.Join(dir, "attestcsr.db"), bolt.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	custodian, err := sealed.Open(sealed.Options{KeysetFile: filepath.Join(dir, "keyset.json"), Create: true})
	if err != nil {
		tb.Fatal(err)
	}
	keys, err := keystore.Open(tb.Context(), keystore.Options{Store: store, Custodian: custodian})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := keys.Close(); err != nil {
			tb.Error(err)
		}
	})
	service, err := csr.New(csr.Config{Keys: keys, KeySizes: []int{2048}, Hostname: "localhost", MaxRequests: limit})
	if err != nil {
		tb.Fatal(err)
	}
	caller := csr.Caller{Request: audit.Request{User: "admin"}, Privileges: csr.Privileges()}
	e := echo.New()
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if err := policy.WriteError(c, "rid", err); err != nil {
			tb.Error(err)
		}
	}
	policy.Register(noSessions{}, func(method, path string, operation policy.Operation, handle policy.Handle) {
		e.Add(method, path, func(c echo.Context) error {
			if operation == nil {
				return handle(c, nil)
			}
			o, err := operation(c.Request())
			if err != nil {
				return err
			}
			grant, err := service.Authorise(caller, o)
			if err != nil {
				return err
			}
			return handle(c, grant)
		})
	})
	return e, store
}

func TestFullCollection(t *testing.T) {
	t.Parallel()
	const limit = 3
	h, _ := newAPI(t, limit)
	send := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/policy/api/v1/infra/csrs"+path, strings.NewReader(quickSpec)))
		return w
	}
	for i := range limit {
		if w := send(http.MethodPost, fmt.Sprintf("/%d?action=create", i)); w.Code != http.StatusCreated {
			t.Fatalf("%d: %d %s", i, w.Code, w.Body)
		}
	}
	w := send(http.MethodPost, "/more?action=create")
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "{csrs is full: it takes 3 objects}") {
		t.Errorf("one more: %d %s", w.Code, w.Body)
	}
	if w := send(http.MethodPost, "/0?action=create"); !strings.Contains(w.Body.String(), `"error_code":500127`) {
		t.Errorf("an id that is taken: %d %s", w.Code, w.Body)
	}
	if w := send(http.MethodPost, "/0?action=self_sign"); w.Code != http.StatusCreated {
		t.Errorf("self_sign: %d %s", w.Code, w.Body)
	}
	if w := send(http.MethodPost, "/more?action=create"); w.Code != http.StatusCreated {
		t.Errorf("after one was used up: %d %s", w.Code, w.Body)
	}
}

// The longest position there can be fits into a cursor.
func TestLongestCursor(t *testing.T) {
	t.Parallel()
	h, _ := newAPI(t, 2)
	spec := strings.Replace(quickSpec, "{", `{"display_name":"`+strings.Repeat("𝄞", 255)+`",`, 1)
	for _, id := range []string{strings.Repeat("a", 255), strings.Repeat("b", 255)} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/policy/api/v1/infra/csrs/"+id+"?action=create", strings.NewReader(spec)))
		if w.Code != http.StatusCreated {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	cursor := getPage(t, h, "page_size=1&sort_by=display_name")
	if cursor == "" {
		t.Fatal("no second page")
	}
	if more := getPage(t, h, "page_size=1&sort_by=display_name&cursor="+cursor); more != "" {
		t.Errorf("a third page: %s", more)
	}
}

package policy

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"attestcsr/handler/client"
)

// Client asks a server of this dialect: this service or the vendor's product.
type Client struct{ caller client.Caller }

// NewClient makes a client without a session.
func NewClient(c *client.Client) *Client {
	return &Client{client.Caller{Client: c, Put: func(h http.Header, s client.Session) {
		h.Set("Cookie", SessionCookie+"="+s.ID)
		h.Set(XSRFHeader, s.XSRF)
	}}}
}

// Use makes the client send a session. renew may be nil, as in client.Caller.
func (c *Client) Use(s client.Session, renew func(context.Context) (client.Session, error)) {
	c.caller.Session, c.caller.Renew = s, renew
}

// Login begins a session.
func (c *Client) Login(ctx context.Context, user, password string) (s client.Session, err error) {
	form := url.Values{"j_username": {user}, "j_password": {password}}
	answer, err := c.caller.Client.Do(ctx, client.Request{
		Method: http.MethodPost, Path: LoginPath, Body: []byte(form.Encode()),
		Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
	})
	if err != nil {
		return s, err
	}
	if err := failed(answer); err != nil {
		return s, err
	}
	cookies := (&http.Response{Header: answer.Header}).Cookies()
	for _, cookie := range cookies {
		if cookie.Name == SessionCookie {
			s.ID = cookie.Value
		}
	}
	s.XSRF = answer.Header.Get(XSRFHeader)
	if s.ID == "" || s.XSRF == "" {
		return client.Session{}, errUnreadable
	}
	return s, nil
}

// Logout ends the session.
func (c *Client) Logout(ctx context.Context) error {
	_, err := c.do(ctx, client.Request{Method: http.MethodGet, Path: LogoutPath})
	return err
}

// Collection is one of the two kinds of objects, as the last part of its path.
type Collection string

// The collections.
const (
	CSRs         Collection = "csrs"
	Certificates Collection = "certificates"
)

// Object is a TlsCsr or a TlsCertificate, as far as it is read here.
type Object struct {
	ID          string         `json:"id"`
	DisplayName string         `json:"display_name"`
	CreateUser  string         `json:"_create_user"`
	CreateTime  int64          `json:"_create_time"` // milliseconds since 1970
	PEM         string         `json:"pem_encoded"`
	Document    jsontext.Value `json:"-"` // as the server has it, with what is not read here
}

// NewCSR is what a CSR is asked for with.
type NewCSR struct {
	DisplayName string         `json:"display_name,omitzero"`
	Description string         `json:"description,omitzero"`
	Tags        []Tag          `json:"tags,omitempty"`
	Subject     NewSubject     `json:"subject"`
	KeySize     int64          `json:"key_size,omitzero,string"` // a string in the vendor's example
	Algorithm   string         `json:"algorithm,omitzero"`
	CA          bool           `json:"is_ca"`
	Extensions  *NewExtensions `json:"extensions,omitzero"`
}

// Tag is a tag of an object.
type Tag struct {
	Scope string `json:"scope"`
	Tag   string `json:"tag"`
}

// NewSubject has the attributes of a subject, in their order.
type NewSubject struct {
	Attributes []NewAttribute `json:"attributes"`
}

// NewAttribute is an attribute of a subject. Its key is CN, O, OU, C, ST or L.
type NewAttribute struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// NewExtensions has the alternative names of a CSR.
type NewExtensions struct {
	AltNames NewAltNames `json:"subject_alt_names"`
}

// NewAltNames are alternative names.
type NewAltNames struct {
	DNSNames    []string `json:"dns_names,omitempty"`
	IPAddresses []string `json:"ip_addresses,omitempty"`
}

// CreateCSR makes a key and its CSR.
func (c *Client) CreateCSR(ctx context.Context, id string, spec NewCSR) (Object, error) {
	return c.post(ctx, id, url.Values{"action": {"create"}}, spec)
}

// Import gives the certificate chain that answers a CSR, the leaf first. The CSR is gone
// then.
func (c *Client) Import(ctx context.Context, id, chain string) (Object, error) {
	return c.post(ctx, id, url.Values{"action": {"import"}}, map[string]string{"pem_encoded": chain})
}

// SelfSign makes a self-signed certificate of a CSR. The CSR is gone then. 0 days are the
// server's default.
func (c *Client) SelfSign(ctx context.Context, id string, days int) (Object, error) {
	query := url.Values{"action": {"self_sign"}}
	if days != 0 {
		query.Set("days_valid", strconv.Itoa(days))
	}
	return c.post(ctx, id, query, nil)
}

// post asks for an action on a CSR.
func (c *Client) post(ctx context.Context, id string, query url.Values, body any) (Object, error) {
	return readObject(c.do(ctx, client.Request{Method: http.MethodPost, Path: CSRs.path(id), Query: query, Body: body}))
}

// Get reads an object.
func (c *Client) Get(ctx context.Context, of Collection, id string) (Object, error) {
	return readObject(c.do(ctx, client.Request{Method: http.MethodGet, Path: of.path(id)}))
}

// Delete removes an object and its key.
func (c *Client) Delete(ctx context.Context, of Collection, id string) error {
	_, err := c.do(ctx, client.Request{Method: http.MethodDelete, Path: of.path(id)})
	return err
}

// path escapes the id, a slash in it too.
func (of Collection) path(id string) string { return of.root() + "/" + url.PathEscape(id) }

func (of Collection) root() string { return apiPath + infraParent + "/" + string(of) }

// Listing is the begin of a collection.
type Listing struct {
	Items      []Object
	Total      int  // as the server counts; 0: it does not say
	More       bool // behind Items
	Unreadable int  // objects that the server leaves out since it cannot read them
}

// listPage is how many objects are asked for at a time. The longest ones fit into an answer.
const listPage = 100

// List follows the cursors of a list up to limit objects, in an order that the server knows
// by a name. "" is its own.
func (c *Client) List(ctx context.Context, of Collection, sortBy string, limit int) (all Listing, err error) {
	for cursor := ""; ; {
		query := url.Values{"page_size": {strconv.Itoa(min(listPage, limit-len(all.Items)-all.Unreadable))}}
		if sortBy != "" {
			query.Set("sort_by", sortBy)
		}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		answer, err := c.do(ctx, client.Request{Method: http.MethodGet, Path: of.root(), Query: query})
		if err != nil {
			return all, err
		}
		var page struct {
			Results []jsontext.Value `json:"results"`
			Count   int              `json:"result_count"`
			Cursor  string           `json:"cursor"`
		}
		if err := json.Unmarshal(answer.Body, &page); err != nil {
			return all, errUnreadable
		}
		for _, text := range page.Results {
			one, err := decodeObject(text)
			if err != nil {
				return all, err
			}
			all.Items = append(all.Items, one)
		}
		unreadable, _ := strconv.Atoi(answer.Header.Get(UnreadableHeader)) // the vendor's product sends none
		unreadable = min(max(0, unreadable), limit)
		all.Unreadable += unreadable
		all.Total = cmp.Or(all.Total, page.Count)
		// Both bound what a server can keep us busy with.
		full := len(all.Items)+all.Unreadable >= limit
		if stuck := page.Cursor == cursor || len(page.Results) == 0 && unreadable == 0; page.Cursor != "" && !full && stuck {
			return all, errors.New("the list of the server has no end: its cursor leads nowhere")
		}
		if page.Cursor == "" || full {
			all.More = page.Cursor != "" || len(all.Items) > limit
			all.Items = all.Items[:min(limit, len(all.Items))]
			return all, nil
		}
		cursor = page.Cursor
	}
}

// do sends a request with the session. An answer that is an error becomes one.
func (c *Client) do(ctx context.Context, r client.Request) (*client.Response, error) {
	answer, err := c.caller.Do(ctx, r)
	if err == nil {
		err = failed(answer)
	}
	return answer, err
}

// readObject decodes the object in an answer.
func readObject(answer *client.Response, err error) (Object, error) {
	if err != nil {
		return Object{}, err
	}
	return decodeObject(answer.Body)
}

// decodeObject ignores members that are unknown here: they are those of other versions or
// of the vendor's.
func decodeObject(text []byte) (o Object, err error) {
	if err := json.Unmarshal(text, &o); err != nil || o.ID == "" {
		return o, errUnreadable
	}
	o.Document = text
	return o, nil
}

// errUnreadable does not quote the answer, which may have a session.
var errUnreadable = errors.New("the answer is not one of the NSX policy API: is it the right server?")

// failed returns the error that an answer is, also where it is no document of this dialect.
func failed(answer *client.Response) error {
	if answer.Status >= 200 && answer.Status <= 299 {
		return nil
	}
	var d struct {
		document
		Related []document `json:"related_errors"`
	}
	if err := json.Unmarshal(answer.Body, &d); err != nil || d.ErrorMessage == "" {
		return client.NewError(answer, "")
	}
	messages := []string{d.ErrorMessage}
	for _, related := range d.Related {
		messages = append(messages, related.ErrorMessage)
	}
	e := client.NewError(answer, strconv.Itoa(d.ErrorCode), messages...)
	// The vendor's product answers wrong credentials with the status of a missing privilege.
	if d.ErrorCode == codeUnauthenticated {
		e.Status = http.StatusUnauthorized
	}
	return e
}

package handler_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"attestcsr/test/kit"
)

// vapiError is the error document as the vendor's client reads it. That client fails on
// anything but an object whose messages and args are lists.
type vapiError struct {
	ErrorType string         `json:"error_type"`
	Messages  []vapiMessage  `json:"messages"`
	Data      map[string]any `json:"data"`
}

type vapiMessage struct {
	ID      string   `json:"id"`
	Default string   `json:"default_message"`
	Args    []string `json:"args"`
}

// legacyError is the error document of the older form.
type legacyError struct {
	Type  string
	Value vapiError
}

func (a answer) vapiError(t testing.TB) vapiError {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != asJSON {
		t.Errorf("error with Content-Type %q", got)
	}
	for name, value := range decode[map[string]json.RawMessage](t, a) {
		if string(value) == "null" {
			t.Errorf("member %s is null", name)
		}
	}
	doc := decode[vapiError](t, a)
	if len(doc.Messages) == 0 {
		t.Errorf("no messages: %s", a.body)
	}
	for _, m := range doc.Messages {
		if m.ID == "" || m.Default == "" || m.Args == nil {
			t.Errorf("incomplete message: %s", a.body)
		}
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("no X-Request-ID")
	}
	return doc
}

// member returns the only member of a JSON object.
func (a answer) member(t testing.TB, name string) string {
	t.Helper()
	object := decode[map[string]string](t, a)
	if _, ok := object[name]; !ok || len(object) != 1 {
		t.Fatalf("want exactly the member %q: %s", name, a.body)
	}
	return object[name]
}

func (s *stack) createCSR(spec string) string {
	s.t.Helper()
	a := s.do(call{method: "POST", path: csrPath, body: spec})
	if a.status != http.StatusCreated {
		s.t.Fatalf("create: %d %s", a.status, a.body)
	}
	return a.member(s.t, "csr")
}

func (s *stack) setCertificate(text string) answer {
	s.t.Helper()
	return s.do(call{method: "PUT", path: certificatePath, body: `{"certificate":` + kit.JSON(text) + `}`})
}

// installed returns the certificate in use.
func (s *stack) installed() string {
	s.t.Helper()
	return s.do(call{method: "GET", path: certificatePath}).member(s.t, "certificate")
}

// esxLogin makes a session of admin's.
func (s *stack) esxLogin() string {
	s.t.Helper()
	a := s.do(call{method: "POST", path: sessionPath})
	if a.status != http.StatusCreated {
		s.t.Fatalf("login: %d %s", a.status, a.body)
	}
	return decode[string](s.t, a)
}

// inSession makes a call one of a session of the ESX dialect.
func (c call) inSession(id string) call {
	c.anonymous = true
	c.header = map[string]string{"vmware-api-session-id": id}
	return c
}

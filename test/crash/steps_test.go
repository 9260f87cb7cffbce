package crash_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// step makes the request that comes next from what is stored before it.
type step func(ca *certifier, before stored) (change, error)

// certifier issues certificates for what is stored.
type certifier struct {
	*kit.CA
	t testing.TB
}

func newCertifier(t testing.TB) *certifier {
	t.Helper()
	return &certifier{kit.NewCA(t, "test CA", time.Now()), t}
}

// issue returns a certificate for the key of a CSR or certificate, as PEM.
func (ca *certifier) issue(text, commonName string) (string, error) {
	key, _, err := publicKeyOf(text)
	if err != nil {
		return "", err
	}
	return kit.PEM(ca.Issue(ca.t, commonName, key)), nil
}

func createCSR(_ *certifier, before stored) (change, error) {
	return change{"POST", start.CSRPath, start.ValidSpec, 201, before.with(pendingName, unknown), pendingName}, nil
}

func deleteCSR(_ *certifier, before stored) (change, error) {
	return change{"DELETE", start.CSRPath, "", 204, before.without(pendingName), ""}, nil
}

// setCertificate answers the pending CSR.
func setCertificate(ca *certifier, before stored) (change, error) {
	text, err := ca.issue(before[pendingName], "esx-01.example.com")
	return change{"PUT", start.CertificatePath, kit.JSON(map[string]string{"certificate": text}), 204,
		before.without(pendingName).with(installedName, text), ""}, err
}

// renewCertificate has another certificate for the installed key.
func renewCertificate(ca *certifier, before stored) (change, error) {
	text, err := ca.issue(before[installedName], "esx-01.example.com")
	return change{"PUT", start.CertificatePath, kit.JSON(map[string]string{"certificate": text}), 204, before.with(installedName, text), ""}, err
}

func createRequest(id string) step {
	return func(_ *certifier, before stored) (change, error) {
		return change{"POST", start.NSXCSRs + "/" + id + "?action=create", start.ECSpec(id), 201, before.with(requestName+id, unknown), requestName + id}, nil
	}
}

func deleteRequest(id string) step {
	return func(_ *certifier, before stored) (change, error) {
		return change{"DELETE", start.NSXCSRs + "/" + id, "", 200, before.without(requestName + id), ""}, nil
	}
}

func importCertificate(id string) step {
	return func(ca *certifier, before stored) (change, error) {
		text, err := ca.issue(before[requestName+id], id)
		return change{"POST", start.NSXCSRs + "/" + id + "?action=import", kit.JSON(map[string]string{"pem_encoded": text}), 201,
			before.without(requestName+id).with(issuedName+id, text), ""}, err
	}
}

// writer is a client that makes changes, one after the other, to slots of its own.
type writer struct {
	ca       *certifier
	owns     func(name string) bool
	steps    func(round int) []step
	round    int
	stored   stored   // what was acknowledged
	next     stored   // what is there if the change under way happened
	requests []string // the ids of acknowledged requests
}

// writers are eight: one for the slots of the ESX dialect, which are one each, and
// the others for requests and certificates of the NSX dialect.
func writers(t *testing.T, before stored) []*writer {
	t.Helper()
	ca := newCertifier(t)
	all := []*writer{{
		ca: ca, stored: before,
		owns:  func(name string) bool { return strings.HasPrefix(name, "esx/") },
		steps: func(int) []step { return []step{createCSR, setCertificate, createCSR, renewCertificate, deleteCSR} },
	}}
	for n := range 7 {
		prefix := fmt.Sprintf("w%d-", n)
		all = append(all, &writer{
			ca: ca, stored: stored{},
			owns: func(name string) bool {
				return strings.HasPrefix(name, requestName+prefix) || strings.HasPrefix(name, issuedName+prefix)
			},
			steps: func(round int) []step {
				id := fmt.Sprint(prefix, round)
				if round%3 == 2 {
					return []step{createRequest(id), deleteRequest(id)}
				}
				return []step{createRequest(id), importCertificate(id)}
			},
		})
	}
	return all
}

// work makes changes until one is not answered. What a life before left of a round
// stays as it is.
func (w *writer) work(t *testing.T, s *start.Instance, acknowledged chan<- struct{}) {
	for ; ; w.round++ {
		for _, next := range w.steps(w.round) {
			c, err := next(w.ca, w.stored)
			if err != nil {
				t.Error(err)
				return
			}
			w.next = c.after
			after, a, err := c.send(s)
			if err != nil {
				w.round++
				return
			}
			if a.Status != c.status {
				t.Errorf("%s %s: %d %s", c.method, c.path, a.Status, a.Body)
				return
			}
			w.stored, w.next = after, nil
			w.requests = append(w.requests, a.Header.Get("X-Request-Id"))
			acknowledged <- struct{}{}
		}
	}
}

// settle takes what is stored for what was acknowledged, if it is one of the two
// states that it may be and the audit trail tells of what was acknowledged.
func (w *writer) settle(t *testing.T, found contents) {
	t.Helper()
	own := stored{}
	for name, text := range found.stored {
		if w.owns(name) {
			own[name] = text
		}
	}
	if !own.is(w.stored) && (w.next == nil || !own.is(w.next)) {
		t.Errorf("stored is %s\nacknowledged was %s\nunder way was %s", own, w.stored, w.next)
	}
	w.stored, w.next = own, nil
	for _, id := range w.requests {
		if !found.told[id] {
			t.Errorf("request %q was acknowledged, and the audit trail does not tell of it", id)
		}
	}
}

// workUntil lets all writers work on a server and ends it a moment after the given
// number of changes was acknowledged.
func workUntil(t *testing.T, s *start.Instance, all []*writer, acks int, moment time.Duration, end func()) {
	t.Helper()
	acknowledged := make(chan struct{}, 1<<16)
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() { w.work(t, s, acknowledged) })
	}
	for range acks {
		select {
		case <-acknowledged:
		case <-s.Exited:
		}
	}
	time.Sleep(moment)
	end()
	wg.Wait()
}

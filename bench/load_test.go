package main

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func clientsOf(t *testing.T, n int, h http.HandlerFunc) []*client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	clients := newClients(n, s.URL, &tls.Config{MinVersion: tls.VersionTLS13}, http.Header{})
	t.Cleanup(func() { closeAll(clients) })
	return clients
}

func get(int) call { return call{"GET", "/", "", http.StatusOK} }

// A stall is seen by every request that was due in it, not by one.
func TestOpenLoopCountsFromDueTime(t *testing.T) {
	t.Parallel()
	const stall = 200 * time.Millisecond
	var served atomic.Int64
	clients := clientsOf(t, 1, func(http.ResponseWriter, *http.Request) {
		if served.Add(1) == 1 {
			time.Sleep(stall)
		}
	})
	s, err := openLoop(t.Context(), clients, 100, 20, get) // one each 10 ms
	if err != nil {
		t.Fatal(err)
	}
	if len(s.latencies) != 20 {
		t.Fatalf("%d samples", len(s.latencies))
	}
	for i, latency := range s.latencies[:10] {
		if least := stall - time.Duration(i)*10*time.Millisecond; latency < least {
			t.Errorf("request %d was due in the stall and shows %s, under %s", i, latency, least)
		}
	}
}

func TestClosedLoop(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	clients := clientsOf(t, 4, func(http.ResponseWriter, *http.Request) { served.Add(1) })
	got, err := closedLoop(t.Context(), clients, limit{count: 100}, get)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.latencies) != 100 || served.Load() != 100 {
		t.Errorf("%d samples, %d requests", len(got.latencies), served.Load())
	}
}

// A wrong answer must end a measurement: refusals are fast.
func TestLoadFailsOnAnotherStatus(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	clients := clientsOf(t, 4, func(w http.ResponseWriter, _ *http.Request) {
		if served.Add(1) > 10 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("too busy"))
		}
	})
	_, err := closedLoop(t.Context(), clients, limit{time: time.Minute}, get)
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "too busy") {
		t.Errorf("error %v", err)
	}
}

func TestLoadEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	clients := clientsOf(t, 2, func(http.ResponseWriter, *http.Request) {})
	if _, err := closedLoop(ctx, clients, limit{time: time.Minute}, get); err == nil {
		t.Error("a load that was cut short returned no error")
	}
}

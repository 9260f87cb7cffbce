package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"attestcsr/csr/audit"
)

const (
	maxRequest  = 64 << 10
	readTimeout = 10 * time.Second
	// operationTimeout bounds one operation: a check of 200,000 records takes minutes.
	operationTimeout = 30 * time.Minute
)

// Server answers on the control socket.
type Server struct {
	log      *slog.Logger
	as       func(audit.Request) Operations
	listener *listener
	http     *http.Server
	cancel   context.CancelFunc // of the operations under way
	served   chan error
}

// Start makes the socket and serves it. as returns the operations in the name of a
// caller. The caller of Start holds the store's lock until after Stop.
func Start(dataDir string, log *slog.Logger, as func(audit.Request) Operations) (*Server, error) {
	l, err := listen(dataDir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{log: log, as: as, listener: l, cancel: cancel, served: make(chan error, 1)}
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      operationTimeout + readTimeout,
		MaxHeaderBytes:    4 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
	}
	s.http.SetKeepAlivesEnabled(false)
	go func() { s.served <- s.http.Serve(l) }()
	return s, nil
}

// Stop waits for the operations under way until ctx ends, and removes the socket.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	s.cancel()
	if err != nil {
		err = s.http.Close()
	}
	if served := <-s.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return errors.Join(err, s.listener.end())
}

type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// routes has every operation under its name. Client uses the same names.
func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle(mux, s, "reset-password", Operations.ResetPassword)
	handle(mux, s, "keyset-status", alone(Operations.KeysetStatus))
	handle(mux, s, "rotate-keyset", alone(Operations.RotateKeyset))
	handle(mux, s, "retire-keys", alone(Operations.RetireKeys))
	handle(mux, s, "unstage", alone(func(o Operations, ctx context.Context) (nothing, error) { return nothing{}, o.Unstage(ctx) }))
	handle(mux, s, "checkpoint", alone(Operations.Checkpoint))
	handle(mux, s, "checkpoint-key", alone(Operations.CheckpointKey))
	handle(mux, s, "accept", Operations.Accept)
	handle(mux, s, "snapshot", alone(Operations.Snapshot))
	handle(mux, s, "check-store", alone(Operations.CheckStore))
	handle(mux, s, "open-session", Operations.OpenSession)
	stream(mux, s, "backup", Operations.Backup)
	handle(mux, s, "list-users", alone(Operations.ListUsers))
	handle(mux, s, "change-user", Operations.ChangeUser)
	return mux
}

// nothing is the argument of operations that have none, and the answer of those that
// give none.
type nothing struct{}

func alone[Out any](do func(Operations, context.Context) (Out, error)) func(Operations, context.Context, nothing) (Out, error) {
	return func(o Operations, ctx context.Context, _ nothing) (Out, error) { return do(o, ctx) }
}

// failure is the answer of an operation that failed.
type failure struct {
	Error string `json:"error"`
}

// handle serves an operation: its argument is the body of the request, its result that
// of the answer.
func handle[In, Out any](mux *http.ServeMux, s *Server, name string, do func(Operations, context.Context, In) (Out, error)) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		who, err := caller(r.Context().Value(connKey{}))
		status := http.StatusForbidden
		var out Out
		if err == nil {
			out, status, err = run(w, r, s.as(who), do)
		}
		log := s.log.With("operation", name, "user", who.User, "duration_ms", time.Since(begun).Milliseconds())
		if err != nil {
			log.Warn("control: refused or failed", "err", err)
			w.WriteHeader(status)
			err = json.MarshalWrite(w, failure{err.Error()})
		} else {
			log.Info("control: done")
			err = json.MarshalWrite(w, out)
		}
		if err != nil {
			log.Warn("control: the answer did not reach the command", "err", err)
		}
	})
}

func run[In, Out any](w http.ResponseWriter, r *http.Request, o Operations, do func(Operations, context.Context, In) (Out, error)) (out Out, status int, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var in In
	if err == nil {
		err = json.Unmarshal(body, &in, json.RejectUnknownMembers(true))
	}
	if err == nil {
		// The server waits for the end of the connection meanwhile, and takes the end of
		// readTimeout for that.
		err = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if err != nil {
		return out, http.StatusBadRequest, fmt.Errorf("the request cannot be read: %w", err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), operationTimeout)
	defer cancel()
	out, err = do(o, ctx, in)
	return out, http.StatusInternalServerError, err
}

package server

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"attestcsr/config"
	"attestcsr/csr"
	"attestcsr/server/agent"
	"attestcsr/server/control"
)

const (
	// signerSetting names the signer socket.
	signerSetting = "signer.socket"
	// passedSigner is the name that systemd gives the socket that it passes.
	passedSigner = "signer"
)

// newSigner makes what answers on the signer socket, where the settings have one.
func (s *Server) newSigner() error {
	if s.cfg.Signer.Socket == "" {
		return nil
	}
	users, groups, err := signerKeys(s.cfg)
	if err != nil {
		return err
	}
	// x/crypto says there what it cannot read. That is no more than the cause of a failure
	// that the metrics count, and must not wait for who reads stderr.
	log.SetFlags(0)
	log.SetOutput(slog.NewLogLogger(s.log.Handler(), slog.LevelDebug).Writer())
	s.signer = agent.New(agent.Options{Service: s.service, Users: users, Groups: groups, Peer: control.Peer, Logger: s.log})
	return nil
}

// signerKeys are the keys of the settings by uid and by gid.
func signerKeys(cfg *config.Config) (users, groups map[uint32][]csr.KeyName, err error) {
	users, groups = map[uint32][]csr.KeyName{}, map[uint32][]csr.KeyName{}
	for process, names := range cfg.Signer.Allow {
		kind, text, _ := strings.Cut(process, ":")
		number, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, nil, cfg.Problem("signer.allow", err)
		}
		of := map[string]map[uint32][]csr.KeyName{"uid": users, "gid": groups}[kind]
		for _, name := range names {
			key, is := csr.ParseKeyName(name)
			if !is {
				return nil, nil, cfg.Problem("signer.allow", fmt.Errorf("%.64q is not the name of a key", name))
			}
			of[uint32(number)] = append(of[uint32(number)], key)
		}
	}
	return users, groups, nil
}

// startSigner serves the signer socket: the one that systemd passes, or one that it
// makes.
func (s *Server) startSigner() (stop func(), err error) {
	if s.signer == nil {
		if _, passed := os.LookupEnv("LISTEN_FDS"); passed {
			s.log.Warn("systemd passes a socket, and nobody answers on it: set signer.socket to its path")
		}
		return func() {}, nil
	}
	l, err := signerSocket(s.cfg.Signer.Socket)
	if err != nil {
		return nil, s.cfg.Problem(signerSetting, err)
	}
	s.signer.Start(l)
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := s.signer.Stop(ctx); err != nil {
			s.log.Warn("signer socket", "err", err)
		}
	}, nil
}

func signerSocket(path string) (*net.UnixListener, error) {
	if l, err := agent.Passed(passedSigner); l != nil || err != nil {
		return l, err
	}
	return agent.Listen(path)
}

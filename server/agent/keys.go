package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"attestcsr/csr"
)

// requestTimeout bounds one request: a commit on a slow disk.
const requestTimeout = time.Minute

// keys are those that one caller may use, as agent.ServeAgent asks for them.
type keys struct {
	*Server
	caller csr.Caller
}

var _ agent.ExtendedAgent = (*keys)(nil)

// key is one of them, as it was when it was read.
type key struct {
	name    csr.KeyName
	current csr.KeyVersion
	public  ssh.PublicKey
	blob    []byte // public, as requests have it
	retired []csr.KeyVersion
}

// known are the keys as they were last read, so that a signature does not wait for a read
// of all that were replaced. One that was replaced since gives no signature, and is
// forgotten.
type known struct {
	mu   sync.Mutex
	keys map[csr.KeyName]key
}

func (k *known) find(names []csr.KeyName, blob []byte) (key, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		if found, is := k.keys[name]; is && bytes.Equal(found.blob, blob) {
			return found, true
		}
	}
	return key{}, false
}

func (k *known) remember(read key) {
	read.retired = nil // there may be hundreds
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[read.name] = read
}

func (k *known) forget(name csr.KeyName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, name)
}

// List returns the keys in the order of signer.allow. One that is not there, or that may
// not sign, is left out.
func (k *keys) List() (listed []*agent.Key, err error) {
	ctx, cancel := context.WithTimeout(k.working, requestTimeout)
	defer cancel()
	caller := k.request()
	all, err := k.all(ctx, caller)
	for _, key := range all {
		listed = append(listed, &agent.Key{Format: key.public.Type(), Blob: key.blob, Comment: key.name.String()})
	}
	if err != nil {
		k.Logger.Warn("signer: no list of keys", "user", caller.User, "peer", caller.Peer, "request_id", caller.RequestID, "err", err)
	}
	return listed, err
}

// request is the caller with a request of its own.
func (k *keys) request() csr.Caller {
	caller := k.caller
	caller.RequestID = rand.Text()
	return caller
}

func (k *keys) all(ctx context.Context, caller csr.Caller) (all []key, err error) {
	for _, name := range caller.Keys {
		found, err := k.read(ctx, caller, name)
		e, is := errors.AsType[*csr.Error](err)
		switch {
		case err == nil:
			all = append(all, found)
		case !is || e.Kind != csr.NotFound && e.Kind != csr.Invalid:
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return all, nil
}

func (k *keys) read(ctx context.Context, caller csr.Caller, name csr.KeyName) (key, error) {
	grant, err := k.Service.AuthoriseKey(caller, csr.ReadKey, name)
	if err != nil {
		return key{}, err
	}
	info, err := grant.Key(ctx)
	if err != nil {
		return key{}, err
	}
	last := len(info.Versions) - 1
	found := key{name: name, current: info.Versions[last], retired: info.Versions[:last]}
	if found.public, err = ssh.NewPublicKey(found.current.Public); err != nil {
		return key{}, err
	}
	found.blob = found.public.Marshal()
	k.known.remember(found)
	return found, nil
}

// Sign implements agent.Agent.
func (k *keys) Sign(public ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return k.SignWithFlags(public, data, 0)
}

// SignWithFlags signs data with the key that a caller names by its public half.
func (k *keys) SignWithFlags(public ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(k.working, requestTimeout)
	defer cancel()
	caller := k.request()
	name, signature, err := k.sign(ctx, caller, public.Marshal(), data, flags)
	log := k.Logger.With("user", caller.User, "peer", caller.Peer, "request_id", caller.RequestID, "key", name, "duration_ms", time.Since(begun).Milliseconds())
	if err != nil {
		log.Warn("signer: no signature", "err", err)
		return nil, err
	}
	log.Info("signer: signed", "algorithm", signature.Format)
	return signature, nil
}

var (
	errReplaced   = errors.New("this key is replaced: the list of keys has the one that signs")
	errNotAllowed = errors.New("no key that this user may use is the one that is asked for")
)

func (k *keys) sign(ctx context.Context, caller csr.Caller, blob, data []byte, flags agent.SignatureFlags) (name string, _ *ssh.Signature, err error) {
	found, err := k.find(ctx, caller, blob)
	if err != nil {
		return "", nil, err
	}
	signature, err := k.signWith(ctx, caller, found, data, flags)
	if errors.Is(err, errReplaced) {
		k.known.forget(found.name)
	}
	return found.name.String(), signature, err
}

// find returns the key with a public half.
func (k *keys) find(ctx context.Context, caller csr.Caller, blob []byte) (key, error) {
	if found, is := k.known.find(caller.Keys, blob); is {
		return found, nil
	}
	all, err := k.all(ctx, caller)
	if err != nil {
		return key{}, err
	}
	for _, each := range all {
		if bytes.Equal(each.blob, blob) {
			return each, nil
		}
		if each.was(blob) {
			return key{}, errReplaced
		}
	}
	k.refuse(caller.Request)
	return key{}, errNotAllowed
}

// was reports whether a public key is one that was replaced.
func (k key) was(blob []byte) bool {
	for _, old := range k.retired {
		if public, err := ssh.NewPublicKey(old.Public); err == nil && bytes.Equal(public.Marshal(), blob) {
			return true
		}
	}
	return false
}

func (k *keys) signWith(ctx context.Context, caller csr.Caller, key key, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	algorithm, err := algorithmOf(key.public, flags)
	if err != nil {
		return nil, err
	}
	// It hashes data and encodes the signature as SSH has it.
	wrapped, err := ssh.NewSignerFromSigner(&signer{ctx, k.Service, caller, key})
	if err != nil {
		return nil, err
	}
	with, is := wrapped.(ssh.AlgorithmSigner)
	if !is {
		return nil, errors.New("it cannot sign with an algorithm of our choice")
	}
	return with.SignWithAlgorithm(rand.Reader, data, algorithm)
}

// algorithmOf takes one flag with an RSA key: without one, SHA-1 is meant. With an
// elliptic curve the key says it all (RFC 5656 section 6.2.1).
func algorithmOf(public ssh.PublicKey, flags agent.SignatureFlags) (string, error) {
	rsa := public.Type() == ssh.KeyAlgoRSA
	switch {
	case rsa && flags == agent.SignatureFlagRsaSha256:
		return ssh.KeyAlgoRSASHA256, nil
	case rsa && flags == agent.SignatureFlagRsaSha512:
		return ssh.KeyAlgoRSASHA512, nil
	case rsa && flags == 0:
		return "", errors.New("ssh-rsa signs with SHA-1: ask for rsa-sha2-256 or rsa-sha2-512")
	case flags == 0:
		return public.Type(), nil
	}
	return "", fmt.Errorf("flags %#x do not fit the key", uint32(flags))
}

// signer is a key of the service as a crypto.Signer, for one signature.
type signer struct {
	ctx     context.Context //nolint:containedctx // crypto.Signer has no room for it
	service *csr.Service
	caller  csr.Caller
	key     key
}

func (s *signer) Public() crypto.PublicKey { return s.key.current.Public }

// Sign gives no signature away that is of another key than the caller has named: the pair
// may have been replaced since. The trail has it all the same.
func (s *signer) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	grant, err := s.service.AuthoriseKey(s.caller, csr.SignKey, s.key.name)
	if err != nil {
		return nil, err
	}
	in := csr.SignInput{Digest: digest, Hash: o.HashFunc(), Scheme: csr.PKCS1v15}
	if _, curve := s.Public().(*ecdsa.PublicKey); curve {
		in.Scheme = csr.ECDSA
	}
	made, err := grant.Sign(s.ctx, []csr.SignInput{in})
	switch {
	case err != nil:
		return nil, err
	case made[0].Err != nil:
		return nil, made[0].Err
	case made[0].KeyID != s.key.current.KeyID:
		return nil, errReplaced
	}
	return made[0].Bytes, nil
}

// What frames lets through asks for none of these.
var errNotHere = errors.New("keys are listed and sign, no more")

// Add implements agent.Agent.
func (k *keys) Add(agent.AddedKey) error { return errNotHere }

// Remove implements agent.Agent.
func (k *keys) Remove(ssh.PublicKey) error { return errNotHere }

// RemoveAll implements agent.Agent.
func (k *keys) RemoveAll() error { return errNotHere }

// Lock implements agent.Agent.
func (k *keys) Lock([]byte) error { return errNotHere }

// Unlock implements agent.Agent.
func (k *keys) Unlock([]byte) error { return errNotHere }

// Signers implements agent.Agent.
func (k *keys) Signers() ([]ssh.Signer, error) { return nil, errNotHere }

// Extension implements agent.ExtendedAgent.
func (k *keys) Extension(string, []byte) ([]byte, error) { return nil, agent.ErrExtensionUnsupported }

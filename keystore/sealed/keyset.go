package sealed

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"attestcsr/keystore/ownfile"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/aead/aesgcmsiv"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac/hmac"
	"github.com/tink-crypto/tink-go/v2/tink"
	"golang.org/x/sys/unix"
)

// ErrKeysetLost: the keyset file does not exist and must not be created, since
// keys were sealed with it.
var ErrKeysetLost = errors.New("the sealing keyset is lost")

const (
	maxKeysetSize = 64 << 10 // bytes; each key has 250
	tinkPrefix    = 1        // the first byte of what is sealed; the key's id follows
)

// Options says where the sealing keyset is.
type Options struct {
	// KeysetFile is a Tink keyset in cleartext JSON, with AES-GCM-SIV keys and what
	// Retire leaves of them. It must not be accessible to others.
	KeysetFile string
	// Create makes the file when it is absent. It must be false once keys were
	// sealed: a new keyset opens none of them.
	Create bool
	// Content is what the file holds, for a keyset that is in no file. It is cleared.
	Content []byte
	Logger  *slog.Logger // nil discards
}

// Open reads the sealing keyset, or makes it. ErrKeysetLost means that it is
// absent and Create was not set. Errors never hold a part of the file.
func Open(o Options) (*Custodian, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	all, err := o.read()
	if errors.Is(err, fs.ErrNotExist) {
		if !o.Create {
			return nil, fmt.Errorf("%w: there is no %s", ErrKeysetLost, o.KeysetFile)
		}
		if err := createKeyset(o.KeysetFile); err != nil {
			return nil, fmt.Errorf("creating the sealing keyset: %w", err)
		}
		all, err = o.read()
	}
	if err != nil {
		return nil, err
	}
	c := &Custodian{file: o.KeysetFile, log: o.Logger}
	c.keys.Store(all)
	return c, nil
}

func (o Options) read() (*keys, error) {
	if o.Content == nil {
		return read(o.KeysetFile, o.Logger)
	}
	defer clear(o.Content)
	return parseKeyset(o.KeysetFile, o.Content)
}

// keys is what a keyset file holds. It never changes.
type keys struct {
	handle  *keyset.Handle
	aead    tink.AEAD
	all     []sealingKey // in the order of the file
	primary string
	prefix  []byte // of what the primary key seals
}

// sealingKey is one key of the keyset, without what opens records.
type sealingKey struct {
	id       string // number in hexadecimal
	number   uint32
	opens    bool   // what was sealed under it; false also where an operator disabled it
	prk      []byte // what keys for message authentication are derived from; nil: retired
	retained []byte // the key of RetainedPurpose
}

// read flushes the file before it reads it: nothing may be sealed under a key that
// a power cut could take away.
func read(name string, log *slog.Logger) (*keys, error) {
	if err := flush(name); err != nil {
		return nil, fmt.Errorf("reading the sealing keyset: %w", err)
	}
	content, err := ownfile.Read(name, maxKeysetSize, log)
	if err != nil {
		return nil, fmt.Errorf("reading the sealing keyset: %w", err)
	}
	defer clear(content)
	return parseKeyset(name, content)
}

// flush makes the file and its name durable. Where this process may not do that, or
// the file system knows no flush, the file is the operator's.
func flush(name string) error {
	resolved, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	for _, each := range []string{resolved, filepath.Dir(resolved)} {
		err := ownfile.SyncDir(each) // flushes files too
		if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EROFS) && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return nil
}

// parseKeyset drops the causes that Tink gives: they may quote key material.
func parseKeyset(name string, content []byte) (*keys, error) {
	damaged := fmt.Errorf("sealing keyset %s is damaged or not a Tink keyset in cleartext JSON: restore it from a backup", name)
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		return nil, damaged
	}
	k := &keys{handle: handle}
	for i := range handle.Len() {
		entry, err := handle.Entry(i)
		if err != nil {
			return nil, damaged
		}
		next, err := newKey(entry)
		if err != nil {
			return nil, fmt.Errorf("sealing keyset %s: %w", name, err)
		}
		if k.find(next.id) != nil {
			return nil, fmt.Errorf("sealing keyset %s holds two keys with id %s", name, next.id)
		}
		k.all = append(k.all, next)
		if entry.IsPrimary() {
			k.primary = next.id
			k.prefix = binary.BigEndian.AppendUint32([]byte{tinkPrefix}, entry.KeyID())
		}
	}
	if k.aead, err = aead.New(handle); err != nil {
		return nil, damaged
	}
	return k, nil
}

func newKey(entry *keyset.Entry) (sealingKey, error) {
	k := sealingKey{id: fmt.Sprintf("%08x", entry.KeyID()), number: entry.KeyID()}
	switch found := entry.Key().(type) {
	case *aesgcmsiv.Key:
		if _, prefixed := found.IDRequirement(); !prefixed || found.OutputPrefix()[0] != tinkPrefix {
			return sealingKey{}, fmt.Errorf("key %s has another output prefix than TINK", k.id)
		}
		raw := found.KeyBytes().Data(insecuresecretdataaccess.Token{})
		defer clear(raw)
		var err error
		if k.prk, err = hkdf.Extract(sha256.New, raw, []byte(derivation)); err == nil {
			k.retained, err = derive(k.prk, RetainedPurpose)
		}
		k.opens = entry.KeyStatus() == keyset.Enabled
		return k, err
	case *hmac.Key: // of Retire
		if k.retained = found.KeyBytes().Data(insecuresecretdataaccess.Token{}); entry.KeyStatus() == keyset.Disabled {
			return k, nil
		}
	}
	return sealingKey{}, fmt.Errorf("key %s is not AES-GCM-SIV", k.id)
}

// older returns the keys that Retire takes away.
func (k *keys) older() []sealingKey {
	return slices.DeleteFunc(slices.Clone(k.all), func(one sealingKey) bool { return one.prk == nil || one.id == k.primary })
}

func (k *keys) index(id string) int {
	return slices.IndexFunc(k.all, func(one sealingKey) bool { return one.id == id })
}

func (k *keys) find(id string) *sealingKey {
	if i := k.index(id); i >= 0 {
		return &k.all[i]
	}
	return nil
}

// createKeyset writes a new keyset of one AES-256-GCM-SIV key. When another
// process was faster its file stays.
//
// A crash before the link leaves a temporary file whose keyset sealed nothing;
// it is harmless and nobody removes it. After the link the file is complete,
// since its content was flushed before. A power cut before the directory is
// flushed may take the name away again: that is before Open returned, so nothing
// has been sealed, and the next Open makes another.
func createKeyset(name string) error {
	handle, err := keyset.NewHandle(aead.AES256GCMSIVKeyTemplate())
	if err != nil {
		return err
	}
	content, err := encode(handle)
	if err != nil {
		return err
	}
	defer clear(content)
	return ownfile.Create(name, content)
}

package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"attestcsr/keystore/ownfile"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// ErrKeysetLost: the keyset file does not exist and must not be created, since
// keys were sealed with it.
var ErrKeysetLost = errors.New("the sealing keyset is lost")

const (
	maxKeysetSize = 64 << 10 // bytes; a keyset of one key has 250
	keyType       = "type.googleapis.com/google.crypto.tink.AesGcmSivKey"
)

// Options says where the sealing keyset is.
type Options struct {
	// KeysetFile is a Tink keyset in cleartext JSON, with AES-GCM-SIV keys only;
	// tinkey can rotate it. It must not be accessible to others.
	KeysetFile string
	// Create makes the file when it is absent. It must be false once keys were
	// sealed: a new keyset opens none of them.
	Create bool
	Logger *slog.Logger // nil discards
}

// Open reads the sealing keyset, or makes it. ErrKeysetLost means that it is
// absent and Create was not set. Errors never hold a part of the file.
func Open(o Options) (*Custodian, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	content, err := ownfile.Read(o.KeysetFile, maxKeysetSize, o.Logger)
	if errors.Is(err, fs.ErrNotExist) {
		if !o.Create {
			return nil, fmt.Errorf("%w: there is no %s", ErrKeysetLost, o.KeysetFile)
		}
		if err := createKeyset(o.KeysetFile); err != nil {
			return nil, fmt.Errorf("creating the sealing keyset: %w", err)
		}
		content, err = ownfile.Read(o.KeysetFile, maxKeysetSize, o.Logger)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the sealing keyset: %w", err)
	}
	defer clear(content)
	return parseKeyset(o.KeysetFile, content)
}

// parseKeyset drops the causes that Tink gives: they may quote key material.
func parseKeyset(name string, content []byte) (*Custodian, error) {
	damaged := fmt.Errorf("sealing keyset %s is damaged or not a Tink keyset in cleartext JSON: restore it from a backup", name)
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(content)))
	if err != nil {
		return nil, damaged
	}
	for _, info := range handle.KeysetInfo().GetKeyInfo() {
		if info.GetTypeUrl() != keyType {
			return nil, fmt.Errorf("sealing keyset %s holds a key that is not AES-GCM-SIV", name)
		}
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, damaged
	}
	all, err := roots(handle)
	if err != nil {
		return nil, damaged
	}
	return &Custodian{aead: primitive, roots: all}, nil
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
	var content bytes.Buffer
	defer func() { clear(content.Bytes()) }()
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&content)); err != nil {
		return err
	}
	return ownfile.Create(name, content.Bytes())
}

package sealed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

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
	content, err := readKeyset(o)
	if errors.Is(err, fs.ErrNotExist) {
		if !o.Create {
			return nil, fmt.Errorf("%w: there is no %s", ErrKeysetLost, o.KeysetFile)
		}
		if err := createKeyset(o.KeysetFile); err != nil {
			return nil, fmt.Errorf("creating the sealing keyset: %w", err)
		}
		content, err = readKeyset(o)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the sealing keyset: %w", err)
	}
	defer clear(content)
	return parseKeyset(o.KeysetFile, content)
}

func readKeyset(o Options) (_ []byte, err error) {
	f, err := os.Open(o.KeysetFile)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	mode := info.Mode()
	switch {
	case !mode.IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", o.KeysetFile)
	case mode&0o007 != 0:
		return nil, fmt.Errorf("%s is accessible to others (mode %#o): chmod 0600 it, and consider its keys known", o.KeysetFile, mode.Perm())
	case mode&0o070 != 0:
		o.Logger.Warn("the sealing keyset is accessible to its group", "file", o.KeysetFile, "mode", fmt.Sprintf("%#o", mode.Perm()))
	}
	content, err := io.ReadAll(io.LimitReader(f, maxKeysetSize+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxKeysetSize {
		return nil, fmt.Errorf("%s is longer than %d bytes: it is not a sealing keyset", o.KeysetFile, maxKeysetSize)
	}
	return content, nil
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
	return &Custodian{aead: primitive}, nil
}

// createKeyset writes a new keyset of one AES-256-GCM-SIV key. When another
// process was faster its file stays.
//
// A crash before the link leaves a temporary file whose keyset sealed nothing;
// it is harmless and nobody removes it. After the link the file is complete,
// since its content was flushed before. A power cut before the directory is
// flushed may take the name away again: that is before Open returned, so nothing
// has been sealed, and the next Open makes another.
func createKeyset(name string) (err error) {
	handle, err := keyset.NewHandle(aead.AES256GCMSIVKeyTemplate())
	if err != nil {
		return err
	}
	var content bytes.Buffer
	defer func() { clear(content.Bytes()) }()
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&content)); err != nil {
		return err
	}
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".keyset-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(content.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), name); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

func syncDir(name string) (err error) {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return dir.Sync()
}

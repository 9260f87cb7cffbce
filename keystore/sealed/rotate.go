package sealed

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/mac/hmac"
	"github.com/tink-crypto/tink-go/v2/secretdata"

	"attestcsr/keystore/ownfile"
)

var errChanged = errors.New("its primary key is not the one that is in use: run keyset status, and try again")

// Create makes a keyset file, and refuses one that is there.
func Create(file string) error {
	if err := absent(file); err != nil {
		return err
	}
	return createKeyset(file)
}

// Rotate writes the keyset of a file, with a new primary key, to out: the file itself,
// or one that is not there yet. After a crash the file is the old one or the new one.
// Nobody uses the new key before Reload or Open, which make it durable first.
func Rotate(file, out string, log *slog.Logger) error {
	return rewrite(file, out, log, func(k *keys) (*keyset.Manager, error) {
		m := keyset.NewManagerFromHandle(k.handle)
		id, err := m.Add(aead.AES256GCMSIVKeyTemplate())
		if err == nil {
			err = m.SetPrimary(id)
		}
		return m, err
	})
}

// Retire writes the keyset of a file to out, as Rotate does, without its older keys. Of
// each the key of RetainedPurpose stays under its id, as an HMAC key that is disabled:
// Tink passes over it, and Open finds it. That nothing in the store needs the older
// keys is for the caller to know, who gives the primary key for which that is so.
func Retire(file, out, primary string, log *slog.Logger) error {
	return rewrite(file, out, log, func(k *keys) (*keyset.Manager, error) {
		if k.primary != primary {
			return nil, errChanged
		}
		m := keyset.NewManagerFromHandle(k.handle)
		for _, old := range k.older() {
			if err := m.Delete(old.number); err != nil {
				return nil, err
			}
		}
		kept, err := m.Handle()
		if err != nil {
			return nil, err
		}
		// A manager of its own: one gives no id twice.
		m = keyset.NewManagerFromHandle(kept)
		parameters, err := hmac.NewParameters(hmac.ParametersOpts{
			KeySizeInBytes: sha256.Size, TagSizeInBytes: sha256.Size, HashType: hmac.SHA256, Variant: hmac.VariantTink,
		})
		if err != nil {
			return nil, err
		}
		for _, old := range k.older() {
			retained, err := hmac.NewKey(secretdata.NewBytesFromData(old.retained, insecuresecretdataaccess.Token{}), parameters, old.number)
			if err == nil {
				_, err = m.AddKey(retained)
			}
			if err == nil {
				err = m.Disable(old.number)
			}
			if err != nil {
				return nil, err
			}
		}
		return m, nil
	})
}

// rewrite drops the causes that Tink gives: they may quote key material.
func rewrite(file, out string, log *slog.Logger, change func(*keys) (*keyset.Manager, error)) error {
	if out != file {
		if err := absent(out); err != nil {
			return err
		}
	}
	k, err := read(file, log)
	if err != nil {
		return err
	}
	m, err := change(k)
	var handle *keyset.Handle
	if err == nil {
		handle, err = m.Handle()
	}
	if errors.Is(err, errChanged) {
		return fmt.Errorf("sealing keyset %s: %w", file, err)
	}
	if err != nil {
		return fmt.Errorf("sealing keyset %s: its keys cannot be changed", file)
	}
	content, err := encode(handle)
	if err != nil {
		return fmt.Errorf("sealing keyset %s: its keys cannot be written", file)
	}
	defer clear(content)
	if out != file {
		return ownfile.Create(out, content)
	}
	target, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	return ownfile.Replace(target, content)
}

func absent(file string) error {
	_, err := os.Lstat(file)
	switch {
	case err == nil:
		return fmt.Errorf("%s is there already: a keyset is not overwritten, give another name", file)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

func encode(handle *keyset.Handle) ([]byte, error) {
	var content bytes.Buffer
	err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&content))
	if err == nil && content.Len() > maxKeysetSize {
		err = errors.New("too long")
	}
	return content.Bytes(), err
}

// KeyInfo says what a key of the keyset is for.
type KeyInfo struct {
	ID      string
	Primary bool
	Opens   bool // records that were sealed under it
	Retired bool
}

// Keys returns the keys in use, in the order of the file. It is nothing secret.
func (c *Custodian) Keys() []KeyInfo {
	k := c.keys.Load()
	var all []KeyInfo
	for _, one := range k.all {
		all = append(all, KeyInfo{ID: one.id, Primary: one.id == k.primary, Opens: one.opens, Retired: one.prk == nil})
	}
	return all
}

// Reload takes up what the keyset file holds now, and reports whether that is another
// keyset. It has to hold each key of the one before, or what Retire leaves of it. Where
// keys that open records are not in it any more, permit says whether they may go. On
// error the keyset before stays in use.
func (c *Custodian) Reload(permit func() error) (changed bool, err error) {
	next, err := read(c.file, c.log)
	if err != nil {
		return false, err
	}
	before := c.keys.Load()
	if slices.EqualFunc(before.all, next.all, sameKey) && before.primary == next.primary {
		return false, nil
	}
	leaving := false
	for _, old := range before.all {
		now := next.find(old.id)
		if now == nil || !bytes.Equal(now.retained, old.retained) {
			return false, fmt.Errorf("sealing keyset %s does not hold key %s, which is in use: put back the keyset before, or one that keyset rotate or retire made of it", c.file, old.id)
		}
		if old.opens && !now.opens {
			leaving = true
			if old.id == before.primary {
				return false, fmt.Errorf("sealing keyset %s does not open what is sealed under key %s, the primary key until now: put back the keyset before", c.file, old.id)
			}
		}
	}
	if next.index(next.primary) < next.index(before.primary) {
		return false, fmt.Errorf("sealing keyset %s goes back to key %s, which was followed by %s: make a new primary key by keyset rotate", c.file, next.primary, before.primary)
	}
	if leaving {
		if err := permit(); err != nil {
			return false, err
		}
	}
	c.keys.Store(next)
	return true, nil
}

func sameKey(a, b sealingKey) bool {
	return a.id == b.id && a.opens == b.opens && bytes.Equal(a.prk, b.prk) && bytes.Equal(a.retained, b.retained)
}

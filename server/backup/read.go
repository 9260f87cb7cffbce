package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
)

// errDamaged: a file is not what Write has written.
var errDamaged = errors.New("the backup is cut short, damaged, or was not made by attestcsr: use another one")

// taking gets each file. It reads all of its content. What it makes of it counts only
// when read returns without an error.
type taking func(name string, content io.Reader) error

// readFile opens a backup, and holds every file against the manifest. Who can write the
// file decides what it holds: nothing of it is believed, and it cannot make this need
// more memory or time than its own length.
func readFile(file string, with Opener, l Layout, take taking) (m Manifest, err error) {
	identities, err := with.Identities()
	if err != nil {
		return m, err
	}
	f, err := os.Open(file)
	if err != nil {
		return m, err
	}
	m, err = read(f, identities, l, take)
	if err == nil && !m.Has(l.Store) {
		err = damaged("there is no store", nil)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return m, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

func read(from io.Reader, identities []age.Identity, l Layout, take taking) (Manifest, error) {
	opened, err := age.Decrypt(from, identities...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return Manifest{}, errors.New("it does not open with this identity or passphrase")
	}
	if err != nil { // the cause quotes the file, which may be another one with a secret
		return Manifest{}, damaged("its header is not one of age, or asks for too much work", nil)
	}
	return readArchive(opened, l, take)
}

func readArchive(from io.Reader, l Layout, take taking) (m Manifest, err error) {
	archive := tar.NewReader(from)
	var found []Entry
	known := map[string]bool{}
	for {
		header, err := archive.Next()
		if err != nil {
			return m, damaged("there is no manifest", err)
		}
		if header.Typeflag != tar.TypeReg || header.Size < 0 || extended(header.PAXRecords) {
			return m, damaged(fmt.Sprintf("%.64q is no regular file", header.Name), nil)
		}
		if header.Name == manifestName {
			m, err := readManifest(io.LimitReader(archive, maxManifest+1), found)
			return m, errors.Join(err, ended(archive, from))
		}
		entry := Entry{Name: header.Name, Size: header.Size}
		if limit := l.limit(entry.Name); known[entry.Name] || entry.Size > limit || limit == 0 || len(found) == maxFiles {
			return m, damaged(fmt.Sprintf("%.64q has no place in it", entry.Name), nil)
		}
		known[entry.Name] = true
		sum := sha256.New()
		content := &failing{from: io.TeeReader(archive, sum)}
		if err := take(entry.Name, content); err != nil {
			if content.err != nil {
				return m, damaged(entry.Name, content.err)
			}
			return m, err
		}
		entry.SHA256 = hex.EncodeToString(sum.Sum(nil))
		found = append(found, entry)
	}
}

// extended reports whether a header says more than a size.
func extended(records map[string]string) bool {
	_, size := records["size"]
	return len(records) > 1 || len(records) == 1 && !size
}

func readManifest(from io.Reader, found []Entry) (m Manifest, err error) {
	text, err := io.ReadAll(from)
	if err == nil && len(text) > maxManifest {
		err = errors.New("it is too long")
	}
	if err == nil {
		err = json.Unmarshal(text, &m, json.RejectUnknownMembers(true))
	}
	switch {
	case m.Format > format:
		return m, fmt.Errorf("the backup was made by a newer attestcsr (format %d, this one reads %d): use that one", m.Format, format)
	case err != nil:
		return Manifest{}, damaged("the manifest cannot be read", err)
	case m.Format != format || !slices.Equal(m.Files, found):
		return Manifest{}, damaged("the files are not those of the manifest", nil)
	}
	return m, nil
}

// ended checks that nothing comes after the manifest, and that the age file is whole.
func ended(archive *tar.Reader, from io.Reader) error {
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		return damaged("something follows the manifest", err)
	}
	if n, err := io.ReadFull(from, make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return damaged("something follows the archive", err)
	}
	return nil
}

// failing remembers the error of a reader.
type failing struct {
	from io.Reader
	err  error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

func damaged(what string, err error) error {
	if err != nil {
		what += ": " + err.Error()
	}
	return fmt.Errorf("%w (%s)", errDamaged, what)
}

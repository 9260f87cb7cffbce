// Package backup has the format of a backup, and the files that one is written to.
//
// # Format 1
//
// An age file (age-encryption.org/v1), and in it a tar archive of regular files. Their
// names are those that they have in data_dir, so that the age command and tar alone make
// a data_dir of it. The last one is manifest.json: it says what there is, with digests. A
// backup without it, or one whose age file ends early, is not whole and is refused.
package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/go-json-experiment/json"
)

const (
	format       = 1
	manifestName = "manifest.json"

	maxManifest = 16 << 20 // bytes
	maxFiles    = 65_536   // of the trail, nearly all of them
	ustarSize   = 8 << 30  // from this size on a header needs an extension
)

// Layout says which files of data_dir are in a backup.
type Layout struct {
	Store, Keyset string
	Trail         string                 // the folder of the audit trail
	IsTrail       func(name string) bool // whether a file is one of the trail
	Small         []string               // the others, of MaxSmall bytes at most, as the keyset
}

// MaxSmall is how many bytes a small file has.
const MaxSmall = 1 << 20

// limit is how many bytes a file may have; 0: it has no place in a backup.
func (l Layout) limit(name string) int64 {
	dir, base := path.Split(name)
	switch {
	case name == l.Store, dir == l.Trail+"/" && l.IsTrail(base):
		return math.MaxInt64
	case name == l.Keyset, slices.Contains(l.Small, name):
		return MaxSmall
	}
	return 0
}

// Manifest says what a backup holds.
type Manifest struct {
	Format   int       `json:"format"`
	Created  time.Time `json:"created"`
	Hostname string    `json:"hostname"` // the setting
	Revision uint64    `json:"revision"` // of the store
	Records  int       `json:"records"`  // in the store, with that of the keystore itself
	// Keyset is the id of the primary sealing key, also where the keyset is not in it.
	Keyset  string   `json:"keyset"`
	Without []string `json:"without,omitempty"` // what belongs to the service and is not in it
	Files   []Entry  `json:"files"`             // in the order of the archive
}

// Entry is a file of a backup.
type Entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal
}

// Has reports whether a file is in the backup.
func (m Manifest) Has(name string) bool {
	return slices.ContainsFunc(m.Files, func(e Entry) bool { return e.Name == name })
}

// File is one to be written.
type File struct {
	Name    string
	Size    int64
	Content io.Reader // of at least Size bytes
}

// Write writes a backup, and returns its manifest. What comes before an error is not
// whole.
func Write(to io.Writer, recipients []age.Recipient, m Manifest, files []File) (Manifest, error) {
	sealed, err := age.Encrypt(to, recipients...)
	if err != nil {
		return m, err
	}
	if m, err = writeArchive(sealed, m, files); err != nil {
		return m, err
	}
	return m, sealed.Close()
}

func writeArchive(to io.Writer, m Manifest, files []File) (Manifest, error) {
	archive := tar.NewWriter(to)
	m.Format, m.Files = format, nil
	for _, f := range files {
		sum := sha256.New()
		if err := writeFile(archive, m.Created, f, sum); err != nil {
			return m, fmt.Errorf("%s: %w", f.Name, err)
		}
		m.Files = append(m.Files, Entry{f.Name, f.Size, hex.EncodeToString(sum.Sum(nil))})
	}
	text, err := json.Marshal(m)
	if err != nil {
		return m, fmt.Errorf("encode the manifest: %w", err)
	}
	if len(files) > maxFiles || len(text) > maxManifest {
		return m, fmt.Errorf("%d files are more than a backup may have: move old files of the audit trail to an archive", len(files))
	}
	err = writeFile(archive, m.Created, File{manifestName, int64(len(text)), bytes.NewReader(text)}, io.Discard)
	return m, errors.Join(err, archive.Close())
}

func writeFile(archive *tar.Writer, at time.Time, f File, sum io.Writer) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Size: f.Size, Mode: 0o600, ModTime: at.Truncate(time.Second), Format: tar.FormatUSTAR}
	if f.Size >= ustarSize {
		header.Format = tar.FormatPAX
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.CopyN(io.MultiWriter(archive, sum), f.Content, f.Size)
	return err
}

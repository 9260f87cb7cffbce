package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// file is a page or an asset, compressed once for all requests.
type file struct {
	contentType string
	gzip        []byte
}

// assetRoot is the folder of all assets, as browsers see it.
const assetRoot = "/assets/"

// reference is how HTML, scripts and styles name an asset: as /assets/ and the name of its
// file, in whichever folder that is.
var reference = regexp.MustCompile(assetRoot + `[\w-]+(?:\.[\w-]+)+`)

func typeOf(name string) (contentType string, known bool) {
	contentType, known = map[string]string{
		".css":  "text/css; charset=utf-8",
		".html": "text/html; charset=utf-8",
		".js":   "text/javascript; charset=utf-8",
	}[path.Ext(name)]
	return contentType, known
}

// builder turns files into what is served. The name of an asset has a hash of its content,
// so that browsers may keep it for ever: each reference becomes the name with the hash.
type builder struct {
	files  map[string][]byte // by name; compressed where it ends with .gz
	hashed map[string]string // names with hashes, by name; "" while it is being built
	assets map[string]file   // by name with the hash
}

// build makes every asset, and the pages that are named. Vendored files are compressed
// already, and stay as they are.
func build(from fs.FS, pages []string) (assets, built map[string]file, err error) {
	b := &builder{map[string][]byte{}, map[string]string{}, map[string]file{}}
	err = fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		base := path.Base(name)
		if _, twice := b.files[base]; twice {
			return fmt.Errorf("two files are named %s", base)
		}
		b.files[base], err = fs.ReadFile(from, name)
		return err
	})
	built = map[string]file{}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		if err != nil {
			return nil, nil, err
		}
		switch {
		case slices.Contains(pages, name):
			built[name], err = b.file(name)
		case path.Ext(name) != ".html":
			_, err = b.asset(strings.TrimSuffix(name, ".gz"))
		}
	}
	return b.assets, built, err
}

// asset builds an asset after those that it refers to, and returns its name with the hash.
func (b *builder) asset(name string) (string, error) {
	if hashed, begun := b.hashed[name]; begun {
		if hashed == "" {
			return "", fmt.Errorf("%s refers to itself in the end", name)
		}
		return hashed, nil
	}
	b.hashed[name] = ""
	made, err := b.file(name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(made.gzip)
	extension := path.Ext(name)
	b.hashed[name] = strings.TrimSuffix(name, extension) + "." + hex.EncodeToString(sum[:6]) + extension
	b.assets[b.hashed[name]] = made
	return b.hashed[name], nil
}

// file builds one file.
func (b *builder) file(name string) (file, error) {
	contentType, known := typeOf(name)
	if !known {
		return file{}, fmt.Errorf("%s: no content type is known for such a file", name)
	}
	if compressed, vendored := b.files[name+".gz"]; vendored {
		return file{contentType, compressed}, nil
	}
	content, exists := b.files[name]
	if !exists {
		return file{}, fmt.Errorf("there is no %s", name)
	}
	var failed error
	content = reference.ReplaceAllFunc(content, func(found []byte) []byte {
		hashed, err := b.asset(strings.TrimPrefix(string(found), assetRoot))
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", name, err)
		}
		return []byte(assetRoot + hashed)
	})
	return file{contentType, compress(content)}, failed
}

func compress(content []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // in memory, and the level is one: never
	}
	return b.Bytes()
}

// plain is the file for who does not take it compressed.
func (f file) plain() (io.Reader, error) { return gzip.NewReader(bytes.NewReader(f.gzip)) }

package backup

import "io"

// ReadArchive reads what is in the age file.
func ReadArchive(from io.Reader, l Layout, take func(string, io.Reader) error) (Manifest, error) {
	return readArchive(from, l, take)
}

// WriteArchive writes what is in the age file.
func WriteArchive(to io.Writer, m Manifest, files []File) (Manifest, error) {
	return writeArchive(to, m, files)
}

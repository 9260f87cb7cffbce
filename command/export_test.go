package command

import "attestcsr/csr/pkcs10"

// ParseSignature reads a signature file, and returns its bytes alone.
func ParseSignature(content []byte) ([]byte, error) {
	given, err := parseGiven(content)
	return given.bytes, err
}

// ReadKeySet reads a JSON Web Key set, and returns how many keys can be used.
func ReadKeySet(text []byte) (int, error) {
	keys, err := readKeySet(text)
	keyTable(keys)
	keyPEM(keys)
	return len(keys), err
}

// ParseSpec reads a spec in JSON or YAML.
func ParseSpec(text []byte) (pkcs10.Spec, error) { return parseSpec(text) }

package secrets_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"strings"
	"testing"
)

// secret is something that must be nowhere but in the places that are named.
type secret struct {
	name    string
	text    string   // a password, an id or a token
	bytes   []byte   // a key, or a part of one
	allowed []string // names of places
}

// window is how many bytes of a key are as bad as all of it.
const window = 16

// needle is one form of a secret.
type needle struct {
	of   int // index of the secret
	text []byte
}

// haystack looks for many needles at once.
type searcher struct {
	secrets []secret
	needles []needle
	byHead  map[uint64][]int // the needles that begin with these eight bytes
	heads   [1 << 16 / 64]uint64
	bytes   int // searched so far
}

func newSearcher(t *testing.T, secrets []secret) *searcher {
	t.Helper()
	s := &searcher{secrets: secrets, byHead: map[uint64][]int{}}
	for i, one := range secrets {
		forms := formsOfText(one.text)
		if one.text == "" {
			forms = formsOfKey(one.bytes)
		}
		for _, form := range forms {
			if len(form) < 8 {
				t.Fatalf("%s has a form too short to look for", one.name)
			}
			head := binary.LittleEndian.Uint64(form)
			s.byHead[head] = append(s.byHead[head], len(s.needles))
			s.heads[hashOf(head)/64] |= 1 << (hashOf(head) % 64)
			s.needles = append(s.needles, needle{i, form})
		}
	}
	return s
}

func hashOf(head uint64) uint64 { return head * 0x9e3779b97f4a7c15 >> 48 }

// find returns which secrets are in the text, also where line breaks were put
// into it.
func (s *searcher) find(text []byte) map[int]string {
	found := map[int]string{}
	unbroken := text
	for _, line := range []string{"\r", "\n", `\r`, `\n`} {
		unbroken = bytes.ReplaceAll(unbroken, []byte(line), nil)
	}
	for _, text := range [][]byte{text, unbroken} {
		for i := 0; i+8 <= len(text); i++ {
			head := binary.LittleEndian.Uint64(text[i:])
			if s.heads[hashOf(head)/64]&(1<<(hashOf(head)%64)) == 0 {
				continue
			}
			for _, n := range s.byHead[head] {
				if needle := s.needles[n]; bytes.HasPrefix(text[i:], needle.text) {
					found[needle.of] = fmt.Sprintf("%.200q", text[max(0, i-80):min(len(text), i+80)])
				}
			}
		}
	}
	s.bytes += len(text)
	return found
}

// formsOfText are the ways in which text is written in logs, documents and URLs.
func formsOfText(text string) [][]byte {
	if text == "" {
		return nil
	}
	escaped, _ := json.Marshal(text) // no error for a string
	var plain bytes.Buffer
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text)
	unquoted := strings.Trim(strings.TrimSpace(plain.String()), `"`)
	forms := [][]byte{[]byte(text), escaped[1 : len(escaped)-1], []byte(unquoted), []byte(url.QueryEscape(text)), []byte(url.PathEscape(text))}
	quoted := strconv.Quote(text)
	forms = append(forms, []byte(quoted[1:len(quoted)-1]))
	return append(forms, formsOfBytes([]byte(text))...)
}

// formsOfKey are those of a number or of a symmetric key, whole or in part.
func formsOfKey(key []byte) [][]byte {
	var forms [][]byte
	for _, at := range []int{0, (len(key) - window) / 2, len(key) - window} {
		part := key[at : at+window]
		forms = append(forms, part)
		forms = append(forms, formsOfBytes(part)...)
		forms = append(forms, []byte(strings.Trim(fmt.Sprint(part), "[]"))) // as fmt prints bytes
	}
	return append(forms, []byte(new(big.Int).SetBytes(key).String()))
}

// formsOfBytes are hexadecimal and base64, the latter wherever in a longer text
// the bytes stand: what depends on their neighbours is left out.
func formsOfBytes(b []byte) [][]byte {
	forms := [][]byte{[]byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b)))}
	for offset := range 3 {
		padded := append(make([]byte, offset), b...)
		first, last := (offset*8+5)/6, len(padded)*8/6
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			forms = append(forms, []byte(encoding.EncodeToString(padded)[first:last]))
		}
	}
	return forms
}

// secretsOf are the numbers of which a private key consists.
func secretsOf(t *testing.T, name string, der []byte, allowed ...string) []secret {
	t.Helper()
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	switch private := private.(type) {
	case *rsa.PrivateKey:
		return []secret{
			{name + ", exponent", "", private.D.Bytes(), allowed},
			{name + ", first prime", "", private.Primes[0].Bytes(), allowed},
			{name + ", second prime", "", private.Primes[1].Bytes(), allowed},
		}
	case *ecdsa.PrivateKey:
		scalar, err := private.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return []secret{{name + ", scalar", "", scalar, allowed}}
	}
	t.Fatalf("%s is %T", name, private)
	return nil
}

// plant writes the secret as a careless program would.
func plant(one secret, keyDER []byte) map[string][]byte {
	value := one.bytes
	if one.text != "" {
		value = []byte(one.text)
	}
	asJSON, _ := json.Marshal(map[string]string{"msg": "cannot use " + string(value)})
	planted := map[string][]byte{
		"as it is":       append([]byte("x"), value...),
		"hexadecimal":    []byte(hex.EncodeToString(append([]byte("x"), value...))),
		"HEXADECIMAL":    []byte(strings.ToUpper(hex.EncodeToString(value))),
		"base64":         []byte(base64.StdEncoding.EncodeToString(value)),
		"base64, user":   []byte("Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+string(value)))),
		"base64, one":    []byte(base64.StdEncoding.EncodeToString(append([]byte("x"), value...))),
		"base64url, two": []byte(base64.URLEncoding.EncodeToString(append([]byte("xy"), value...))),
		"in lines":       pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: append([]byte("xyzzy"), value...)}),
	}
	if one.text == "" {
		planted["decimal"] = []byte(new(big.Int).SetBytes(value).String())
		planted["bytes in decimal"] = fmt.Append(nil, value)
	} else {
		planted["JSON"] = asJSON
		planted["quoted"] = fmt.Appendf(nil, "%q", value)
		planted["form"] = []byte(url.Values{"j_password": {string(value)}}.Encode())
		planted["path"] = []byte("/x/" + url.PathEscape(string(value)))
	}
	if keyDER != nil {
		planted["PEM in JSON"], _ = json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	}
	return planted
}

// wantFound plants every secret in a copy of a place, and wants it found: a search
// that finds nothing anywhere shows nothing.
func (s *searcher) wantFound(t *testing.T, place []byte, ders map[string][]byte) int {
	t.Helper()
	place = place[:min(len(place), 2000)]
	n := 0
	for i, one := range s.secrets {
		name, _, _ := strings.Cut(one.name, ",")
		for form, text := range plant(one, ders[name]) {
			copied := append(append(bytes.Clone(place[:len(place)/2]), text...), place[len(place)/2:]...)
			if _, found := s.find(copied)[i]; !found {
				t.Errorf("%s is not found %s: %.100q", one.name, form, text)
			}
			n++
		}
	}
	return n
}

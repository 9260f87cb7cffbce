package rollover_test

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

// signer signs tokens over HTTPS, as a client of Vault's transit engine would. It has a
// session, which ends with each process of the service.
type signer struct{ session string }

// errAway is the error of a request while the service is being restarted.
var errAway = errors.New("the service is away")

func (c *signer) do(s *start.Instance, method, path, body string, into any) error {
	if c.session == "" && !strings.HasPrefix(path, "auth/") {
		var answer struct {
			Auth struct {
				Token string `json:"client_token"`
			}
		}
		if err := c.do(s, http.MethodPost, "auth/userpass/login/"+start.User, `{"password":`+kit.JSON(s.Password)+`}`, &answer); err != nil {
			return err
		}
		c.session = answer.Auth.Token
	}
	a, err := s.Do(method, "/v1/"+path, body, start.Anonymous, start.Header("X-Vault-Token", c.session))
	switch {
	case err != nil || a.Status == http.StatusServiceUnavailable:
		return errAway
	case a.Status == http.StatusForbidden && c.session != "":
		c.session = ""
		return errAway
	case a.Status != http.StatusOK:
		return fmt.Errorf("%s /v1/%s: %d %s", method, path, a.Status, a.Body)
	}
	if err := json.Unmarshal([]byte(a.Body), into); err != nil {
		return fmt.Errorf("%s /v1/%s: %w: %s", method, path, err, a.Body)
	}
	return nil
}

// transitKey is the public side of a key.
type transitKey struct {
	Latest int `json:"latest_version"`
	Keys   map[string]struct {
		Public string `json:"public_key"`
	}
}

func (c *signer) key(s *start.Instance, name string) (transitKey, error) {
	var answer struct{ Data transitKey }
	err := c.do(s, http.MethodGet, "transit/keys/"+name, "", &answer)
	return answer.Data, err
}

func (k transitKey) version(n int) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(k.Keys[strconv.Itoa(n)].Public))
	if block == nil {
		return nil, fmt.Errorf("no public key of version %d: %+v", n, k)
	}
	return x509.ParsePKIXPublicKey(block.Bytes)
}

// signature is one that was answered.
type signature struct {
	version int
	text    string // as it was answered
	encoded string // its part in base64
}

// parameters make a signature that of a JWS.
var parameters = map[jose.SignatureAlgorithm]map[string]string{
	jose.RS256: {"signature_algorithm": "pkcs1v15"},
	jose.PS256: {"signature_algorithm": "pss"},
	jose.ES256: {"marshaling_algorithm": "jws"},
}

// sign signs with SHA-256.
func (c *signer) sign(s *start.Instance, name, input string, parameters map[string]string) (signature, error) {
	members := map[string]string{"input": base64.StdEncoding.EncodeToString([]byte(input))}
	maps.Copy(members, parameters)
	var answer struct{ Data struct{ Signature string } }
	if err := c.do(s, http.MethodPost, "transit/sign/"+name+"/sha2-256", kit.JSON(members), &answer); err != nil {
		return signature{}, err
	}
	parts := strings.Split(answer.Data.Signature, ":")
	if len(parts) != 3 || parts[0] != "vault" {
		return signature{}, fmt.Errorf("signature %q", answer.Data.Signature)
	}
	version, err := strconv.Atoi(strings.TrimPrefix(parts[1], "v"))
	return signature{version, answer.Data.Signature, parts[2]}, err
}

// token signs a token. The id of the key is signed with it, so the key must not have been
// replaced meanwhile.
func (c *signer) token(s *start.Instance, name string, algorithm jose.SignatureAlgorithm, subject string) (token, error) {
	for {
		key, err := c.key(s, name)
		if err != nil {
			return token{}, err
		}
		public, err := key.version(key.Latest)
		if err != nil {
			return token{}, err
		}
		sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
		if err != nil {
			return token{}, err
		}
		encode := base64.RawURLEncoding.EncodeToString
		made := token{keyID: encode(sum)}
		input := encode([]byte(kit.JSON(map[string]string{"alg": string(algorithm), "kid": made.keyID}))) + "." + encode([]byte(kit.JSON(map[string]string{"sub": subject})))
		signed, err := c.sign(s, name, input, parameters[algorithm])
		made.answered = time.Now()
		if err != nil {
			return token{}, err
		}
		if signed.version != key.Latest {
			continue
		}
		// RSA comes in base64, a JWS wants base64url.
		made.compact = input + "." + strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(signed.encoded)
		return made, nil
	}
}

// digest is that of what was signed.
func (t token) digest() string { return digestOf(t.compact[:strings.LastIndexByte(t.compact, '.')]) }

// digestOf is a digest as a line of the trail has it.
func digestOf(input string) string {
	sum := sha256.Sum256([]byte(input))
	return hex.EncodeToString(sum[:])
}

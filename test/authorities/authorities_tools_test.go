//go:build tools

// Package authorities_test has real CAs sign the CSRs of the running service, and sets
// their answers.
package authorities_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"attestcsr/test/kit"
	"attestcsr/test/start"
)

func TestMain(m *testing.M) { start.Main(m) }

// office is a folder in which a CA works: ca.pem and ca.key are its own, request.pem is
// what it is given, and leaf.pem is its answer.
type office struct {
	*testing.T
	dir string
}

func (o office) write(name, text string) { kit.Overwrite(o.T, o.dir, name, text) }

func (o office) read(name string) string { return string(kit.Read(o.T, o.dir, name)) }

// run runs a command in the folder and returns what it printed on stdout.
func (o office) run(command string, args ...string) string {
	o.Helper()
	var words strings.Builder
	c := exec.CommandContext(o.Context(), command, args...)
	c.Dir, c.Stderr = o.dir, &words
	out, err := c.Output()
	if err != nil {
		o.Fatalf("%s %s: %v\n%s%s", command, strings.Join(args, " "), err, out, words.String())
	}
	return string(out)
}

// authority is a CA: it opens its office, and it signs.
type authority struct {
	open, sign func(office)
}

// words runs a command of words without blanks.
func (o office) words(line string) string {
	o.Helper()
	fields := strings.Fields(line)
	return o.run(fields[0], fields[1:]...)
}

// openRoot makes a root with openssl, whose names are those that the distribution's
// policy_match compares.
func openRoot(o office) {
	o.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", "ca.key", "-out", "ca.pem",
		"-subj", "/C=US/ST=California/O=Example Ltd/CN=Test CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
}

func authorities() map[string]authority {
	return map[string]authority{
		// The distribution's own settings: policy_match, and no names from the CSR.
		"openssl ca": {
			open: func(o office) {
				openRoot(o)
				if err := os.MkdirAll(filepath.Join(o.dir, "demoCA", "newcerts"), 0o700); err != nil {
					o.Fatal(err)
				}
				o.write("demoCA/index.txt", "")
				o.write("demoCA/serial", "01\n")
			},
			sign: func(o office) {
				o.words("openssl ca -batch -notext -config /etc/ssl/openssl.cnf -cert ca.pem -keyfile ca.key -days 20 -in request.pem -out leaf.pem")
			},
		},
		"certtool": {
			open: func(o office) {
				o.write("ca.cfg", "cn = \"certtool CA\"\nca\ncert_signing_key\nexpiration_days = 30\n")
				o.write("leaf.cfg", "honor_crq_extensions\nsigning_key\nexpiration_days = 20\n")
				o.words("certtool --generate-privkey --key-type ecdsa --curve secp384r1 --outfile ca.key")
				o.words("certtool --generate-self-signed --load-privkey ca.key --template ca.cfg --outfile ca.pem")
			},
			sign: func(o office) {
				o.words("certtool --generate-certificate --load-request request.pem --load-ca-certificate ca.pem --load-ca-privkey ca.key --template leaf.cfg --outfile leaf.pem")
			},
		},
		"cfssl": {
			open: func(o office) {
				openRoot(o)
				o.write("cfssl.json", `{"signing":{"default":{"expiry":"480h","usages":["digital signature"]}}}`)
			},
			sign: func(o office) {
				answer := o.words("cfssl sign -loglevel 5 -ca ca.pem -ca-key ca.key -config cfssl.json request.pem")
				o.write("leaf.pem", start.Member(o.T, answer, "cert"))
			},
		},
		"keytool": {
			open: func(o office) {
				o.run("keytool", "-genkeypair", "-alias", "ca", "-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=keytool CA", "-validity", "30",
					"-ext", "bc:c=ca:true", "-ext", "ku:c=keyCertSign", "-keystore", "ca.p12", "-storepass", "changeit")
				o.words("keytool -exportcert -rfc -alias ca -keystore ca.p12 -storepass changeit -file ca.pem")
			},
			sign: func(o office) {
				o.words("keytool -gencert -rfc -alias ca -keystore ca.p12 -storepass changeit -validity 20 -ext ku:c=digitalSignature -ext honored=san -infile request.pem -outfile leaf.pem")
			},
		},
		"smallstep": {
			open: func(o office) {
				openRoot(o)
				here, err := os.Getwd()
				if err != nil {
					o.Fatal(err)
				}
				o.run("go", "build", "-C", filepath.Join(here, "step"), "-o", filepath.Join(o.dir, "step"), ".")
			},
			sign: func(o office) {
				o.write("leaf.pem", o.run(filepath.Join(o.dir, "step"), "ca.pem", "ca.key", "request.pem"))
			},
		},
	}
}

// Every CA signs the CSR that the service makes, and the service takes what it hands out:
// the chain in PEM, the leaf alone, and PKCS#7 in an order that is not the chain's.
func TestAuthoritiesSign(t *testing.T) {
	t.Parallel()
	for name, ca := range authorities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, s := office{t, t.TempDir()}, start.Serve(t, start.Options{})
			ca.open(o)
			o.write("request.pem", start.Member(t, s.Must(http.StatusCreated, http.MethodPost, start.CSRPath, start.ValidSpec), "csr"))
			ca.sign(o)
			o.words("openssl verify -CAfile ca.pem leaf.pem")
			leaf, issuer := canonical(t, o.read("leaf.pem")), canonical(t, o.read("ca.pem"))
			o.words("openssl crl2pkcs7 -nocrl -certfile ca.pem -certfile leaf.pem -out chain.p7b")
			bag := o.read("chain.p7b")
			for _, step := range []struct{ name, text, want string }{
				{"chain", leaf + issuer, leaf + issuer}, {"leaf alone", leaf, leaf}, {"PKCS#7", bag, leaf + issuer},
				{"text as the CA wrote it", o.read("leaf.pem") + o.read("ca.pem"), leaf + issuer}, {"PKCS#7 as AD CS labels it", strings.ReplaceAll(bag, "PKCS7", "CERTIFICATE"), leaf + issuer},
			} {
				s.Must(http.StatusNoContent, http.MethodPut, start.CertificatePath, kit.JSON(map[string]string{"certificate": step.text}))
				if got := start.Member(t, s.Must(http.StatusOK, http.MethodGet, start.CertificatePath, ""), "certificate"); got != step.want {
					t.Errorf("%s: %s", step.name, got)
				}
			}
			// The other dialect, with a file in DER.
			o.write("request.pem", pemEncoded(t, s.Must(http.StatusCreated, http.MethodPost, start.NSXCSRs+"/web?action=create", nsxSpec)))
			ca.sign(o)
			o.words("openssl crl2pkcs7 -nocrl -certfile ca.pem -certfile leaf.pem -outform DER -out chain.der")
			form, asForm := start.Upload("chain.p7b", o.read("chain.der"))
			if got := pemEncoded(t, s.Must(http.StatusCreated, http.MethodPost, start.NSXCSRs+"/web?action=upload", form, asForm)); got != canonical(t, o.read("leaf.pem"))+issuer {
				t.Errorf("upload: %s", got)
			}
			kit.Count(t, "CAs that signed", 1)
		})
	}
}

// nsxSpec has the attributes that policy_match compares, like start.ValidSpec.
const nsxSpec = `{"subject":{"attributes":[{"key":"CN","value":"web.example.com"},{"key":"O","value":"Example Ltd"},` +
	`{"key":"ST","value":"California"},{"key":"C","value":"US"}]},"algorithm":"EC","key_size":256}`

func pemEncoded(t *testing.T, body string) string {
	t.Helper()
	var object struct {
		PEM string `json:"pem_encoded"`
	}
	if err := json.Unmarshal([]byte(body), &object); err != nil || object.PEM == "" {
		t.Fatalf("%v: %s", err, body)
	}
	return object.PEM
}

// canonical is the PEM that Go writes of certificates.
func canonical(t *testing.T, text string) string {
	t.Helper()
	var blocks strings.Builder
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if err := pem.Encode(&blocks, block); err != nil {
			t.Fatal(err)
		}
	}
	if blocks.Len() == 0 {
		t.Fatalf("no certificate: %q", text)
	}
	return blocks.String()
}

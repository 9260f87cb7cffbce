package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
)

const (
	// workFactor of the passphrase: 64 MB and a quarter of a second. The default of age
	// takes 256 MB, which a container for this service often does not have.
	workFactor = 16
	// maxWorkFactor is what an opening spends at most, whatever the file says: a file that
	// the age command has encrypted opens, too.
	maxWorkFactor = 18
	// minPassphrase is in characters. The work factor does not make up for less.
	minPassphrase = 16

	maxRecipients = 20
	maxKeyFile    = 64 << 10 // bytes
)

// Recipients parses public keys of age.
func Recipients(texts []string) (all []age.Recipient, err error) {
	if len(texts) == 0 || len(texts) > maxRecipients {
		return nil, fmt.Errorf("a backup has 1 to %d recipients", maxRecipients)
	}
	for i, text := range texts {
		var one age.Recipient
		err := errors.New("a recipient begins with age1: age-keygen prints it as the public key") // the text may be a private key
		switch {
		case strings.HasPrefix(text, "age1pq1"):
			one, err = age.ParseHybridRecipient(text)
		case strings.HasPrefix(text, "age1"):
			one, err = age.ParseX25519Recipient(text)
		}
		if err != nil {
			return nil, fmt.Errorf("recipient %d: %w", i+1, err)
		}
		all = append(all, one)
	}
	return all, nil
}

// Opener is what opens a backup: one of the two files.
type Opener struct{ PassphraseFile, IdentityFile string }

// Identities reads the file.
func (o Opener) Identities() ([]age.Identity, error) {
	if o.IdentityFile != "" {
		text, err := readSmall(o.IdentityFile)
		if err != nil {
			return nil, err
		}
		defer clear(text)
		all, err := age.ParseIdentities(bytes.NewReader(text))
		if err != nil { // the cause may quote the key
			return nil, fmt.Errorf("%s holds no identity of age: it has a line that begins with AGE-SECRET-KEY-1, as age-keygen writes it", o.IdentityFile)
		}
		return all, nil
	}
	secret, err := readPassphrase(o.PassphraseFile)
	if err != nil {
		return nil, err
	}
	one, err := age.NewScryptIdentity(secret)
	if err != nil {
		return nil, err
	}
	one.SetMaxWorkFactor(maxWorkFactor)
	return []age.Identity{one}, nil
}

// withPassphrase encrypts a backup again, for a passphrase instead of the recipient that
// it returns: what makes the backup needs neither the passphrase nor the memory that it
// takes. Nothing is whole before Close.
func withPassphrase(file string, to io.Writer) (recipient string, _ *resealing, err error) {
	secret, err := readPassphrase(file)
	if err != nil {
		return "", nil, err
	}
	if utf8.RuneCountInString(secret) < minPassphrase {
		return "", nil, fmt.Errorf("%s holds a passphrase of less than %d characters: openssl rand -base64 24 makes a good one", file, minPassphrase)
	}
	own, err := age.NewScryptRecipient(secret)
	if err != nil {
		return "", nil, err
	}
	own.SetWorkFactor(workFactor)
	between, err := age.GenerateX25519Identity()
	if err != nil {
		return "", nil, err
	}
	sealed, err := age.Encrypt(to, own)
	if err != nil {
		return "", nil, err
	}
	out, in := io.Pipe()
	r := &resealing{in, make(chan error, 1)}
	go func() {
		opened, err := age.Decrypt(out, between)
		if err == nil {
			_, err = io.Copy(sealed, opened)
		}
		if err == nil {
			err = sealed.Close()
		}
		_ = out.CloseWithError(err) // never fails
		r.done <- err
	}()
	return between.Recipient().String(), r, nil
}

// resealing is what withPassphrase writes to.
type resealing struct {
	*io.PipeWriter
	done chan error
}

// Close ends the file.
func (r *resealing) Close() error { return errors.Join(r.PipeWriter.Close(), <-r.done) }

// giveUp ends without a file.
func (r *resealing) giveUp() error {
	err := r.CloseWithError(errGivenUp)
	if ended := <-r.done; !errors.Is(ended, errGivenUp) {
		err = errors.Join(err, ended)
	}
	return err
}

var errGivenUp = errors.New("the backup was not made")

// readPassphrase returns the first line of a file.
func readPassphrase(file string) (string, error) {
	text, err := readSmall(file)
	if err != nil {
		return "", err
	}
	defer clear(text)
	secret := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	if len(secret) == 0 || bytes.ContainsAny(secret, "\r\n\x00") {
		return "", fmt.Errorf("%s must hold the passphrase in one line", file)
	}
	return string(secret), nil
}

func readSmall(file string) (text []byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err = io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%s is longer than %d bytes: it is not what it should be", file, maxKeyFile)
	}
	return text, err
}

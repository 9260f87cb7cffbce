package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

// Cost is the bcrypt cost of the hashes that Hash makes. A users file with a lower
// one deserves a warning.
const Cost = 10

// Bounds of a users file and of user names and passwords.
const (
	maxUsersFile   = 1 << 20 // bytes
	maxUsers       = 10_000
	maxUserName    = 255  // bytes; htpasswd's own bound
	maxPassword    = 1024 // bytes, of one to be checked
	minPassword    = 8    // characters, of one to be hashed
	maxHashed      = 72   // bytes, of one to be hashed: bcrypt reads no further
	minCost        = 4    // bcrypt's lower bound
	maxCost        = 17   // htpasswd's upper bound; one check takes seconds
	byteOrderMark  = "\ufeff"
	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)

// Users is the content of a users file. It never changes; a reload makes another
// and hands it to SetUsers.
//
// The file is not read by tg123/go-htpasswd: that answers unknown users at once, so
// that names can be found by timing; it drops all users without an error when a
// reload finds a damaged file; and it hides the hashes, which decide here when a
// session ends and how long an unknown user takes.
type Users struct {
	hashes map[string]string // by user name
	lowest int               // cost of the weakest hash
	dummy  string            // what passwords of unknown users are compared with
}

// ParseUsers reads a users file in the format of Apache's htpasswd: a line
// "name:hash" per user, blank lines and lines that begin with "#". Hashes are
// bcrypt ($2a$, $2b$ or $2y$) of cost 4 to 17; every other kind is refused.
//
// A name is 1 to 255 bytes of UTF-8 without control characters, colons or spaces
// at its ends, and is compared byte by byte. The file has at most 1 MiB and
// 10,000 users. It may hold none: then nobody can log in.
//
// Errors name the line and never quote a hash or a name.
func ParseUsers(data []byte) (*Users, error) {
	if len(data) > maxUsersFile {
		return nil, fmt.Errorf("users file: it is larger than %d bytes", maxUsersFile)
	}
	hashes := make(map[string]string)
	lowest, highest := maxCost, minCost
	number := 0
	for line := range bytes.Lines(data) {
		number++
		line = bytes.TrimSuffix(line, []byte("\n"))
		name, hash, err := parseUserLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("users file, line %d: %w", number, err)
		}
		if name == "" {
			continue
		}
		if _, ok := hashes[name]; ok {
			return nil, fmt.Errorf("users file, line %d: this user has a line already", number)
		}
		if len(hashes) == maxUsers {
			return nil, fmt.Errorf("users file, line %d: there are more than %d users", number, maxUsers)
		}
		hashes[name] = hash
		cost := costOf(hash)
		lowest, highest = min(lowest, cost), max(highest, cost)
	}
	if len(hashes) == 0 {
		lowest, highest = Cost, Cost // a check takes as long as one of a hash of ours
	}
	return &Users{hashes: hashes, lowest: lowest, dummy: dummyHash(highest)}, nil
}

// Names lists the users in alphabetical order.
func (u *Users) Names() []string { return slices.Sorted(maps.Keys(u.hashes)) }

// LowestCost is the bcrypt cost of the weakest hash in the file. Under 10 it
// deserves a warning: htpasswd's default is 5.
func (u *Users) LowestCost() int { return u.lowest }

// hashOf returns the stored hash of a user. For an unknown one it returns a dummy
// that matches no password and takes as long as the file's most expensive hash. Users
// with a cheaper hash can still be found by timing: a file should have one cost.
func (u *Users) hashOf(user string) (hash string, known bool) {
	if hash, known = u.hashes[user]; known {
		return hash, true
	}
	return u.dummy, false
}

// parseUserLine returns the two halves of a line, nothing for a comment or a blank
// line.
func parseUserLine(line string) (name, hash string, err error) {
	switch {
	case strings.HasPrefix(line, byteOrderMark):
		return "", "", errors.New("it begins with a byte order mark")
	case !utf8.ValidString(line):
		return "", "", errors.New("it is not UTF-8")
	case strings.ContainsFunc(line, unicode.IsControl):
		return "", "", errors.New("it holds a control character (lines must end with a newline alone)")
	case strings.Trim(line, " ") == "", strings.HasPrefix(line, "#"):
		return "", "", nil
	}
	name, hash, ok := strings.Cut(line, ":")
	if !ok {
		return "", "", errors.New("it has no colon")
	}
	if err := checkName(name); err != nil {
		return "", "", err
	}
	if !isBcrypt(hash) {
		return "", "", errors.New("the hash is not bcrypt (use htpasswd -B)")
	}
	if cost := costOf(hash); cost < minCost || cost > maxCost {
		return "", "", fmt.Errorf("the cost of the hash is not between %d and %d", minCost, maxCost)
	}
	return name, hash, nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it has no user name")
	case len(name) > maxUserName:
		return fmt.Errorf("the user name is longer than %d bytes", maxUserName)
	case strings.TrimSpace(name) != name:
		return errors.New("the user name begins or ends with a space")
	}
	return nil
}

// CheckName refuses what cannot be the name of a new user. A colon ends a name in a users
// file, and so no user is called like a process (uid:0) or the service (system:service).
func CheckName(name string) error {
	switch {
	case strings.Contains(name, ":"):
		return errors.New("a user name has no colon")
	case strings.HasPrefix(name, "#"):
		return errors.New("a user name does not begin with #, which makes a line a comment")
	case strings.HasPrefix(name, byteOrderMark), !utf8.ValidString(name), strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("a user name is UTF-8 without control characters")
	case name == "":
		return errors.New("a user name has at least one character")
	}
	return checkName(name)
}

// isBcrypt reports whether a hash has the form of bcrypt's. $2x$ is refused: it marks
// hashes of an implementation with a bug.
func isBcrypt(hash string) bool {
	if len(hash) != 60 || !slices.Contains([]string{"$2a$", "$2b$", "$2y$"}, hash[:4]) {
		return false
	}
	cost, saltAndDigest := hash[4:6], hash[7:]
	return strings.Trim(cost, "0123456789") == "" && hash[6] == '$' &&
		strings.Trim(saltAndDigest, bcryptAlphabet) == ""
}

// costOf reads the cost of a hash of the right form.
func costOf(hash string) int {
	cost, _ := strconv.Atoi(hash[4:6]) // isBcrypt found two digits
	return cost
}

// dummyHash makes a well-formed hash of a random salt and digest. A comparison with it
// takes as long as a real one.
func dummyHash(cost int) string {
	random := make([]byte, 16+23) // salt and digest, as many bytes as bcrypt has
	_, _ = rand.Read(random)      // never fails, by its documentation
	encoding := base64.NewEncoding(bcryptAlphabet).WithPadding(base64.NoPadding)
	return fmt.Sprintf("$2a$%02d$%s%s", cost, encoding.EncodeToString(random[:16]), encoding.EncodeToString(random[16:]))
}

// CheckPassword refuses a password that is new and cannot or should not be used: not
// UTF-8, shorter than 8 characters, or longer than 72 bytes, of which bcrypt would read
// the beginning only. It warns of one that some clients cannot send.
func CheckPassword(password string) (warning string, err error) {
	switch {
	case password == "":
		return "", errors.New("the password is empty")
	case strings.HasPrefix(password, byteOrderMark):
		return "", errors.New("the password begins with a byte order mark: save it as UTF-8 without one")
	case len(password) > maxHashed:
		return "", fmt.Errorf("the password is longer than %d bytes, which is all that bcrypt reads", maxHashed)
	case !utf8.ValidString(password):
		return "", errors.New("the password is not UTF-8")
	case utf8.RuneCountInString(password) < minPassword:
		return "", fmt.Errorf("the password is shorter than %d characters", minPassword)
	case strings.ContainsFunc(password, func(r rune) bool { return r > unicode.MaxASCII }):
		return "the password is not ASCII: clients that send Latin-1 instead of UTF-8 cannot log in with it", nil
	}
	return "", nil
}

// Hash returns the bcrypt hash, of cost 10, of a password that passes CheckPassword.
func Hash(password string) (string, error) {
	if _, err := CheckPassword(password); err != nil {
		return "", err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), Cost)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return string(hash), nil
}

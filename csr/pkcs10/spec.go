// Package pkcs10 has the rules of certification requests (PKCS#10, RFC 2986) and of the
// certificates that answer them, and their encodings. It is pure: it reads no store, no
// request and no clock.
package pkcs10

import (
	"cmp"
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"
)

// The key sizes in bits of a Spec that names none.
const (
	DefaultKeySize   = 2048
	defaultCurveSize = 256
)

// Algorithm is the kind of a key pair.
type Algorithm string

// The algorithms that a Spec may ask for.
const (
	RSA   Algorithm = "RSA"
	ECDSA Algorithm = "ECDSA"
)

// Spec is what a certification request says. The names of its members in JSON are part
// of the stored format.
type Spec struct {
	// Algorithm is RSA, also when it is empty, or ECDSA.
	Algorithm Algorithm `json:"algorithm"`
	// KeySize is in bits. RSA: one of Policy.KeySizes, by default 2048. ECDSA: 256
	// (the default), 384 or 521, for the curves P-256, P-384 and P-521 (FIPS 186-5).
	// nil: the default.
	KeySize *int64 `json:"key_size"`
	// Subject is encoded in this order, one RDN for each attribute. If it has no
	// CommonName, the hostname is appended as one, unless Named.
	Subject []Attribute `json:"subject"`
	// Email is the first subject alternative name (RFC 5280 deprecates it in the
	// subject). Empty: none.
	Email string `json:"email,omitzero"`
	// AltNames follow in this order, at most MaxAltNames. A name that equals an
	// earlier one or Email, apart from letter case, is left out.
	AltNames []AltName `json:"alt_names,omitempty"`
	// Named refuses a subject without a CommonName: the hostname would be a guess.
	Named bool `json:"-"`
	// MaxAltNames bounds AltNames as the dialect has it; 0 is 100.
	MaxAltNames int `json:"-"`
	// CA asks for the certificate of a certification authority: critical
	// basicConstraints with CA:TRUE and critical keyUsage with keyCertSign
	// (RFC 5280 sections 4.2.1.9 and 4.2.1.3).
	CA bool `json:"ca,omitzero"`
}

// Attribute is one attribute of a subject. Type is one of CommonName,
// Organization, OrganizationalUnit, Locality, StateOrProvince and Country. Value is
// not empty. It is encoded as it is, with blanks at its ends, but countries in upper
// case.
type Attribute struct {
	Type  Field  `json:"type"`
	Value string `json:"value"`
}

// attributeType returns the identifier of a subject attribute, and the upper bound of
// its length in characters (RFC 5280 appendix A.1, ub-common-name and so on).
func attributeType(f Field) (oid asn1.ObjectIdentifier, upperBound int, ok bool) {
	switch f {
	case CommonName:
		return asn1.ObjectIdentifier{2, 5, 4, 3}, 64, true
	case Organization:
		return asn1.ObjectIdentifier{2, 5, 4, 10}, 64, true
	case OrganizationalUnit:
		return asn1.ObjectIdentifier{2, 5, 4, 11}, 64, true
	case Locality:
		return asn1.ObjectIdentifier{2, 5, 4, 7}, 128, true
	case StateOrProvince:
		return asn1.ObjectIdentifier{2, 5, 4, 8}, 128, true
	case Country:
		return asn1.ObjectIdentifier{2, 5, 4, 6}, 2, true
	}
	return nil, 0, false
}

// fieldOrder is the order in which violations are reported.
func fieldOrder(f Field) int {
	return slices.Index([]Field{KeyAlgorithm, KeySize, CommonName, Organization, OrganizationalUnit, Locality,
		StateOrProvince, Country, EmailAddress, SubjectAltName}, f)
}

// Policy is what the operator's settings say about specs.
type Policy struct {
	KeySizes []int  // of RSA keys, in bits
	Hostname string // the common name of a subject without one
}

// Resolve checks a spec and completes it. The error is Violations: the known ones, and
// every rule that the spec breaks.
func (p Policy) Resolve(spec Spec, known ...Violation) (Spec, Template, error) {
	var broken Violations
	spec.Algorithm, spec.KeySize = p.key(spec, &broken)
	spec.Subject = slices.Clone(spec.Subject)
	switch named := slices.ContainsFunc(spec.Subject, func(a Attribute) bool { return a.Type == CommonName }); {
	case named:
	case spec.Named:
		broken.Add(Violation{Field: CommonName, Rule: Required})
	default:
		spec.Subject = append(spec.Subject, Attribute{CommonName, p.Hostname})
	}
	for i := range spec.Subject {
		spec.Subject[i].check(&broken)
	}
	names := spec.generalNames(&broken)

	slices.SortStableFunc(broken, func(a, b Violation) int {
		return cmp.Compare(fieldOrder(a.Field), fieldOrder(b.Field))
	})
	if err := slices.Concat(known, broken).Err(); err != nil {
		return Spec{}, Template{}, err
	}
	t, err := newTemplate(spec, names)
	return spec, t, err
}

// key returns the algorithm and the size of the key that spec asks for.
func (p Policy) key(spec Spec, broken *Violations) (Algorithm, *int64) {
	algorithm, sizes, size := cmp.Or(spec.Algorithm, RSA), p.KeySizes, int64(DefaultKeySize)
	switch algorithm {
	case RSA:
	case ECDSA:
		sizes, size = []int{256, 384, 521}, defaultCurveSize
	default:
		broken.Add(Violation{Field: KeyAlgorithm, Rule: NotAllowed, Value: string(algorithm), Limit: string(RSA + ", " + ECDSA)})
		return algorithm, &size
	}
	if spec.KeySize != nil {
		size = *spec.KeySize
	}
	if !slices.ContainsFunc(sizes, func(allowed int) bool { return int64(allowed) == size }) {
		broken.Add(Violation{Field: KeySize, Rule: NotAllowed, Value: strconv.FormatInt(size, 10), Limit: list(sizes)})
	}
	return algorithm, &size
}

// check reports the rules that the attribute breaks, and puts countries in upper case.
func (a *Attribute) check(broken *Violations) {
	_, upperBound, known := attributeType(a.Type)
	switch {
	case !known:
		broken.Add(Violation{Field: a.Type, Rule: NotAllowed, Limit: "the subject attributes"})
		return
	case a.Value == "":
		broken.Add(Violation{Field: a.Type, Rule: Empty})
		return
	case !utf8.ValidString(a.Value):
		broken.Add(Violation{Field: a.Type, Rule: InvalidUTF8})
		return
	case a.Type == Country:
		given := a.Value
		a.Value = upperASCII(given)
		if !isCountry(a.Value) {
			broken.Add(Violation{Field: Country, Rule: UnknownCountry, Value: given, Limit: countryFlaw(given)})
		}
		return
	}
	if n := utf8.RuneCountInString(a.Value); n > upperBound {
		broken.Add(Violation{Field: a.Type, Rule: TooLong, Limit: strconv.Itoa(upperBound), Cause: "it has " + strconv.Itoa(n)})
	}
	for i, r := range []rune(a.Value) {
		if IsControlOrBidi(r) {
			broken.Add(Violation{Field: a.Type, Rule: ControlCharacter, Cause: fmt.Sprintf("character %d is %U", i+1, r)})
			break
		}
	}
	// A client that could not read a character in its own encoding has put this in its
	// place. A CA would sign it.
	if strings.ContainsRune(a.Value, utf8.RuneError) {
		broken.Add(Violation{Field: a.Type, Rule: LostText})
	}
}

// IsControlOrBidi reports whether a character may not be in a subject or a label.
// Control characters and line breaks forge lines in a terminal or a log. Bidi controls
// reorder the text around them. Other invisible characters are allowed: some scripts
// need joiners.
func IsControlOrBidi(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}

// upperASCII is for ASCII alone: strings.ToUpper turns U+017F into S.
func upperASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func list(sizes []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(sizes), " ", ", "), "[]")
}

// countries are the officially assigned codes of ISO 3166-1 alpha-2, each
// between blanks. User-assigned and exceptionally reserved codes (XK, EU, UK)
// are no country codes in the sense of X.520.
const countries = " " +
	"AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ " +
	"BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ " +
	"CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ " +
	"DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR " +
	"GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY " +
	"HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP " +
	"KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY " +
	"MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ " +
	"NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY " +
	"QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ " +
	"TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ " +
	"VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW "

// isCountry reports whether code is an assigned code, in upper case.
func isCountry(code string) bool {
	return len(code) == 2 && isLetter(code[0]) && isLetter(code[1]) &&
		strings.Contains(countries, " "+code+" ")
}

// countryFlaw says what is wrong with a country that was refused, as AltName.flaw does.
func countryFlaw(given string) string {
	code := strings.TrimSpace(given)
	if code != given {
		return "not have blanks at its ends"
	}
	// It knows codes of three letters, and codes that others have replaced.
	if region, err := language.ParseRegion(code); err == nil && isCountry(region.Canonicalize().String()) {
		return "be " + region.Canonicalize().String() + ", the code of ISO 3166-1 alpha-2"
	}
	if len(code) == 2 {
		return "be a code that ISO 3166-1 alpha-2 assigns to a country"
	}
	return "be the two letters of ISO 3166-1 alpha-2, like DE, not the name of a country"
}

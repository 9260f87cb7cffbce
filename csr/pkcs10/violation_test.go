package pkcs10_test

import (
	"strings"
	"testing"

	"attestcsr/csr/pkcs10"
)

func TestDescribe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		spec pkcs10.Spec
		want string
	}{
		{"too long", subject(pkcs10.Organization, strings.Repeat("o", 65)), "f must be at most 64 characters: it has 65"},
		{"too long name", names(strings.Repeat("漢", 85)), `f "` + strings.Repeat("漢", 64) + `…" must be at most 253 characters: it has 255 bytes`},
		{"required", pkcs10.Spec{Named: true}, "f is required"},
		{"empty", subject(pkcs10.CommonName, ""), "f must not be empty"},
		{"key size", pkcs10.Spec{KeySize: new(int64)}, `f "0" must be one of 2048, 3072, 4096`},
		{"control", subject(pkcs10.Locality, "ä\nb"), "f must not contain control or text direction characters: character 2 is U+000A"},
		{"UTF-8", subject(pkcs10.Locality, "\xff"), "f must be valid UTF-8"},
		{"lost text", subject(pkcs10.CommonName, "M\uFFFDller"), "f must not contain U+FFFD, which stands for text that was lost on its way here"},
		{"escaped", pkcs10.Spec{Email: "a\"\n\x00\u202e@"}, `f "a\"` + "\uFFFD\uFFFD\uFFFD" + `@" must have a domain after the @`},
		{"not UTF-8", names("a\xff"), `f "a` + "\uFFFD" + `" must be valid UTF-8`},
		{"empty name", names(""), "f must not have an empty entry"},
		{"64 characters are shown whole", names(strings.Repeat("_", 64)), `f "` + strings.Repeat("_", 64) + `" must not have an underscore in a DNS name`},
		{"more are shortened", names(strings.Repeat("_", 65)), `f "` + strings.Repeat("_", 64) + `…" must not have an underscore in a DNS name`},
		{"too many", names(make([]string, 101)...), "f must have at most 100 entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := resolve(c.spec)
			vs := violationsOf(t, err)
			if len(vs) != 1 {
				t.Fatalf("violations %+v", vs)
			}
			if got := vs[0].Describe("f"); got != c.want {
				t.Errorf("%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func subject(f pkcs10.Field, value string) pkcs10.Spec {
	return pkcs10.Spec{Subject: []pkcs10.Attribute{{Type: f, Value: value}}}
}

func names(values ...string) pkcs10.Spec {
	var spec pkcs10.Spec
	for _, v := range values {
		spec.AltNames = append(spec.AltNames, pkcs10.AltName{Value: v})
	}
	return spec
}

// A rule without a sentence of its own would be described by its name.
func TestEveryRuleHasASentence(t *testing.T) {
	t.Parallel()
	for _, rule := range allRules() {
		if s := (pkcs10.Violation{Field: pkcs10.CertificateChain, Rule: rule, Limit: "9"}).Describe("f"); strings.Contains(s, "breaks the rule") {
			t.Errorf("%s: %q", rule, s)
		}
	}
}

// allRules are all rules.
func allRules() []pkcs10.Rule {
	return []pkcs10.Rule{
		pkcs10.Required, pkcs10.Empty, pkcs10.EmptyItem, pkcs10.TooLong, pkcs10.TooMany, pkcs10.NotAllowed, pkcs10.InvalidUTF8, pkcs10.ControlCharacter, pkcs10.LostText, pkcs10.UnknownCountry,
		pkcs10.NotAMailbox, pkcs10.NotAURI, pkcs10.NotAnIPAddress, pkcs10.NotADNSName, pkcs10.NotAName, pkcs10.NotAnID, pkcs10.OutOfRange, pkcs10.Full,
		pkcs10.NoCertificate, pkcs10.ForeignBlock, pkcs10.Malformed, pkcs10.BrokenChain, pkcs10.WeakSignature, pkcs10.NotYetValid, pkcs10.Expired, pkcs10.KeyUsage,
		pkcs10.KeyMismatch, pkcs10.KeyTooLarge, pkcs10.PrivateKey, pkcs10.RequestBlock, pkcs10.TrustedBlock, pkcs10.UTF16, pkcs10.EscapedLineEnds, pkcs10.URLEncoded,
		pkcs10.EncodedTwice, pkcs10.DERInsteadOfPEM, pkcs10.NoBoundaries, pkcs10.JoinedBlocks, pkcs10.LostLineEnds, pkcs10.BrokenBoundary, pkcs10.MissingBegin,
		pkcs10.CutOff, pkcs10.HeaderLines, pkcs10.BlankInBase64, pkcs10.BrokenBase64, pkcs10.EmptyBlock, pkcs10.NotDER, pkcs10.BER, pkcs10.TrailingBytes, pkcs10.BrokenPKCS7,
		pkcs10.SignedPKCS7, pkcs10.PKCS7Content, pkcs10.EmptyPKCS7, pkcs10.PKCS7Beside, pkcs10.PKCS7Order, pkcs10.UnsupportedSignature, pkcs10.UnsupportedKey,
		pkcs10.KeyTooSmall, pkcs10.KeyExponent, pkcs10.TooCostly, pkcs10.WrongOrder, pkcs10.Surplus, pkcs10.NameEncoding, pkcs10.NotACA, pkcs10.IssuerUsage,
		pkcs10.PathLength, pkcs10.BadSignature, pkcs10.LeafIsCA, pkcs10.NotAnAuthority, pkcs10.CriticalExtension, pkcs10.NoAnchor, pkcs10.UntrustedRoot, pkcs10.UnusableAnchor,
		pkcs10.NameConstraint, pkcs10.BadPath,
	}
}

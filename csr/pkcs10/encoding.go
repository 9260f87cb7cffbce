package pkcs10

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxChain = 10
	// maxFaults is how many faults of one text are told.
	maxFaults = 20
)

// The rules for the text of a certificate chain: how it was carried here, its PEM and its
// base64. Those for what the base64 holds are in parse.go.
const (
	NoCertificate   Rule = "no_certificate"
	ForeignBlock    Rule = "foreign_block"
	PrivateKey      Rule = "private_key"
	RequestBlock    Rule = "request_block"
	TrustedBlock    Rule = "trusted_block"
	UTF16           Rule = "utf16"
	EscapedLineEnds Rule = "escaped_line_ends"
	URLEncoded      Rule = "url_encoded"
	EncodedTwice    Rule = "encoded_twice"
	DERInsteadOfPEM Rule = "der_instead_of_pem"
	NoBoundaries    Rule = "no_boundaries"
	JoinedBlocks    Rule = "joined_blocks"
	LostLineEnds    Rule = "lost_line_ends"
	BrokenBoundary  Rule = "broken_boundary"
	MissingBegin    Rule = "missing_begin"
	CutOff          Rule = "cut_off"
	HeaderLines     Rule = "header_lines"
	BlankInBase64   Rule = "blank_in_base64"
	BrokenBase64    Rule = "broken_base64"
	EmptyBlock      Rule = "empty_block"
)

// encodingRule says which check a rule of this file belongs to, and in a predicate what it
// asks for. Both are empty for other rules.
func encodingRule(v Violation) (Check, string) {
	if v.Field != CertificateChain {
		return "", ""
	}
	text := map[Rule]string{
		Empty:           "must not be empty",
		TooMany:         "must have at most " + v.Limit + " certificates",
		NoCertificate:   "must have at least one PEM block of type CERTIFICATE",
		ForeignBlock:    "must have PEM blocks of type CERTIFICATE only, and has " + v.Limit,
		PrivateKey:      "must not have a private key, and has one (" + v.Limit + "): take it out, and replace the key, because it may be compromised now",
		RequestBlock:    "is a CSR: send the certificate that the CA made of it",
		TrustedBlock:    "has a block TRUSTED CERTIFICATE, which only OpenSSL reads: convert it with openssl x509 -in FILE",
		UTF16:           "is UTF-16: save the text as UTF-8",
		EscapedLineEnds: "has a backslash and a letter where a line ends: it was escaped twice, send line ends",
		URLEncoded:      "is URL-encoded: send the text as it is",
		EncodedTwice:    "is PEM in base64: decode it once and send the PEM",
		DERInsteadOfPEM: "is DER and must be PEM: convert it with openssl x509 -inform DER -in FILE",
		NoBoundaries:    "is base64 without boundaries: put -----BEGIN CERTIFICATE----- before it and -----END CERTIFICATE----- after it, each on a line of its own",
		JoinedBlocks:    "has an END and a BEGIN on one line: put a line end between the two blocks",
		LostLineEnds:    "has base64 on the line of its BEGIN or END: its line ends were lost, send them too",
		BrokenBoundary:  "has a damaged BEGIN or END line: it must be -----BEGIN CERTIFICATE----- or -----END CERTIFICATE----- and nothing else",
		MissingBegin:    "has no BEGIN line: its first lines are missing or damaged",
		CutOff:          "is cut off: send all of it",
		HeaderLines:     "has header lines in its PEM block: take them out",
		BlankInBase64:   "has a blank in a line of base64, as form encoding makes of each +: send %2B there",
		BrokenBase64:    "has broken base64: copy it again",
		EmptyBlock:      "has nothing between BEGIN and END",
	}[v.Rule]
	if text == "" {
		return "", ""
	}
	return CheckEncoding, text
}

// ReadChain reads a certificate chain as a caller sends it: PEM, the leaf first, or
// certs-only PKCS#7 in any order. With der, one certificate or PKCS#7 in DER is taken too.
// A certificate that was sent before is left out. The caller bounds the size of the text.
func ReadChain(text []byte, der bool) (Chain, Violations) {
	var r chainReader
	rule := carriageFault(text)
	switch {
	case rule == DERInsteadOfPEM && der:
		r.readDER(text, blockCertificate)
	case rule != "":
		r.report(Violation{Rule: rule})
	default:
		r.readPEM(text)
	}
	if r.pkcs7 {
		r.finishPKCS7()
	}
	if len(r.broken) == 0 && len(r.chain) == 0 {
		r.report(Violation{Rule: NoCertificate})
	}
	if len(r.broken) > 0 {
		return nil, r.broken
	}
	return r.chain, nil
}

// carriageFault recognises a text that did not arrive as it was written, or "".
func carriageFault(text []byte) Rule {
	const utf16BE, utf16LE, evenUTF16 = "\xfe\xff", "\xff\xfe", "B\x00E\x00G\x00I\x00N"
	has := func(s string) bool { return bytes.Contains(text, []byte(s)) }
	begins := func(s string) bool { return bytes.HasPrefix(text, []byte(s)) }
	// A SEQUENCE: its length takes more than one byte, or is what follows.
	if len(text) > 1 && text[0] == 0x30 && (text[1] >= 0x80 || int(text[1]) == len(text)-2) {
		return DERInsteadOfPEM
	}
	text = trimLine(text)
	firstLine, _, _ := bytes.Cut(text, []byte("\n"))
	switch {
	case len(text) == 0:
		return Empty
	case begins(utf16BE), begins(utf16LE), has(evenUTF16):
		return UTF16
	case has(`-----\n`), has(`-----\r`), has(`-----\u`), has(`-----\x`), has(`-----\\`):
		return EscapedLineEnds
	case has("-----BEGIN%"), has("-----BEGIN+"), has("-----%0"):
		return URLEncoded
	case !has("-----") && has(base64.RawStdEncoding.EncodeToString([]byte("-----BEGIN"))[:13]):
		return EncodedTwice
	case !has("-----") && begins("MI") && isBase64(bytes.TrimSpace(firstLine)):
		return NoBoundaries
	}
	return ""
}

// trimLine takes away what a line or a text may have around it: blanks, and the byte order
// mark of UTF-8.
func trimLine(line []byte) []byte {
	return bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(line), []byte("\ufeff")))
}

// chainReader reads a chain. encoding/pem would skip what it cannot read: a private key
// beside the certificate, or an intermediate that was cut off.
type chainReader struct {
	broken Violations
	chain  Chain
	seen   map[string]bool // the certificates in DER, also those that cannot be parsed
	place  int             // of the certificate before, counted without duplicates
	blocks int             // of certificates and PKCS#7
	pkcs7  bool
	line   int
	block  *pemBlock // that the line is in, or nil
}

// pemBlock is a block that has begun.
type pemBlock struct {
	label   string
	foreign bool // of a label that is not taken
	line    int  // of its BEGIN
	skip    bool // for a fault that was told
	base64  []byte
	lines   []bodyLine
}

// bodyLine is a line of a block.
type bodyLine struct{ number, end int } // end: of what it adds to the block's base64

// boundary is a BEGIN or END line.
type boundary struct {
	begin bool
	label string
}

// full reports whether there is nothing more to tell.
func (r *chainReader) full() bool { return len(r.broken) >= maxFaults || r.place > maxChain }

func (r *chainReader) report(v Violation) {
	if v.Field = CertificateChain; !r.full() {
		r.broken.Add(v)
	}
}

// reportLine reports a fault of the line, in the block that it is in.
func (r *chainReader) reportLine(rule Rule, where string) {
	v := Violation{Rule: rule, Cause: "line " + strconv.Itoa(r.line) + where}
	if b := r.block; b != nil {
		if b.foreign || b.skip {
			return
		}
		b.skip, v.Place, v.Value = true, r.place+1, b.subject()
	}
	r.report(v)
}

func (r *chainReader) readPEM(text []byte) {
	text = bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	for line := range bytes.Lines(text) {
		if r.full() {
			return
		}
		r.line++
		r.readLine(trimLine(line))
	}
	r.abandonBlock("no END line follows")
}

// readLine reads a line as boundaries and what is between them.
func (r *chainReader) readLine(line []byte) {
	boundaries, between := splitLine(line)
	switch {
	case len(boundaries) == 0 && looksLikeBoundary(line):
		r.readDamaged(line)
	case len(boundaries) == 0:
		r.readBody(line)
	case len(boundaries) == 1 && len(between) == 0:
		r.readBoundary(boundaries[0])
	default:
		r.readMixed(boundaries, between)
	}
}

// readMixed reads a line that has more than one boundary, or one and something else. The
// blocks that it has a part of are told once.
func (r *chainReader) readMixed(boundaries []boundary, between []byte) {
	rule := BrokenBoundary
	switch {
	case r.block != nil && onlyBase64(between), isBase64(bytes.ReplaceAll(between, []byte(" "), nil)):
		rule = LostLineEnds
	case len(between) == 0 && !boundaries[0].begin && boundaries[1].begin:
		rule = JoinedBlocks
	}
	if r.block == nil {
		r.readBoundary(boundaries[0])
		boundaries = boundaries[1:]
	}
	r.reportLine(rule, "")
	for _, b := range boundaries {
		r.readBoundary(b)
		if r.block != nil && rule != JoinedBlocks {
			r.block.skip = true
		}
	}
}

// splitLine returns the whole boundaries of a line, and the rest of it.
func splitLine(line []byte) (boundaries []boundary, between []byte) {
	const dashes = "-----"
	for {
		text, rest, found := bytes.Cut(line, []byte(dashes))
		if !found {
			return boundaries, append(between, line...)
		}
		label, after, closed := bytes.Cut(rest, []byte(dashes))
		begin, begins := bytes.CutPrefix(label, []byte("BEGIN "))
		end, ends := bytes.CutPrefix(label, []byte("END "))
		// "Copy from -----BEGIN to -----END" is no boundary.
		if closed && (begins || ends) && !bytes.HasSuffix(label, []byte(" ")) {
			if ends {
				begin = end
			}
			boundaries, between, line = append(boundaries, boundary{begins, string(begin)}), append(between, text...), after
			continue
		}
		between = append(append(between, text...), dashes...)
		line = rest
	}
}

// looksLikeBoundary recognises a boundary that lost hyphens, got others, or was quoted.
func looksLikeBoundary(line []byte) bool {
	if bytes.HasPrefix(line, []byte("-----BEGIN")) || bytes.HasPrefix(line, []byte("-----END")) {
		return true
	}
	words := strings.ToUpper(strings.Trim(string(line), "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212 >\"'*_,"))
	return words == "BEGIN CERTIFICATE" || words == "END CERTIFICATE"
}

// readDamaged takes a damaged boundary for what it was, so that only it is told.
func (r *chainReader) readDamaged(line []byte) {
	begin := !bytes.Contains(bytes.ToUpper(line), []byte("END"))
	if begin {
		r.readBoundary(boundary{begin, blockCertificate})
	}
	r.reportLine(BrokenBoundary, "")
	if !begin && r.block != nil {
		r.readBoundary(boundary{begin, r.block.label})
	}
}

func (r *chainReader) readBoundary(b boundary) {
	switch {
	case b.begin:
		r.abandonBlock(fmt.Sprintf("line %d begins another block", r.line))
		r.block = &pemBlock{label: b.label, line: r.line}
		if v := foreignBlock(b.label); v != nil {
			r.block.foreign = true
			v.Cause = fmt.Sprintf("line %d", r.line)
			r.report(*v)
		}
	case r.block == nil:
		r.reportLine(MissingBegin, "")
	default:
		if b.label != r.block.label {
			r.reportLine(BrokenBoundary, " ends a block of another type")
		}
		r.closeBlock()
	}
}

// foreignBlock says what a block of another type than a certificate's holds, or returns
// nil.
func foreignBlock(label string) *Violation {
	name := printable(label)
	switch {
	case label == blockCertificate, isPKCS7Label(label):
		return nil
	case strings.Contains(label, "PRIVATE KEY"):
		return &Violation{Rule: PrivateKey, Limit: name}
	case label == BlockRequest, label == "NEW "+BlockRequest:
		return &Violation{Rule: RequestBlock}
	case label == "TRUSTED CERTIFICATE":
		return &Violation{Rule: TrustedBlock}
	case strings.HasSuffix(label, "PUBLIC KEY"):
		return &Violation{Rule: ForeignBlock, Limit: "a public key (" + name + ")"}
	case strings.HasSuffix(label, "PARAMETERS"):
		return &Violation{Rule: ForeignBlock, Limit: "parameters of a key (" + name + ")"}
	case strings.HasSuffix(label, "CRL"):
		return &Violation{Rule: ForeignBlock, Limit: "a revocation list (" + name + ")"}
	}
	return &Violation{Rule: ForeignBlock, Limit: "another one (" + name + ")"}
}

// abandonBlock ends a block without its END line.
func (r *chainReader) abandonBlock(cause string) {
	if b := r.block; b != nil && !b.foreign && !b.skip {
		r.report(Violation{Rule: CutOff, Place: r.place + 1, Value: b.subject(), Cause: fmt.Sprintf("line %d begins it, %s", b.line, cause)})
		b.skip = true
	}
	r.closeBlock()
}

// readBody reads a line without a boundary.
func (r *chainReader) readBody(line []byte) {
	b := r.block
	if b == nil || b.skip || b.foreign || len(line) == 0 {
		return // text outside of blocks, or of a block that is refused
	}
	at := slices.IndexFunc(line, func(c byte) bool { return !isBase64Character(c) })
	switch {
	case at < 0:
		b.base64 = append(b.base64, line...)
		b.lines = append(b.lines, bodyLine{r.line, len(b.base64)})
		return
	case bytes.IndexByte(line, ':') >= 0:
		r.reportLine(HeaderLines, "")
	case line[at] == ' ':
		r.reportLine(BlankInBase64, "")
	case line[at] == '\\' && at+1 < len(line) && (line[at+1] == 'n' || line[at+1] == 'r'):
		r.reportLine(EscapedLineEnds, "")
	case line[at] == '%' && at+2 < len(line) && isHex(line[at+1]) && isHex(line[at+2]):
		r.reportLine(URLEncoded, "")
	default:
		r.reportLine(BrokenBase64, ", character "+strconv.Itoa(at+1))
	}
}

// closeBlock ends a block and reads what it holds.
func (r *chainReader) closeBlock() {
	b := r.block
	r.block = nil
	if b == nil || b.foreign {
		return
	}
	r.blocks++
	if b.skip {
		r.count()
		return
	}
	if len(b.base64) == 0 {
		r.reportBlock(Violation{Rule: EmptyBlock, Cause: "line " + strconv.Itoa(b.line)})
		return
	}
	der, err := base64.StdEncoding.Strict().AppendDecode(nil, b.base64)
	if at, is := errors.AsType[base64.CorruptInputError](err); is {
		r.reportBlock(Violation{Rule: BrokenBase64, Value: b.subject(), Cause: b.corrupt(int(at))})
		return
	}
	r.readDER(der, b.label)
}

// corrupt says where in the text the base64 of a block is wrong.
func (b *pemBlock) corrupt(at int) string {
	if len(b.base64)%4 != 0 {
		return "its length is no multiple of 4: characters are missing, or too many"
	}
	i, _ := slices.BinarySearchFunc(b.lines, at+1, func(l bodyLine, end int) int { return l.end - end })
	return "line " + strconv.Itoa(b.lines[min(i, len(b.lines)-1)].number)
}

// subject returns the subject of the certificate of which a block has the beginning, as
// far as that can be read.
func (b *pemBlock) subject() string {
	der, _ := base64.StdEncoding.AppendDecode(nil, b.base64[:len(b.base64)/4*4])
	return subjectOf(der)
}

// reportBlock reports a fault of the block that was closed, and counts the block.
func (r *chainReader) reportBlock(v Violation) {
	v.Place = r.place + 1
	r.report(v)
	r.count()
}

// count counts a certificate, or what stands in the place of one.
func (r *chainReader) count() {
	if r.place == maxChain {
		r.report(Violation{Rule: TooMany, Limit: strconv.Itoa(maxChain)})
	}
	r.place++
}

func isBase64Character(c byte) bool {
	return isLetter(c) || isDigit(c) || c == '+' || c == '/' || c == '='
}

func onlyBase64(text []byte) bool { return len(text) > 0 && all(string(text), isBase64Character) }

// isBase64 reports whether a text is base64 and not a word.
func isBase64(text []byte) bool { return len(text) >= 16 && onlyBase64(text) }

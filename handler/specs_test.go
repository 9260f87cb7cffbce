package handler_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"unicode/utf16"
)

// generated is a request for a CSR in the words of a dialect, and what has to
// come of it. Both are put together from the same pieces, so that the rules of
// the service are not asked what the rules are.
type generated struct {
	nsx  bool
	body string
	// refused are the dialect's names of fields that break a rule, in any order;
	// none: it is accepted and becomes want.
	refused []string
	// notJSON: what is said of a body that is no JSON. Its fields are judged only where all
	// of it can be read.
	notJSON string
	want    wantedCSR
}

// wantedCSR is what a certification request has to say.
type wantedCSR struct {
	subject []wantedAttribute
	names   []wantedName
	ca      bool
	curve   bool
	bits    int
}

type wantedAttribute struct{ key, value string }

// wantedName is a GeneralName: the tag of RFC 5280 section 4.2.1.6 and its content.
type wantedName struct {
	tag   int
	bytes string
}

const (
	mailTag = 1
	dnsTag  = 2
	uriTag  = 6
	ipTag   = 7
)

// generator makes specs, the same ones for the same seed.
type generator struct{ *rand.Rand }

func newGenerator(seed, n uint64) generator { return generator{rand.New(rand.NewPCG(seed, n))} }

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

// oneIn is true once in n times.
func (g generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func (g generator) spec() generated {
	if g.oneIn(2) {
		return g.nsxSpec()
	}
	return g.esxSpec()
}

// esxSpec is a create_spec.
func (g generator) esxSpec() generated {
	s := generated{want: wantedCSR{bits: 2048}}
	faults := g.faults()
	members := []string{g.esxKeySize(&s, faults), g.esxEmail(&s, faults), g.esxNames(&s, faults)}
	members = append(members, g.esxSubject(&s, faults)...)
	g.write(&s, members)
	return s
}

// unset is how an optional member is left out.
func (g generator) unset(name string) string { return pick(g, "", `"`+name+`":null`) }

func (g generator) esxKeySize(s *generated, faults *faults) string {
	if g.oneIn(2) {
		return g.unset("key_size")
	}
	s.want.bits = pick(g, 2048, 2048, 3072, 4096)
	size := fmt.Sprint(s.want.bits)
	if faults.here() {
		size = pick(g, "0", "-2048", "1024", "2049", "8192", "256", "4294969344")
		s.refuse("key_size")
	}
	return `"key_size":` + size
}

func (g generator) esxSubject(s *generated, faults *faults) (members []string) {
	for _, f := range []struct {
		name, key string
		bound     int
	}{{"country", "C", 0}, {"state_or_province", "ST", 128}, {"locality", "L", 128}, {"organization", "O", 64}, {"organization_unit", "OU", 64}, {"common_name", "CN", 64}} {
		optional := f.key == "CN"
		if optional && g.oneIn(3) {
			members = append(members, g.unset(f.name))
			s.want.subject = append(s.want.subject, wantedAttribute{"CN", "esx-01.example.com"})
			continue
		}
		if !optional && g.oneIn(6) {
			members = append(members, quoteJSON(g, f.name)+`:""`) // leaves the attribute out
			continue
		}
		value, upper := g.attribute(f.bound)
		if faults.here() {
			if value = g.badAttribute(f.bound); value == "" && !optional {
				value = "\x00"
			}
			s.refuse(f.name)
		}
		members = append(members, quoteJSON(g, f.name)+":"+quoteJSON(g, value))
		s.want.subject = append(s.want.subject, wantedAttribute{f.key, upper})
	}
	return members
}

func (g generator) esxEmail(s *generated, faults *faults) string {
	email := ""
	if !g.oneIn(4) {
		email = g.mailbox()
		if faults.here() {
			email = g.badMailbox()
			s.refuse("email_address")
		}
		s.name(wantedName{mailTag, email})
	}
	return `"email_address":` + quoteJSON(g, email)
}

func (g generator) esxNames(s *generated, faults *faults) string {
	if g.oneIn(4) {
		return g.unset("subject_alt_name")
	}
	var items []string
	for range g.count(100) {
		text, name := g.altName()
		items = append(items, quoteJSON(g, text))
		s.name(name)
	}
	if faults.here() {
		items = pick(g, manyNames(101), append(items, quoteJSON(g, g.badAltName())))
		s.refuse("subject_alt_name")
	}
	return `"subject_alt_name":[` + strings.Join(items, ",") + "]"
}

// write makes the body of the members that are not empty, in any order.
func (g generator) write(s *generated, members []string) {
	members = slices.DeleteFunc(members, func(m string) bool { return m == "" })
	g.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	s.body = "{" + strings.Join(members, ",") + "}"
	g.breakText(s)
}

// nsxSpec is a TlsCsr.
func (g generator) nsxSpec() generated {
	s := generated{nsx: true, want: wantedCSR{bits: 2048, ca: g.oneIn(3), curve: g.oneIn(2)}}
	faults := g.faults()
	members := []string{`"is_ca":` + fmt.Sprint(s.want.ca)}
	size := pick(g, 2048, 3072, 4096)
	switch {
	case s.want.curve:
		members = append(members, `"algorithm":"EC"`)
		size = pick(g, 256, 384, 521)
		s.want.bits = 256
	case g.oneIn(2):
		members = append(members, `"algorithm":"RSA"`)
	default:
		members = append(members, g.unset("algorithm"))
	}
	if !g.oneIn(4) {
		s.want.bits = size
		text := fmt.Sprint(size)
		if faults.here() {
			text = pick(g, "0", "-256", "255", "512", "1024", "8192")
			s.refuse("key_size")
		}
		if g.oneIn(2) {
			text = `"` + text + `"`
		}
		members = append(members, `"key_size":`+text)
	} else {
		members = append(members, g.unset("key_size"))
	}
	members = append(members, `"subject":{"attributes":[`+g.nsxSubject(&s, faults)+`]}`)
	if names := g.nsxNames(&s, faults); names != "" {
		members = append(members, `"extensions":{"subject_alt_names":{`+names+`}}`)
	} else {
		members = append(members, g.unset("extensions"))
	}
	for _, name := range []string{"tags", "display_name", "description", "_revision"} {
		members = append(members, g.unset(name))
	}
	g.write(&s, members)
	return s
}

func (g generator) nsxSubject(s *generated, faults *faults) string {
	keys := []string{"CN"}
	for range g.IntN(10) {
		keys = append(keys, pick(g, "CN", "O", "OU", "OU", "C", "ST", "L"))
	}
	g.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	var items []string
	for _, key := range keys {
		bound := map[string]int{"CN": 64, "O": 64, "OU": 64, "C": 0, "ST": 128, "L": 128}[key]
		value, upper := g.attribute(bound)
		if faults.here() {
			value = g.badAttribute(bound)
			s.refuse("subject.attributes " + key)
		}
		items = append(items, fmt.Sprintf(`{"key":%q,"value":%s}`, key, quoteJSON(g, value)))
		s.want.subject = append(s.want.subject, wantedAttribute{key, upper})
	}
	return strings.Join(items, ",")
}

func (g generator) nsxNames(s *generated, faults *faults) string {
	var lists []string
	for _, list := range []struct {
		name string
		most int
		good func() (string, wantedName)
		bad  func() string
		of   func(int) []string
	}{
		{"dns_names", 128, g.dnsAltName, func() string {
			return pick(g, g.badDNSName(), "192.0.2.1", "ops@example.com", "https://example.com/", "")
		}, manyNames},
		{"ip_addresses", 64, g.address, func() string {
			return pick(g, "192.0.2.256", "192.0.2.0/24", "fe80::1%eth0", "example.com", "", " 192.0.2.1", "[::1]", "::g")
		}, manyAddresses},
	} {
		if g.oneIn(3) {
			continue
		}
		var items []string
		for range max(1, g.count(list.most)) {
			text, name := list.good()
			items = append(items, quoteJSON(g, text))
			s.name(name)
		}
		if faults.here() {
			items = append(items[:min(len(items), list.most-1)], quoteJSON(g, list.bad()))
			s.refuse("extensions.subject_alt_names")
		} else if faults.here() {
			items = list.of(pick(g, 0, list.most+1))
			s.refuse("extensions.subject_alt_names." + list.name)
		}
		lists = append(lists, fmt.Sprintf(`%q:[%s]`, list.name, strings.Join(items, ",")))
	}
	return strings.Join(lists, ",")
}

// breakText makes bytes of some bodies what JSON may not hold.
func (g generator) breakText(s *generated) {
	if !g.oneIn(25) {
		return
	}
	at := strings.LastIndexByte(s.body, '"') // the end of a name or a value
	const notUTF8, surrogate, malformed = "is not UTF-8 at byte", "has half of a surrogate pair at byte", "malformed at byte"
	broken := pick(g, [2]string{"\xff", notUTF8}, [2]string{"\xed\xa0\x80", notUTF8}, [2]string{"\xc0\x80", notUTF8},
		[2]string{`\ud800`, surrogate}, [2]string{`\udc00\ud800`, surrogate}, [2]string{"\x01", malformed}, [2]string{`\x41`, malformed})
	s.body = s.body[:at] + broken[0] + s.body[at:]
	s.notJSON = broken[1]
}

func (s *generated) refuse(field string) { s.refused = append(s.refused, field) }

// name adds a name unless it is there, whatever its case.
func (s *generated) name(n wantedName) {
	for _, have := range s.want.names {
		if have.tag == n.tag && (have.bytes == n.bytes || n.tag != ipTag && strings.EqualFold(have.bytes, n.bytes)) {
			return
		}
	}
	s.want.names = append(s.want.names, n)
}

// faults decides where a spec breaks a rule: every other one breaks none.
type faults struct {
	g    generator
	rate int
}

func (g generator) faults() *faults {
	if g.oneIn(2) {
		return &faults{g, 2 + g.IntN(8)}
	}
	return &faults{g, 0}
}

func (f *faults) here() bool { return f.rate > 0 && f.g.oneIn(f.rate) }

// count is a length of a list: mostly short, sometimes all it may be.
func (g generator) count(most int) int {
	if g.oneIn(12) {
		return most
	}
	return g.IntN(6)
}

func manyNames(n int) []string     { return many(n, `"h%d.example.com"`) }
func manyAddresses(n int) []string { return many(n, `"2001:db8::%x"`) }

func many(n int, format string) []string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(format, i+1)
	}
	return items
}

// quoteJSON writes a string in one of the ways that JSON has.
func quoteJSON(g generator, s string) string {
	escapes := pick(g, 0, 0, 3, 1)
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r < ' ' || r == 0x7f || escapes > 0 && g.oneIn(escapes):
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, pick(g, `\u%04x`, `\u%04X`), unit)
			}
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// call asks for the CSR; in NSX under an id that is new.
func (s generated) call(id string) call {
	c := call{method: http.MethodPost, path: csrPath, body: s.body, raw: true, header: map[string]string{"Content-Type": asJSON}}
	if s.nsx {
		c.path = nsxPath(id, "action=create")
	}
	return c
}

// pem is the CSR in the answer to an accepted spec, or the certificate.
func (s generated) pem(a answer) (string, error) {
	var members struct {
		CSR        string `json:"csr"`
		PEMEncoded string `json:"pem_encoded"`
	}
	if err := json.Unmarshal(a.body, &members); err != nil {
		return "", fmt.Errorf("%w: %d %s", err, a.status, a.body)
	}
	if s.nsx {
		return members.PEMEncoded, nil
	}
	return members.CSR, nil
}

package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// grants is auth.privileges: lists of privileges by user.
type grants struct{ field *map[string][]string }

func (g grants) assign(d document, s setting, e entry) {
	table := map[string][]string{}
	*g.field = table
	d.config.origins[s.key] = e.origin
	for _, user := range d.entries(s.key+".", e.value, e.origin) {
		key := printableKey(s.key + "." + user.key)
		if err := userName(user.key); err != nil {
			d.problem(user.origin, s.key, "%w", err)
			continue
		}
		table[user.key] = []string{}
		for _, node := range d.elements(key, "privileges", user) {
			it, ok := d.scalar(key, "the name of a privilege", node, aString)
			if !ok {
				continue
			}
			if err := d.grantable(table[user.key], it.text); err != nil {
				d.problem(it.origin, key, "%w", err)
				continue
			}
			table[user.key] = append(table[user.key], it.text)
		}
	}
}

func (g grants) entries() []string {
	var lines []string
	for _, user := range slices.Sorted(maps.Keys(*g.field)) {
		lines = append(lines, fmt.Sprintf("%s: [%s]", strconv.Quote(user), strings.Join(quoted((*g.field)[user]), ", ")))
	}
	return lines
}

// targets is key_pool.targets: numbers of keys by size in bits.
type targets struct{ field *map[int]int }

func (t targets) assign(d document, s setting, e entry) {
	table := map[int]int{}
	*t.field = table
	d.config.origins[s.key] = e.origin
	for _, size := range d.entries(s.key+".", e.value, e.origin) {
		key := printableKey(s.key + "." + size.key)
		bits, err := keySize(size.key)
		if err != nil {
			d.problem(size.origin, s.key, "%w", err)
			continue
		}
		it, ok := d.scalar(key, "keys", size.value, aNumber)
		if !ok {
			continue
		}
		keys := 0
		if err := (&number{&keys, 1, maxPool}).add(it.text); err != nil {
			d.problem(it.origin, key, "%w", err)
			continue
		}
		table[bits] = keys
	}
}

func (t targets) entries() []string {
	var lines []string
	for _, bits := range slices.Sorted(maps.Keys(*t.field)) {
		lines = append(lines, fmt.Sprintf("%d: %d", bits, (*t.field)[bits]))
	}
	return lines
}

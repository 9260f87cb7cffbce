package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const (
	envPrefix  = "ATTESTCSR_"
	configEnv  = envPrefix + "CONFIG"
	configFlag = "config"

	maxProblems = 50 // shown at once; a file can hold thousands
)

// loader lays one source over another and collects what is wrong with them.
type loader struct {
	config     *Config
	settings   []setting
	privileges []string
	problems   []error
	wrong      map[string]bool // keys with a problem of their own
	warnings   []string
}

// item is one value, or one element of a list, and where it stands.
type item struct{ text, origin string }

// apply replaces the value of a setting by the items of a stronger source.
func (l *loader) apply(s setting, origin string, items []item) {
	s.value.reset()
	for _, it := range items {
		if err := s.value.add(it.text); err != nil {
			l.problem(it.origin, s.key, "%w", err)
		}
	}
	l.config.origins[s.key] = origin
}

func (l *loader) environment(env map[string]string) {
	unknown := maps.Clone(env)
	delete(unknown, configEnv)
	for _, s := range l.settings {
		value, ok := env[s.env()]
		if !ok {
			continue
		}
		delete(unknown, s.env())
		if s.value == nil {
			l.warn("environment variable %s is ignored: %s is %s, which only the file can hold", s.env(), s.key, s.wants)
			continue
		}
		l.apply(s, "environment variable "+s.env(), s.split(value, "environment variable "+s.env()))
	}
	// One line for all: beside a Service named attestcsr, Kubernetes injects a
	// handful of them into every pod.
	if len(unknown) > 0 {
		l.warn("environment variables that are no settings are ignored: %.1000s", strings.Join(slices.Sorted(maps.Keys(unknown)), ", "))
	}
}

// environment picks this program's variables out of env. Names with characters
// that would garble a message are nobody's settings and are left out.
func environment(env []string) map[string]string {
	ours := map[string]string{}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, envPrefix) && printable(name) == nil {
			ours[name] = value
		}
	}
	return ours
}

func (l *loader) flags(flags *pflag.FlagSet) {
	if flags == nil {
		return
	}
	for _, s := range l.settings {
		if f := flags.Lookup(s.flag()); s.value != nil && f != nil && f.Changed {
			l.apply(s, "flag --"+f.Name, s.split(f.Value.String(), "flag --"+f.Name))
		}
	}
}

func flagText(flags *pflag.FlagSet, name string) string {
	if flags == nil {
		return ""
	}
	if f := flags.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// hostname replaces an empty host name by the system's.
func (l *loader) hostname(system func() (string, error)) {
	const key, origin = "hostname", "system's host name"
	c := l.config
	if c.Hostname != "" || l.wrong[key] {
		return
	}
	name, err := system()
	if err == nil {
		err = hostname(name)
	}
	if err != nil {
		l.problem(origin, key, "%w; set hostname", err)
		return
	}
	c.Hostname, c.origins[key] = name, origin
}

func (l *loader) problem(origin, key, format string, args ...any) {
	l.wrong[key] = true
	l.problems = append(l.problems, fmt.Errorf("%s: %s: %w", origin, key, fmt.Errorf(format, args...)))
}

func (l *loader) warn(format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf(format, args...))
}

// right reports whether none of the keys has a problem of its own, so that a
// rule between them does not add a confusing second one.
func (l *loader) right(keys ...string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { return l.wrong[key] })
}

func (l *loader) err() error {
	if more := len(l.problems) - maxProblems; more > 0 {
		return errors.Join(append(l.problems[:maxProblems:maxProblems], fmt.Errorf("and %d more problems", more))...)
	}
	return errors.Join(l.problems...)
}

package config

import (
	"cmp"
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
)

// Source is where settings are looked for.
type Source struct {
	Env   []string       // "NAME=value", as os.Environ gives it
	Flags *pflag.FlagSet // parsed, with the flags of AddFlags
	// Others are variables that commands read and that are no settings.
	Others []string
	// Privileges are the names that auth.privileges may use.
	Privileges []string
	// SystemHostname returns the name that replaces an empty hostname.
	SystemHostname func() (string, error)
}

// Load reads all sources. The file is the one that --config or else
// ATTESTCSR_CONFIG names, if any. Files that the settings name are not touched;
// CheckSettings of package server does that.
//
// The error joins the problems found, one line each: where the value stands
// (file:line:column, variable or flag), the setting, what is wrong and what is
// allowed. A wrong value is a problem also where a stronger source overrides it.
// Rules between settings are checked once every value by itself is right. Values
// of keys and variables that are no settings are never quoted: such a value may be
// a secret in the wrong place.
//
// Warnings are sentences for the operator; they stop nothing.
func Load(src Source) (c *Config, warnings []string, err error) {
	c = defaults()
	l := &loader{config: c, settings: c.settings(src.Privileges...)}
	for _, s := range l.settings {
		c.origins[s.key] = "default"
	}
	env := ourVariables(src.Env)
	if name := cmp.Or(src.Flags.Lookup(configFlag).Value.String(), env[configEnv]); name != "" {
		l.file(name)
	}
	for _, name := range src.Others {
		delete(env, name)
	}
	l.environment(env)
	l.flags(src.Flags)
	if len(l.problems) == 0 {
		l.systemHostname(src.SystemHostname)
		l.rules()
	}
	if len(l.problems) > 0 {
		return nil, nil, errors.Join(l.problems...)
	}
	return c, l.warnings, nil
}

// loader applies one source after the other and collects what is wrong.
type loader struct {
	config   *Config
	settings []setting
	problems []error
	warnings []string
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
		if v, ok := s.value.(*textValue); ok {
			l.text(s.key, v, value, "environment variable "+s.env())
		} else {
			l.warn("environment variable %s is ignored: %s is %s, which only the file can hold", s.env(), s.key, s.wants)
		}
	}
	// One line for all: beside a Service named attestcsr, Kubernetes sets a
	// handful of them in every pod.
	if len(unknown) > 0 {
		l.warn("environment variables that are no settings are ignored: %.1000s", strings.Join(slices.Sorted(maps.Keys(unknown)), ", "))
	}
}

// ourVariables picks this program's variables out of env. Names that are not
// printable are nobody's settings and would garble a message; they are left out.
func ourVariables(env []string) map[string]string {
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
	for _, s := range l.settings {
		if v, ok := s.value.(*textValue); ok && flags.Changed(s.flag()) {
			l.text(s.key, v, flags.Lookup(s.flag()).Value.String(), "flag --"+s.flag())
		}
	}
}

// text applies the text of a variable or a flag.
func (l *loader) text(key string, v *textValue, text, origin string) {
	l.config.origins[key] = origin
	if err := v.fromText(text); err != nil {
		l.problem(key, "%w", err)
	}
}

// systemHostname replaces an empty host name by the system's.
func (l *loader) systemHostname(system func() (string, error)) {
	if l.config.Hostname != "" {
		return
	}
	name, err := system()
	if err == nil {
		err = hostname(name)
	}
	l.config.Hostname, l.config.origins["hostname"] = name, "system's host name"
	if err != nil {
		l.problem("hostname", "%w; set hostname", err)
	}
}

// problem records what is wrong with a setting, in the source that it was last
// read from.
func (l *loader) problem(key, format string, args ...any) {
	l.problems = append(l.problems, l.config.Problem(key, fmt.Errorf(format, args...)))
}

func (l *loader) problemAt(origin, key, format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf("%s: %s: %w", origin, key, fmt.Errorf(format, args...)))
}

func (l *loader) warn(format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf(format, args...))
}

// AddFlags adds --config and a flag for each setting that is not a mapping. Their
// help shows the default and the environment variable. The flags hold text: Load
// judges it, together with the other sources.
func AddFlags(flags *pflag.FlagSet) {
	flags.Var(&flagValue{kind: "file"}, configFlag, "settings file (YAML) [$"+configEnv+"]")
	for _, s := range defaults().settings() {
		if v, ok := s.value.(*textValue); ok {
			flags.Var(&flagValue{kind: s.wants, text: v.text(), list: v.isList()}, s.flag(), s.usage+" [$"+s.env()+"]")
		}
	}
}

// flagValue is a pflag.Value that keeps the text. A list given twice is one list.
type flagValue struct {
	kind, text string
	list, set  bool
}

func (v *flagValue) Type() string   { return v.kind }
func (v *flagValue) String() string { return v.text }

func (v *flagValue) Set(s string) error {
	if v.list && v.set {
		s = v.text + "," + s
	}
	v.text, v.set = s, true
	return nil
}

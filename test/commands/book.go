package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"attestcsr/command"
	"attestcsr/config"
)

// book is what there is to say about the commands. Flags that many commands share are
// said once.
type book struct {
	commands   []chapter // each before its subcommands
	settings   []flag
	connection []flag
	statuses   []command.ExitStatus
	date       string // of the man pages, as 2026-11-29
}

// chapter is one command.
type chapter struct {
	path        string // with the names of the commands above it
	usage       string
	short, long string
	example     string
	flags       []flag   // without the shared ones
	settings    bool     // it takes those flags
	connection  bool     // and it takes these
	children    []string // paths
}

// flag is a flag of a command, or a setting.
type flag struct {
	name, value  string // value is what a value looks like; "" for a flag without one
	usage        string
	absent       string // what counts without the flag
	environment  string // the variable that stands for the flag
	abbreviation string
}

func newBook() book {
	settings := pflag.NewFlagSet("settings", pflag.ContinueOnError)
	config.AddFlags(settings)
	root := command.Tree()
	connection := connectionOf(root)
	b := book{settings: flagsOf(settings, nil), connection: flagsOf(connection, nil), statuses: command.ExitStatuses()}
	b.add(root, settings, connection)
	return b
}

// connectionOf returns the flags that all commands share that have a flag --context.
func connectionOf(root *cobra.Command) *pflag.FlagSet {
	shared := pflag.NewFlagSet("connection", pflag.ContinueOnError)
	var clients []*pflag.FlagSet
	var look func(*cobra.Command)
	look = func(cmd *cobra.Command) {
		if cmd.Flags().Lookup("context") != nil {
			clients = append(clients, cmd.Flags())
		}
		for _, child := range cmd.Commands() {
			look(child)
		}
	}
	look(root)
	if len(clients) == 0 {
		return shared
	}
	clients[0].VisitAll(func(f *pflag.Flag) {
		if !slices.ContainsFunc(clients, func(other *pflag.FlagSet) bool { return other.Lookup(f.Name) == nil }) {
			shared.AddFlag(f)
		}
	})
	return shared
}

func (b *book) add(cmd *cobra.Command, settings, connection *pflag.FlagSet) {
	c := chapter{
		path: cmd.CommandPath(), usage: usageOf(cmd), short: cmd.Short, long: strings.TrimSpace(cmd.Long), example: dedent(cmd.Example),
		settings: hasAll(cmd.Flags(), settings), connection: hasAll(cmd.Flags(), connection),
	}
	c.flags = flagsOf(cmd.Flags(), func(f *pflag.Flag) bool {
		return c.settings && settings.Lookup(f.Name) != nil || c.connection && connection.Lookup(f.Name) != nil
	})
	children := slices.DeleteFunc(slices.Clone(cmd.Commands()), func(child *cobra.Command) bool { return child.Hidden })
	for _, child := range children {
		c.children = append(c.children, child.CommandPath())
	}
	b.commands = append(b.commands, c)
	for _, child := range children {
		b.add(child, settings, connection)
	}
}

func usageOf(cmd *cobra.Command) string {
	if cmd.HasSubCommands() {
		return cmd.CommandPath() + " COMMAND"
	}
	return cmd.UseLine()
}

// hasAll reports whether a command has every one of the flags.
func hasAll(have, all *pflag.FlagSet) bool {
	whole := all.HasFlags()
	all.VisitAll(func(f *pflag.Flag) { whole = whole && have.Lookup(f.Name) != nil })
	return whole
}

// environmentIn finds the variable that the usage of a flag ends with.
var environmentIn = regexp.MustCompile(` \[\$([A-Z_]+)\]$`)

func flagsOf(set *pflag.FlagSet, without func(*pflag.Flag) bool) (flags []flag) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || without != nil && without(f) {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		one := flag{name: f.Name, value: value, usage: usage, abbreviation: f.Shorthand}
		if found := environmentIn.FindStringSubmatch(usage); found != nil {
			one.environment, one.usage = found[1], strings.TrimSuffix(usage, found[0])
		}
		if f.DefValue != "false" && f.DefValue != "[]" {
			one.absent = f.DefValue
		}
		flags = append(flags, one)
	})
	return flags
}

// dedent takes away the two spaces that examples begin with in the help of a command.
func dedent(text string) string {
	var lines []string
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		lines = append(lines, strings.TrimPrefix(line, "  "))
	}
	return strings.Join(lines, "")
}

// paragraph is a part of a long text: prose, or lines that stay as they are.
type paragraph struct {
	text     string
	verbatim bool
}

// paragraphs splits a long text. Lines that begin with two spaces stay as they are.
func paragraphs(long string) (all []paragraph) {
	for line := range strings.Lines(long) {
		line = strings.TrimRight(line, "\n")
		verbatim := strings.HasPrefix(line, "  ")
		switch last := len(all) - 1; {
		case line == "":
			all = append(all, paragraph{})
		case last >= 0 && all[last].text != "" && all[last].verbatim == verbatim:
			all[last].text += "\n" + line
		default:
			all = append(all, paragraph{line, verbatim})
		}
	}
	return slices.DeleteFunc(all, func(p paragraph) bool { return p.text == "" })
}

// manName is the name of the man page of a command.
func (c chapter) manName() string { return strings.ReplaceAll(c.path, " ", "-") }

// highest is the last exit status that a command ends with. Those behind 2 are of
// commands that ask a server.
func (b book) highest(c chapter) int {
	if c.connection {
		return len(b.statuses) - 1
	}
	return 2
}

func (b book) statusesOf(c chapter) string {
	last := b.highest(c)
	var all strings.Builder
	for i, s := range b.statuses[:last+1] {
		switch {
		case i == last:
			all.WriteString(" or ")
		case i > 0:
			all.WriteString(", ")
		}
		all.WriteString(strconv.Itoa(s.Status))
	}
	return all.String()
}

// String is the flag as it is given.
func (f flag) String() string {
	text := "--" + f.name
	if f.abbreviation != "" {
		text = "-" + f.abbreviation + ", " + text
	}
	if f.value != "" {
		text += " " + f.value
	}
	return text
}

package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// completionCommand stands in for cobra's own, which ends with 0 where the shell is
// unknown.
func (p process) completionCommand() *cobra.Command {
	shells := []struct {
		name, long, example string
		write               func(*cobra.Command, io.Writer) error
	}{
		{
			"bash", "Needs the package bash-completion. New shells complete once the file is there.",
			"  mkdir -p ~/.local/share/bash-completion/completions\n" +
				"  attestcsr completion bash > ~/.local/share/bash-completion/completions/attestcsr",
			func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		},
		{
			"zsh", "Needs \"autoload -U compinit; compinit\" in ~/.zshrc, behind any change of fpath. New shells\ncomplete once the file is in a folder of fpath.",
			"  attestcsr completion zsh > \"${fpath[1]}/_attestcsr\"",
			(*cobra.Command).GenZshCompletion,
		},
		{
			"fish", "New shells complete once the file is there.",
			"  mkdir -p ~/.config/fish/completions\n" +
				"  attestcsr completion fish > ~/.config/fish/completions/attestcsr.fish",
			func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) },
		},
		{
			"powershell", "Add the line of the example to the file that $PROFILE names.",
			"  attestcsr completion powershell | Out-String | Invoke-Expression",
			(*cobra.Command).GenPowerShellCompletionWithDesc,
		},
	}
	var commands []*cobra.Command
	for _, shell := range shells {
		commands = append(commands, &cobra.Command{
			Use:     shell.name,
			Short:   fmt.Sprintf("Print the completion script for %s", shell.name),
			Long:    "Prints a script with which the shell completes commands, flags and values.\n" + shell.long,
			Example: shell.example,
			Args:    usageArgs(cobra.NoArgs),
			RunE:    func(cmd *cobra.Command, _ []string) error { return shell.write(cmd.Root(), p.stdout) },
		})
	}
	return group("completion", "Make a shell complete commands, flags and values", commands...)
}

// completeValues tells shells which values the flags of a command and of its subcommands
// have, and that arguments that are no files are none.
func completeValues(cmd *cobra.Command) {
	for _, child := range cmd.Commands() {
		completeValues(child)
	}
	if !strings.Contains(cmd.Use, "FILE") && !strings.Contains(cmd.Use, "DIRECTORY") {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	for name, values := range map[string][]string{
		"output": {"text", "json", "pem"}, "dialect": dialectNames(),
		"hash": {"sha256", "sha384", "sha512"}, "scheme": {schemePSS, schemePKCS1}, "algorithm": {"RSA", "EC"},
		"sort-by": {"id", "display_name", "_create_time", "_last_modified_time"},
	} {
		f := cmd.Flags().Lookup(name)
		if f == nil {
			continue
		}
		if name == "output" && !strings.Contains(f.Usage, "pem") {
			values = values[:2]
		}
		// It fails where there is no such flag.
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

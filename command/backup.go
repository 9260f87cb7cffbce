package command

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"attestcsr/config"
	"attestcsr/server"
	"attestcsr/server/backup"
)

func (p process) backupCommand() *cobra.Command {
	return group("backup", "Make, check and restore backups", p.createBackupCommand(), p.verifyBackupCommand(), p.restoreCommand())
}

func (p process) createBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create (--to FILE | --to-dir DIR) (--recipient age1... | --passphrase-file FILE)",
		Short: "Write an encrypted backup, while the service runs or not",
		Long: "Writes one file, which this command and the age command open: the store and its audit\n" +
			"trail at one moment, the sealing keyset, users, privileges, and the server's own\n" +
			"certificate. Files elsewhere that settings name are not in it: the command lists them.\n\n" +
			"--to-dir is for timers: the name has the time, and of the backups of this hostname in\n" +
			"the folder the newest --keep stay, once the new one is whole.\n\n" +
			"age-keygen makes a recipient. Keep its identity on another machine: it opens every\n" +
			"backup, and the backup has every private key.",
		Args: usageArgs(cobra.NoArgs),
	}
	var to backup.Destination
	cmd.Flags().StringVar(&to.File, "to", "", "write this file; an older backup of that name is replaced")
	cmd.Flags().StringVar(&to.Dir, "to-dir", "", "write a new file, named by the time, into this folder")
	cmd.Flags().IntVar(&to.Keep, "keep", 14, "how many backups stay in the folder of --to-dir")
	cmd.Flags().StringArrayVar(&to.Recipients, "recipient", nil, "public key of age that the backup is encrypted for; may be repeated")
	cmd.Flags().StringVar(&to.PassphraseFile, "passphrase-file", "", "file with the passphrase in one line, of 16 characters at least")
	withoutKeyset := cmd.Flags().Bool("without-keyset", false, "leave out the sealing keyset and the key of the server's own certificate: without the keyset the backup gives no private key")
	return p.withSettings(cmd, func(ctx context.Context, cfg *config.Config, _ []string) error {
		switch {
		case (to.File == "") == (to.Dir == ""):
			return usage(cmd, errors.New("one of --to and --to-dir is needed"))
		case (len(to.Recipients) == 0) == (to.PassphraseFile == ""):
			return usage(cmd, errors.New("one of --recipient and --passphrase-file is needed: a backup is always encrypted"))
		case to.Keep < 1:
			return usage(cmd, errors.New("--keep is 1 or more"))
		}
		saved, report, err := server.CreateBackup(ctx, cfg, p.log(), to, *withoutKeyset)
		if err != nil {
			return err
		}
		if err := p.printText(saved.File); err != nil {
			return err
		}
		return showBackup(p.stderr, saved, report)
	})
}

// openerFlags are the flags of commands that open a backup.
func openerFlags(flags *pflag.FlagSet) (with *backup.Opener, keyset *string) {
	with = &backup.Opener{}
	flags.StringVar(&with.IdentityFile, "identity", "", "file with the identity of age that opens the backup, as age-keygen writes it")
	flags.StringVar(&with.PassphraseFile, "passphrase-file", "", "file with the passphrase that opens the backup")
	return with, flags.String("keyset", "", "file with the sealing keyset of a backup without one")
}

func oneOpener(cmd *cobra.Command, with *backup.Opener) error {
	if (with.IdentityFile == "") == (with.PassphraseFile == "") {
		return usage(cmd, errors.New("one of --identity and --passphrase-file is needed"))
	}
	return nil
}

func (p process) verifyBackupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE (--identity FILE | --passphrase-file FILE)",
		Short: "Say whether a backup is whole: exit status 0 or 1",
		Long: "Opens the backup and checks the digest of each file, every record and whether its key is\n" +
			"that of its CSR or certificate, and whether the audit trail explains what is there. It\n" +
			"needs no service and no settings, and writes only files without a name, into TMPDIR.",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	with, keyset := openerFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := oneOpener(cmd, with); err != nil {
			return err
		}
		found, err := server.VerifyBackup(cmd.Context(), p.log(), args[0], *with, *keyset)
		if err != nil {
			return err
		}
		err = showBackupCheck(p.stdout, found)
		if err == nil && !found.OK {
			err = errors.New("the backup is as it was made, and what it holds is not whole: keep it, and use an older one")
		}
		return err
	}
	return cmd
}

func (p process) restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore FILE --data-dir NEW (--identity FILE | --passphrase-file FILE)",
		Short: "Make a new data directory from a backup",
		Long: "Writes the files of the backup into a folder that is empty or not there. The store goes\n" +
			"on above all revisions that the lost one can have given out, and the audit trail has a\n" +
			"line of the restore. A folder whose restore was killed is refused by every start.\n\n" +
			"As root, the files belong to whom the folder belongs to, or to --owner.",
		Args: usageArgs(cobra.ExactArgs(1)),
	}
	with, keyset := openerFlags(cmd.Flags())
	owner := cmd.Flags().String("owner", "", "user, or user:group, that the files are to belong to")
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := oneOpener(cmd, with); err != nil {
			return err
		}
		from := server.RestoreFrom{File: args[0], With: *with, KeysetFile: *keyset, Owner: *owner}
		// The files that settings name may not be there yet: nothing is checked.
		cfg, warnings, err := config.Load(config.Source{Env: p.env, Others: otherVariables(), Flags: cmd.Flags(), Privileges: server.PrivilegeNames(), SystemHostname: os.Hostname})
		warn(p.stderr, warnings)
		if err != nil {
			return err
		}
		done, err := server.RestoreBackup(cmd.Context(), cfg, p.log(), from)
		if err != nil {
			return err
		}
		if err := showRestored(p.stderr, cfg, done); err != nil {
			return err
		}
		for _, s := range done.Trail {
			if len(s.Problems) == 0 {
				continue
			}
			if _, err := fmt.Fprint(p.stderr, s); err != nil {
				return err
			}
			err = errTrail
		}
		return err
	}
	return cmd
}

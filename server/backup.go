package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/keystore"
	"attestcsr/keystore/bolt"
	"attestcsr/keystore/ownfile"
	"attestcsr/keystore/sealed"
	"attestcsr/server/backup"
	"attestcsr/server/control"
)

const (
	// backupAnchor is the name of the anchor that has the time of the last backup.
	backupAnchor = "backup"
	// restoreJump is how much higher the revisions of a restored store are than those of
	// the backup: the lost store has given out others since, and less than these.
	restoreJump = 1 << 32
)

// layout says what of data_dir is in a backup. The initial password is not: whoever needs
// it makes another.
func layout() backup.Layout {
	return backup.Layout{
		Store: StoreFile, Keyset: KeysetFile, Trail: AuditDir, IsTrail: audit.IsFile,
		Small: []string{AdminHashFile, UsersFile, PrivilegesFile, OwnCertFile, OwnKeyFile, NetworksFile, SettingsFile},
	}
}

// backup writes a backup of what the store holds now. What it copies of the store is in a
// file without a name in data_dir before the first byte is written: a slow reader keeps
// no pages of the store from use. Nobody changes the keyset meanwhile.
func (s *Server) backup(ctx context.Context, who audit.Request, ask control.BackupRequest, to io.Writer) (report control.BackupReport, err error) {
	recipients, err := backup.Recipients(ask.Recipients)
	if err != nil {
		return report, err
	}
	release, err := s.sealing.take(ctx, "a backup is being made")
	if err != nil {
		return report, err
	}
	defer release()
	if err := s.takeUpKeyset(ctx, who); err != nil { // so that the file is what is in use
		return report, err
	}
	if err := s.record(ctx, who, audit.Event{Operation: "backup.create", Reason: reasonOf(ask)}); err != nil {
		return report, err
	}
	g := &gathering{manifest: backup.Manifest{Created: time.Now().UTC().Truncate(time.Second), Hostname: s.cfg.Hostname, Keyset: s.keysetState().Primary}}
	defer func() { err = errors.Join(err, g.close()) }()
	if err := s.gather(ctx, ask.WithoutKeyset, g); err != nil {
		return report, err
	}
	m, err := backup.Write(to, recipients, g.manifest, g.files)
	if err != nil {
		return report, err
	}
	if err := s.store.Trim(ctx, 0, map[string][]byte{backupAnchor: []byte(m.Created.Format(time.RFC3339))}); err != nil {
		s.log.Warn("the time of this backup cannot be kept", "err", err)
	}
	return control.BackupReport{Created: m.Created, Revision: m.Revision, Files: len(m.Files), Keyset: m.Keyset, Without: m.Without}, nil
}

// reasonOf says in the trail whom a backup is for.
func reasonOf(ask control.BackupRequest) string {
	whom := "a passphrase"
	if !ask.Passphrase {
		sum := sha256.Sum256([]byte(strings.Join(ask.Recipients, "\n")))
		whom = fmt.Sprintf("%d recipients, sha256:%s", len(ask.Recipients), hex.EncodeToString(sum[:]))
	}
	if ask.WithoutKeyset {
		whom += "; without the keyset"
	}
	return "for " + whom
}

// gathering is what goes into a backup.
type gathering struct {
	manifest backup.Manifest
	files    []backup.File
	open     []io.Closer
	secret   []byte // the keyset
}

func (g *gathering) close() (err error) {
	clear(g.secret)
	for _, f := range g.open {
		err = errors.Join(err, f.Close())
	}
	return err
}

// gather finds what a backup of this moment holds: a view of the store, the files of the
// trail as far as that view knows them, and the small files.
func (s *Server) gather(ctx context.Context, withoutKeyset bool, g *gathering) error {
	copied, err := backup.Unlinked(s.cfg.DataDir)
	if err != nil {
		return err
	}
	g.open = append(g.open, copied)
	var view *bolt.View
	var parts []backup.File
	err = s.audit.Hold(func() (err error) {
		if view, err = s.store.View(ctx); err != nil {
			return err
		}
		parts, err = s.gatherTrail(view, g)
		return err
	})
	if view == nil {
		return err
	}
	if err == nil {
		g.manifest.Records, err = view.CopyTo(ctx, copied)
	}
	if err := errors.Join(err, view.Close()); err != nil {
		return err
	}
	info, err := copied.Stat()
	if err != nil {
		return err
	}
	g.files = append(g.files, backup.File{Name: StoreFile, Size: info.Size(), Content: io.NewSectionReader(copied, 0, info.Size())})
	if err := s.gatherSmall(withoutKeyset, g); err != nil {
		return err
	}
	g.files = append(g.files, parts...)
	g.manifest.Without = notBackedUp(s.cfg, withoutKeyset)
	return nil
}

// gatherTrail lists the files of the trail. The service removes old ones of all streams
// but the changes: those are opened now.
func (s *Server) gatherTrail(view *bolt.View, g *gathering) (files []backup.File, err error) {
	known, err := view.Evidence()
	if err != nil {
		return nil, err
	}
	g.manifest.Revision = known.Revision
	_, anchors, err := TrailMACs(s.custodian)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.cfg.DataDir, AuditDir)
	parts, err := audit.Parts(dir, anchors, known.Anchors)
	if err != nil {
		return nil, err
	}
	for _, part := range parts {
		content := &lateFile{path: filepath.Join(dir, part.Name)}
		if !strings.HasPrefix(part.Name, audit.Changes) {
			if content.file, err = os.Open(content.path); err != nil {
				return nil, err
			}
		}
		g.open = append(g.open, content)
		files = append(files, backup.File{Name: path.Join(AuditDir, part.Name), Size: part.Size, Content: content})
	}
	return files, nil
}

// lateFile is a file that is opened when it is read: a process has few open at once.
type lateFile struct {
	path string
	file *os.File
}

func (f *lateFile) Read(p []byte) (n int, err error) {
	if f.file == nil {
		if f.file, err = os.Open(f.path); err != nil {
			return 0, err
		}
	}
	return f.file.Read(p)
}

func (f *lateFile) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

func (s *Server) gatherSmall(withoutKeyset bool, g *gathering) error {
	for _, name := range append([]string{KeysetFile}, layout().Small...) {
		if withoutKeyset && (name == KeysetFile || name == OwnKeyFile || name == OwnCertFile) {
			continue
		}
		from := filepath.Join(s.cfg.DataDir, name)
		if name == KeysetFile {
			from = keysetPath(s.cfg)
		}
		text, err := ownfile.Read(from, backup.MaxSmall, s.log)
		if errors.Is(err, fs.ErrNotExist) && name != KeysetFile {
			continue
		}
		if err != nil {
			return err
		}
		if name == KeysetFile {
			g.secret = text
		}
		g.files = append(g.files, backup.File{Name: name, Size: int64(len(text)), Content: bytes.NewReader(text)})
	}
	return nil
}

// notBackedUp lists what the service uses and a backup of it does not hold.
func notBackedUp(cfg *config.Config, withoutKeyset bool) (all []string) {
	if withoutKeyset {
		all = append(all, "the sealing keyset "+keysetPath(cfg))
		if cfg.TLS.CertFile == "" {
			all = append(all, "the server's own certificate and its key")
		}
	}
	for _, f := range []struct{ setting, path string }{
		{"auth.users_file", cfg.Auth.UsersFile}, {"admin_password_file", cfg.AdminPasswordFile},
		{"tls.cert_file", cfg.TLS.CertFile}, {"tls.key_file", cfg.TLS.KeyFile},
		{anchorsSetting, cfg.Trust.AnchorsFile}, {"the settings file", cfg.File()},
	} {
		if f.path != "" {
			all = append(all, f.setting+" "+f.path)
		}
	}
	return all
}

// newBackupMetric says when the last backup was made.
func (s *Server) newBackupMetric() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "attestcsr_last_backup_timestamp_seconds",
		Help: "When the last backup was made that reached the command; 0: never.",
	}, func() float64 {
		text, err := s.store.Anchor(context.Background(), backupAnchor)
		at, parseErr := time.Parse(time.RFC3339, string(text))
		if err != nil || parseErr != nil {
			return 0
		}
		return float64(at.Unix())
	})
}

// CreateBackup makes a backup: a running service does, or the command over the store,
// which it locks meanwhile.
func CreateBackup(ctx context.Context, cfg *config.Config, log *slog.Logger, to backup.Destination, withoutKeyset bool) (saved backup.Saved, report control.BackupReport, err error) {
	to.Hostname = cfg.Hostname
	saved, err = to.Save(time.Now(), func(recipients []string, out io.Writer) error {
		o, end, err := Administer(ctx, cfg, log)
		if err != nil {
			return err
		}
		ask := control.BackupRequest{Recipients: recipients, WithoutKeyset: withoutKeyset, Passphrase: to.PassphraseFile != ""}
		report, err = o.Backup(ctx, ask, out)
		return errors.Join(err, end())
	})
	return saved, report, err
}

// BackupCheck is what was found in a backup.
type BackupCheck struct {
	backup.Manifest
	StoreCheck
}

// VerifyBackup opens a backup, and checks every digest in it, every record with its key,
// and the trail. keysetFile is the keyset of a backup that has none. What it writes are
// files without a name.
func VerifyBackup(ctx context.Context, log *slog.Logger, file string, with backup.Opener, keysetFile string) (found BackupCheck, err error) {
	u, err := backup.Unpack(file, with, layout())
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	found.Manifest = u.Manifest
	keyset := sealed.Options{KeysetFile: keysetFile, Content: u.Keyset}
	if u.Keyset == nil && keysetFile == "" {
		return found, noKeyset(u.Manifest)
	}
	custodian, err := sealed.Open(keyset)
	if err != nil {
		return found, err
	}
	store, err := bolt.Open(backup.Path(u.Store), bolt.Options{Logger: log})
	if err != nil {
		return found, err
	}
	held := 0
	known, err := store.Inspect(ctx, func(keystore.Record, error) error { held++; return nil })
	if err != nil {
		return found, errors.Join(err, store.Close())
	}
	s := &Server{cfg: &config.Config{}, log: log}
	if err := s.useCustodian(ctx, runtime.GOMAXPROCS(0), store, custodian); err != nil {
		return found, fmt.Errorf("the keyset is not that of the backup, whose primary key is %s: %w", u.Manifest.Keyset, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if found.StoreReport, err = (admin{s, control.Self()}).CheckStore(ctx); err != nil {
		return found, err
	}
	if held != u.Manifest.Records || known.Revision != u.Manifest.Revision {
		found.Add("the manifest", fmt.Errorf("the store has %d records and revision %d, and not %d and %d", held, known.Revision, u.Manifest.Records, u.Manifest.Revision))
	}
	found.Trail, err = verifyWith(ctx, custodian, audit.VerifyOptions{Files: u.Trail, Snapshot: s.snapshot})
	found.OK = found.whole()
	return found, err
}

func noKeyset(m backup.Manifest) error {
	return fmt.Errorf("the backup holds no keyset: name the file with --keyset (its primary key was %s)", m.Keyset)
}

// RestoreFrom says what is restored, and for whom.
type RestoreFrom struct {
	File       string
	With       backup.Opener
	KeysetFile string // of a backup that has none; "": the one of the settings
	Owner      string // of the files, user or user:group; "": that of data_dir
}

// Restored says what a restore has made.
type Restored struct {
	backup.Manifest
	Owner int
	Trail []audit.Summary
}

// RestoreBackup makes data_dir, which is empty or not there, from a backup. As long as
// it is not complete there is a file in it which keeps a service from starting. What an
// error leaves is removed again.
func RestoreBackup(ctx context.Context, cfg *config.Config, log *slog.Logger, from RestoreFrom) (done Restored, err error) {
	folder, err := backup.NewFolder(cfg.DataDir, UnfinishedFile, from.Owner)
	if err != nil {
		return done, err
	}
	done.Owner = folder.Owner.UID
	defer func() {
		if err != nil {
			err = errors.Join(err, folder.Remove())
		}
	}()
	if done.Manifest, err = folder.Unpack(from.File, from.With, layout()); err != nil {
		return done, err
	}
	restored := *cfg
	switch {
	case done.Has(KeysetFile):
		restored.Sealing.KeysetFile = ""
	case from.KeysetFile != "":
		restored.Sealing.KeysetFile = ""
		err = copyKeyset(from.KeysetFile, keysetPath(&restored), log)
	case cfg.Sealing.KeysetFile == "":
		err = noKeyset(done.Manifest)
	}
	if err == nil {
		done.Trail, err = goOn(ctx, &restored, log, done.Manifest)
	}
	if err == nil {
		err = folder.Finish()
	}
	return done, err
}

func copyKeyset(from, to string, log *slog.Logger) error {
	text, err := ownfile.Read(from, backup.MaxSmall, log)
	if err != nil {
		return err
	}
	defer clear(text)
	return ownfile.Replace(to, text)
}

// goOn makes a restored store go on above every revision that the lost one may have given
// out, records the restore, and checks the trail.
func goOn(ctx context.Context, cfg *config.Config, log *slog.Logger, m backup.Manifest) (trail []audit.Summary, err error) {
	s, err := openFiles(ctx, cfg, log, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	now, err := TrailState(s.keys)(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := s.store.Advance(ctx, now.Revision+restoreJump); err != nil {
		return nil, err
	}
	e := audit.Event{Operation: "backup.restore", Reason: fmt.Sprintf("the backup of %s, of the store at revision %d", m.Created.Format(time.RFC3339), m.Revision)}
	if err := s.record(ctx, control.Self(), e); err != nil {
		return nil, err
	}
	if err := s.audit.Settle(ctx); err != nil {
		return nil, err
	}
	return verify(ctx, cfg, nil, admin{s, control.Self()})
}

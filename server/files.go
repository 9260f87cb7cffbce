package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"attestcsr/config"
	"attestcsr/csr/audit"
	"attestcsr/csr/pkcs10"
	"attestcsr/keystore/ownfile"
	"attestcsr/server/serving"
	"attestcsr/server/tlscert"
	"attestcsr/server/users"
)

// The files of data_dir.
const (
	StoreFile           = "attestcsr.db"
	KeysetFile          = "sealing-keyset.json"
	RetiringFile        = "retiring-keys"
	AdminHashFile       = users.AdminHashFile
	InitialPasswordFile = users.InitialPasswordFile
	UsersFile           = users.File
	PrivilegesFile      = users.PrivilegesFile
	OwnCertFile         = "tls-cert.pem"
	OwnKeyFile          = "tls-key.pem"
	AuditDir            = "audit"
	NetworksFile        = "known-networks.json" // from which right passwords came, as codes
	SettingsFile        = "last-settings.json"  // digests of the values of settings
	ServingFile         = serving.File
	UnfinishedFile      = "restore-unfinished" // there while a restore goes on
)

func keysetPath(cfg *config.Config) string {
	return cmp.Or(cfg.Sealing.KeysetFile, filepath.Join(cfg.DataDir, KeysetFile))
}

// certFiles returns the files that the server certificate is read from.
func certFiles(cfg *config.Config) (certFile, keyFile string, own bool) {
	if cfg.TLS.CertFile != "" {
		return cfg.TLS.CertFile, cfg.TLS.KeyFile, false
	}
	return filepath.Join(cfg.DataDir, OwnCertFile), filepath.Join(cfg.DataDir, OwnKeyFile), true
}

// trusted is a file or a folder that the service believes.
type trusted struct {
	setting string // that names it; "data_dir" for what the service makes there, "" for the settings file
	path    string
	denied  fs.FileMode // what others must not be able to do
	doubted fs.FileMode // what gives a warning
}

// trustedFiles is the table of all that a service of a user believes, data_dir first.
func trustedFiles(cfg *config.Config, uid int) []trusted {
	dataDir := trusted{"data_dir", cfg.DataDir, ownfile.Folder, 0}
	if owner, is := ownfile.OwnerOf(os.Stat(cfg.DataDir)); is && owner.UID == uid {
		dataDir.denied = fs.ModeDir // the start sets its mode
	}
	own := func(name string, denied fs.FileMode) trusted {
		return trusted{"data_dir", filepath.Join(cfg.DataDir, name), denied, 0}
	}
	all := []trusted{
		dataDir, own(StoreFile, ownfile.Secret), own(SettingsFile, ownfile.Secret), own(ServingFile, ownfile.Secret), own(NetworksFile, ownfile.Secret),
		own(AuditDir, ownfile.PrivateFolder), own(UsersFile, ownfile.Secret), own(PrivilegesFile, ownfile.Secret),
	}
	if cfg.Sealing.KeysetFile == "" {
		all = append(all, own(KeysetFile, ownfile.Secret))
	} else {
		all = append(all, trusted{"sealing.keyset_file", cfg.Sealing.KeysetFile, ownfile.Secret, 0})
	}
	if cfg.TLS.CertFile == "" {
		all = append(all, own(OwnCertFile, ownfile.Public), own(OwnKeyFile, ownfile.Secret))
	} else {
		all = append(all, trusted{"tls.cert_file", cfg.TLS.CertFile, ownfile.Public, 0}, trusted{"tls.key_file", cfg.TLS.KeyFile, ownfile.Secret, 0})
	}
	if cfg.Trust.AnchorsFile != "" {
		all = append(all, trusted{anchorsSetting, cfg.Trust.AnchorsFile, ownfile.Public, 0})
	}
	switch {
	case cfg.Auth.UsersFile != "":
		all = append(all, trusted{"auth.users_file", cfg.Auth.UsersFile, ownfile.Public, ownfile.Secret})
	case cfg.AdminPasswordFile != "":
		all = append(all, own(AdminHashFile, ownfile.Secret), trusted{"admin_password_file", cfg.AdminPasswordFile, ownfile.Public, ownfile.Secret})
	default:
		all = append(all, own(AdminHashFile, ownfile.Secret), own(InitialPasswordFile, ownfile.Secret))
	}
	if cfg.Signer.Socket != "" {
		all = append(all, trusted{signerSetting, filepath.Dir(cfg.Signer.Socket), ownfile.Folder, 0})
	}
	// Nobody else can change what comes through a pipe.
	if info, err := os.Stat(cfg.File()); err == nil && info.Mode().IsRegular() {
		all = append(all, trusted{"", cfg.File(), ownfile.Public, 0})
	}
	return all
}

// checkTrusted checks files for a service that trusts t. Whoever opens a file says
// that it is missing.
func checkTrusted(cfg *config.Config, t ownfile.Trust, files []trusted) (warnings []string, err error) {
	t.Shared = cfg.AllowSharedDataDir
	var errs []error
	for _, f := range files {
		err := t.Check(f.path, f.denied)
		if err == nil && f.doubted != 0 {
			if doubt := t.Check(f.path, f.doubted); doubt != nil {
				warnings = append(warnings, cfg.Problem(f.setting, doubt).Error())
			}
		}
		if shared, is := errors.AsType[*ownfile.SharedError](err); is && f.setting == "data_dir" {
			volume := ""
			if shared.Owner == 0 && t.UID != 0 {
				volume = fmt.Sprintf("; in Kubernetes, use a persistent volume and set fsGroup for the pod, or mount with subPath a folder of user %d", t.UID)
			}
			err = fmt.Errorf("%w%s; allow_shared_data_dir: true starts in spite of it", shared, volume)
		}
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case f.setting == "":
			errs = append(errs, fmt.Errorf("settings file: %w", err))
		default:
			errs = append(errs, cfg.Problem(f.setting, err))
		}
	}
	return warnings, errors.Join(errs...)
}

// stillTrusted checks files again before they are read again.
func stillTrusted(cfg *config.Config, paths ...string) error {
	self := ownfile.Self()
	files := slices.DeleteFunc(trustedFiles(cfg, self.UID), func(f trusted) bool { return !slices.Contains(paths, f.path) })
	_, err := checkTrusted(cfg, self, files)
	return err
}

// prepareDataDir makes data_dir, keeps others out of it where it is the service's
// own, and checks all that the service trusts.
func prepareDataDir(cfg *config.Config, log *slog.Logger) error {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	self := ownfile.Self()
	files := trustedFiles(cfg, self.UID)
	if _, err := checkTrusted(cfg, self, files[:1]); err != nil {
		return err // before a mode is changed: a link may lead anywhere
	}
	info, err := os.Stat(cfg.DataDir)
	if owner, is := ownfile.OwnerOf(info, err); is && owner.UID == self.UID && info.Mode()&0o077 != 0 {
		log.Warn("data_dir is accessible to its group or to others: its mode is set to 0700", "data_dir", cfg.DataDir, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
		err = os.Chmod(cfg.DataDir, 0o700) //nolint:gosec // a folder has to be searched
	}
	if err != nil {
		return fmt.Errorf("data_dir: %w", err)
	}
	_, err = checkTrusted(cfg, self, files) // its warnings were given with the settings
	return errors.Join(err, checkRestored(cfg.DataDir))
}

// checkFiles checks the files that settings name, before anything is opened for use:
// whom they belong to and what others can do, that we can read them, and that
// data_dir is a directory or can be made. It changes nothing. Root's commands act for
// the service that the store belongs to. What passes here may still fail later: files
// change.
func checkFiles(cfg *config.Config, now time.Time) (warnings []string, err error) {
	trust := ownfile.Of(filepath.Join(cfg.DataDir, StoreFile), cfg.DataDir)
	var named []trusted
	for _, f := range trustedFiles(cfg, trust.UID) {
		if f.setting != "data_dir" || f.path == cfg.DataDir {
			named = append(named, f)
		}
	}
	var errs []error
	for _, f := range named {
		doubts, err := checkTrusted(cfg, trust, []trusted{f})
		warnings = append(warnings, doubts...)
		if err == nil && f.setting != "" {
			if err = usable(cfg, f); err != nil {
				err = cfg.Problem(f.setting, err)
			}
		}
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	if cfg.TLS.CertFile != "" && err == nil {
		const key = "tls.cert_file"
		_, remarks, loadErr := tlscert.Load(cfg.TLS.CertFile, cfg.TLS.KeyFile, now)
		for _, remark := range remarks {
			warnings = append(warnings, cfg.Problem(key, errors.New(remark)).Error())
		}
		if loadErr != nil {
			err = cfg.Problem(key, loadErr)
		}
	}
	if cfg.Trust.AnchorsFile != "" && err == nil {
		_, err = readAnchors(cfg)
	}
	return warnings, err
}

// usable checks that a file can be read, or made where the service makes it.
func usable(cfg *config.Config, f trusted) error {
	if f.path == cfg.DataDir {
		return canBeMade(f.path)
	}
	file, err := os.Open(f.path)
	switch {
	case err == nil:
		return file.Close()
	case f.path == cfg.Sealing.KeysetFile && errors.Is(err, fs.ErrNotExist):
		if dir := filepath.Dir(f.path); dir != filepath.Clean(cfg.DataDir) { // which is made
			return canMakeFilesIn(dir)
		}
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: make it readable for user %d (in Kubernetes, set defaultMode: 0440 for the volume and fsGroup for the pod)", err, os.Geteuid())
	}
	return err
}

// checkRestored refuses a data_dir whose restore has not ended: what is in it is not all.
func checkRestored(dataDir string) error {
	if _, err := os.Lstat(filepath.Join(dataDir, UnfinishedFile)); err == nil {
		return fmt.Errorf("a restore into %s has not ended: if it does not run any more, remove what is in the folder and restore again", dataDir)
	}
	return nil
}

// whose says to whom a file or folder belongs that this process may not use.
func whose(path string) string {
	owner, is := ownfile.OwnerOf(os.Stat(path))
	if self := os.Geteuid(); is && owner.UID != self {
		return fmt.Sprintf(": it belongs to user %d, and this process is user %d; run chown %d %s", owner.UID, self, self, path)
	}
	return ""
}

// advised adds to the error of a start what to do about a full disk, and about a file
// of somebody else.
func advised(dataDir string, err error) error {
	path, folder := dataDir, dataDir
	if at, is := errors.AsType[*fs.PathError](err); is {
		path, folder = at.Path, filepath.Dir(at.Path)
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return errors.Join(err, fmt.Errorf("the volume of %s is full: make room (df -h and df -i say where), then start again", folder))
	case errors.Is(err, unix.EDQUOT):
		return errors.Join(err, fmt.Errorf("user %d is over the quota of the volume of %s: make room or raise the quota, then start again", os.Geteuid(), folder))
	case errors.Is(err, fs.ErrPermission):
		if advice := whose(path); advice != "" {
			return errors.Join(err, errors.New(path+advice))
		}
	}
	return err
}

// canBeMade checks that dir is a directory we can write to, or that the nearest one
// above it that exists is.
func canBeMade(dir string) error {
	err := canMakeFilesIn(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		err = canMakeFilesIn(dir)
	}
	return err
}

func canMakeFilesIn(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return fmt.Errorf("cannot make files in %s: %w%s", dir, err, whose(dir))
	}
	return nil
}

// anchorsSetting names the file of trust anchors.
const anchorsSetting = "trust.anchors_file"

// trustAnchors are those of a file.
type trustAnchors struct {
	*pkcs10.Anchors
	digest [sha256.Size]byte // of the file
}

// readAnchors reads the file of trust anchors.
func readAnchors(cfg *config.Config) (*trustAnchors, error) {
	text, err := os.ReadFile(cfg.Trust.AnchorsFile)
	if err != nil {
		return nil, cfg.Problem(anchorsSetting, err)
	}
	anchors, err := pkcs10.ParseAnchors(text)
	if err != nil {
		return nil, cfg.Problem(anchorsSetting, fmt.Errorf("%s: %w", cfg.Trust.AnchorsFile, err))
	}
	return &trustAnchors{anchors, sha256.Sum256(text)}, nil
}

// loadAnchors makes the anchors of the file those that certificates must lead to from now
// on, and reports whether they are others than before.
func (s *Server) loadAnchors() (changed bool, err error) {
	if err := stillTrusted(s.cfg, s.cfg.Trust.AnchorsFile); err != nil {
		return false, err
	}
	now, err := readAnchors(s.cfg)
	if err != nil {
		return false, err
	}
	before := s.anchors.Swap(now)
	return before == nil || before.digest != now.digest, nil
}

// trustedAnchors is what certificates must lead to now; nil: they need not.
func (s *Server) trustedAnchors() *pkcs10.Anchors {
	if now := s.anchors.Load(); now != nil {
		return now.Anchors
	}
	return nil
}

// reloadAnchors reads the file of trust anchors again, if there is one. On any error the
// ones before stay.
func (s *Server) reloadAnchors() {
	if s.cfg.Trust.AnchorsFile == "" {
		return
	}
	switch changed, err := s.loadAnchors(); {
	case err != nil:
		s.log.Error("trust anchors not reloaded: the ones before stay", "err", err)
	case changed:
		s.log.Info("trust anchors reloaded")
		s.noteEvent(context.Background(), audit.Event{Operation: "anchors.reload"})
	}
}

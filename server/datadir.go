package server

import (
	"cmp"
	"path/filepath"

	"attestcsr/config"
	"attestcsr/server/serving"
)

// The files of data_dir.
const (
	StoreFile           = "attestcsr.db"
	KeysetFile          = "sealing-keyset.json"
	RetiringFile        = "retiring-keys"
	AdminHashFile       = "admin.htpasswd"
	InitialPasswordFile = "initial-admin-password"
	OwnCertFile         = "tls-cert.pem"
	OwnKeyFile          = "tls-key.pem"
	AuditDir            = "audit"
	NetworksFile        = "known-networks.json" // from which right passwords came, as codes
	SettingsFile        = "last-settings.json"  // digests of the values of settings
	ServingFile         = serving.File
)

func keysetPath(cfg *config.Config) string {
	return cmp.Or(cfg.Sealing.KeysetFile, filepath.Join(cfg.DataDir, KeysetFile))
}

// usersFile is the htpasswd file that users are read from: the operator's, or
// the one that holds the built-in admin.
func usersFile(cfg *config.Config) string {
	return cmp.Or(cfg.Auth.UsersFile, filepath.Join(cfg.DataDir, AdminHashFile))
}

// certFiles returns the files that the server certificate is read from.
func certFiles(cfg *config.Config) (certFile, keyFile string, own bool) {
	if cfg.TLS.CertFile != "" {
		return cfg.TLS.CertFile, cfg.TLS.KeyFile, false
	}
	return filepath.Join(cfg.DataDir, OwnCertFile), filepath.Join(cfg.DataDir, OwnKeyFile), true
}

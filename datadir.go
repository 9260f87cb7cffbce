package main

import (
	"path/filepath"

	"attestcsr/config"
)

// The files of data_dir.
const (
	storeFile           = "attestcsr.db"
	keysetFile          = "sealing-keyset.json"
	adminHashFile       = "admin.htpasswd"
	initialPasswordFile = "initial-admin-password"
	ownCertFile         = "tls-cert.pem"
	ownKeyFile          = "tls-key.pem"
	auditDir            = "audit"
)

func keysetPath(cfg *config.Config) string {
	if cfg.Sealing.KeysetFile != "" {
		return cfg.Sealing.KeysetFile
	}
	return filepath.Join(cfg.DataDir, keysetFile)
}

// usersFile is the htpasswd file that users are read from: the operator's, or
// the one that holds the built-in admin.
func usersFile(cfg *config.Config) string {
	if cfg.Auth.UsersFile != "" {
		return cfg.Auth.UsersFile
	}
	return filepath.Join(cfg.DataDir, adminHashFile)
}

// certFiles returns the files that the server certificate is read from.
func certFiles(cfg *config.Config) (certFile, keyFile string, own bool) {
	if cfg.TLS.CertFile != "" {
		return cfg.TLS.CertFile, cfg.TLS.KeyFile, false
	}
	return filepath.Join(cfg.DataDir, ownCertFile), filepath.Join(cfg.DataDir, ownKeyFile), true
}

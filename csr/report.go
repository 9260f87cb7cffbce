package csr

// Key says which key a certificate is for.
type Key string

// The keys.
const (
	NoKey        Key = ""          // none that it could be set for
	PendingKey   Key = "pending"   // that of the CSR
	InstalledKey Key = "installed" // that of the installed certificate, which it would renew
)

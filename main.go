// Attestcsr issues certificate signing requests for a host's attestation signing
// certificate, keeps the private keys, and takes the certificates that the CA
// issued, in the dialects of the ESX REST API and the NSX policy API.
package main

import (
	"os"

	"attestcsr/command"
)

func main() { os.Exit(command.Main()) }

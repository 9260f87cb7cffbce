//go:build !linux

package bolt

import "os"

func dropPageCache(*os.File) error { return nil }

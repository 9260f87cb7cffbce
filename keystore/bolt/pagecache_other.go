//go:build !linux

package bolt

import (
	"os"

	"go.etcd.io/bbolt"
)

func releaseMapping(*bbolt.DB, int64) error { return nil }

func dropPageCache(*os.File) error { return nil }

package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"attestcsr/config"
)

// gcFloor is memory that counts as live and is never touched, so that it costs
// address space alone; bytes. The heap may grow to twice what is live before it
// is collected. Without the floor the collector would run a hundred times a second
// under load, since only a few MB are live. A higher GOGC would do as well in quiet
// times, but it would multiply what hostile clients can make live.
const gcFloor = 16 << 20

// PrepareProcess sets what the whole process keeps to: its memory limit, and that
// nobody reads its memory. It comes before anything secret is read. The caller
// calls what it returns when the process ends.
func PrepareProcess(cfg *config.Config, log *slog.Logger) (end func()) {
	floor := make([]byte, gcFloor)
	if _, given := os.LookupEnv("GOMEMLIMIT"); !given {
		limitMemory(cfg.Limits.Memory, os.DirFS("/"), log)
	}
	if !cfg.AllowCoreDumps {
		if err := forbidDumps(); err != nil {
			log.Warn("core dumps and debuggers are not kept out: the memory of this process, with its keys, can be read by its user", "err", err)
		}
	}
	return func() { runtime.KeepAlive(floor) }
}

// memoryLimit is the default limit of the garbage collector, in bytes. Hostile clients
// can keep about half of it in use. Without a limit the heap doubles before it is
// collected, and stays that large for minutes.
const memoryLimit = 160 << 20

// limitMemory sets the limit of the garbage collector. It is not called where the
// operator has set GOMEMLIMIT, which the runtime follows by itself.
func limitMemory(limit int64, root fs.FS, log *slog.Logger) {
	if limit == config.MemoryAuto {
		found, err := cgroupMemory(root)
		if err != nil {
			log.Warn("the memory limit of the cgroup cannot be read: set limits.memory", "err", err)
		}
		limit = memoryLimit
		if found > 0 {
			// The rest is for what the collector does not see, and for the time it takes.
			limit = min(limit, found/10*9)
		}
	}
	if limit == config.MemoryOff {
		return
	}
	debug.SetMemoryLimit(limit)
	log.LogAttrs(context.Background(), slog.LevelInfo, "memory limit of the garbage collector", slog.Int64("bytes", limit))
}

// cgroupMemory returns the lowest memory limit of the process's cgroup and those
// above it, in bytes, or 0 where there is none. root is the root of the file system.
func cgroupMemory(root fs.FS) (int64, error) {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // not Linux, or no /proc
	}
	if err != nil {
		return 0, err
	}
	lowest := int64(0)
	for line := range strings.Lines(string(groups)) {
		// hierarchy:controllers:path (cgroups(7)); version 2 names no controllers.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if fields[1] == "memory" {
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if fields[1] != "" {
			continue
		}
		// In a container the path may be that of the host, whose directories are not
		// there; the container's own is the mount itself.
		for at := path.Clean("/" + fields[2]); ; at = path.Dir(at) {
			limit, err := readLimit(root, path.Join(mount, at, file))
			if err != nil {
				return 0, err
			}
			if limit > 0 && (lowest == 0 || limit < lowest) {
				lowest = limit
			}
			if at == "/" {
				break
			}
		}
	}
	return lowest, nil
}

// unlimited is what version 1 shows where nothing was set: the largest number of
// whole pages.
const unlimited = 1 << 62

// readLimit returns 0 where the file is not there or sets no limit.
func readLimit(root fs.FS, name string) (int64, error) {
	text, err := fs.ReadFile(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	word := strings.TrimSpace(string(text))
	if word == "max" {
		return 0, nil
	}
	limit, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if limit >= unlimited {
		return 0, nil
	}
	return limit, nil
}

package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"attestcsr/config"
)

// gcFloor is how many bytes of memory count as live and are never touched: they cost
// address space alone. The heap may grow to twice what is live before it is collected.
// Only a few MB are live: without the floor the collector would run a hundred times a
// second under load. A higher GOGC would multiply what hostile clients can make live.
const gcFloor = 16 << 20

// PrepareProcess limits the memory of the process, and keeps others from reading it.
// It comes before anything secret is read. The caller calls what it returns when the
// process ends.
func PrepareProcess(cfg *config.Config, log *slog.Logger) (end func()) {
	floor := make([]byte, gcFloor)
	if _, given := os.LookupEnv("GOMEMLIMIT"); !given {
		limitMemory(cfg.Limits.Memory, log)
	}
	if !cfg.AllowCoreDumps {
		if err := forbidDumps(); err != nil {
			log.Warn("core dumps and debuggers are not kept out: the memory of this process, with its keys, can be read by its user", "err", err)
		}
	}
	if swapOn(os.DirFS("/")) {
		log.Warn("the kernel may write the memory of this process, with its private keys, to swap: turn swap off for it (systemd: MemorySwapMax=0; docker: --memory-swap equal to --memory), or encrypt the swap")
	}
	return func() { runtime.KeepAlive(floor) }
}

// memoryLimit is the default limit of the garbage collector, in bytes. Hostile clients
// can keep about half of it in use. Without a limit the heap doubles before it is
// collected, and stays that large for minutes.
const memoryLimit = 160 << 20

// limitMemory sets the limit of the garbage collector. It is not called where the
// operator has set GOMEMLIMIT, which the runtime follows by itself.
func limitMemory(limit int64, log *slog.Logger) {
	if limit == config.MemoryOff {
		return
	}
	if limit == config.MemoryAuto {
		limit = min(memoryLimit, cgroupMemory(log)/10*9) // the rest is for what the collector does not see
	}
	debug.SetMemoryLimit(limit)
	log.LogAttrs(context.Background(), slog.LevelInfo, "memory limit of the garbage collector", slog.Int64("bytes", limit))
}

// cgroupMemory returns the lowest memory limit of the process's cgroup and those
// above it, in bytes, or the largest number where there is none.
func cgroupMemory(log *slog.Logger) int64 {
	limit, err := memlimit.FromCgroup()
	switch {
	case err == nil:
		return int64(min(limit, math.MaxInt64))
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
	default:
		log.Warn("the memory limit of the cgroup cannot be read: set limits.memory", "err", err)
	}
	return math.MaxInt64
}

// forbidDumps keeps the memory of this process, which holds private keys, out of files
// and from debuggers.
//
// The limit alone does not suffice: where core_pattern names a program, the kernel
// starts it whatever the limit is (core(5)). A process that is not dumpable (prctl(2),
// PR_SET_DUMPABLE) starts none. Then ptrace(2), /proc/PID/mem and environ also refuse
// everybody but root.
func forbidDumps() error {
	return errors.Join(
		os.NewSyscallError("setrlimit RLIMIT_CORE", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})),
		os.NewSyscallError("prctl PR_SET_DUMPABLE", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)))
}

// swapOn reports whether this process's memory may end up on a swap device. zram is
// memory itself. In a cgroup of version 1 the device decides.
func swapOn(root fs.FS) bool {
	swaps, err := fs.ReadFile(root, "proc/swaps")
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // a kernel without swap has no such file
	}
	devices := strings.Split(strings.TrimSpace(string(swaps)), "\n")[1:] // the first line is a heading
	if !slices.ContainsFunc(devices, func(device string) bool { return !strings.HasPrefix(device, "/dev/zram") }) {
		return false
	}
	groups, _ := fs.ReadFile(root, "proc/self/cgroup") // without it nothing forbids swap
	_, group, _ := strings.Cut("\n"+string(groups), "\n0::/")
	group, _, _ = strings.Cut(group, "\n")
	for group = path.Clean(group); ; group = path.Dir(group) {
		limit, err := fs.ReadFile(root, path.Join("sys/fs/cgroup", group, "memory.swap.max"))
		if err == nil && strings.TrimSpace(string(limit)) == "0" {
			return false
		}
		if group == "." {
			return true
		}
	}
}

// notifyTimeout is how long the service waits for systemd to take a notification.
const notifyTimeout = time.Second

// notify tells systemd of a state (sd_notify(3)), where a unit of Type=notify started
// the service.
func (s *Server) notify(state string) {
	done := make(chan error, 1)
	go func() {
		_, err := daemon.SdNotify(false, state)
		done <- err
	}()
	var err error
	select {
	case err = <-done:
	case <-time.After(notifyTimeout):
		err = context.DeadlineExceeded
	}
	if err != nil {
		s.log.Warn("systemd takes no notifications", "err", err)
	}
}

// feedWatchdog tells systemd that the service is alive, where its unit sets WatchdogSec.
// Alive means that a check of readiness ends: it goes through the store and takes its
// locks. A service that is alive and not ready is not started again, which would mend
// neither a full disk nor a trail that cannot be written.
func (s *Server) feedWatchdog(ctx context.Context) {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("systemd's watchdog is not fed", "err", err)
	}
	if within <= 0 {
		return
	}
	ticker := time.NewTicker(within / 2)
	defer ticker.Stop()
	for {
		if err := s.ready(ctx); err != nil {
			s.log.Warn("not ready", "err", err)
		}
		s.notify(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// thisMachine describes the machine, as far as Linux tells; dir is where the
// data is.
func thisMachine(dir string) machine {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // unknown elsewhere
	kib, _ := strconv.Atoi(strings.TrimSuffix(procValue("/proc/meminfo", "MemTotal"), " kB"))
	return machine{
		Processor:  procValue("/proc/cpuinfo", "model name"),
		Processors: runtime.GOMAXPROCS(0),
		MemoryMB:   kib * 1024 / 1e6,
		Kernel:     strings.TrimSpace(string(kernel)),
		FileSystem: fileSystem(dir),
		Go:         runtime.Version(),
	}
}

// procValue is the value of the first line "name: value" of a file.
func procValue(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fileSystem is the kind of the file system that dir is on. What fsync costs
// there decides about half of the figures; on tmpfs it costs nothing.
func fileSystem(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return ""
	}
	longest, kind := "", "file system unknown"
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line) // device, mount point, kind, …
		if len(fields) < 3 || len(fields[1]) < len(longest) {
			continue
		}
		if point := strings.TrimSuffix(fields[1], "/"); dir == point || strings.HasPrefix(dir, point+"/") {
			longest, kind = fields[1], fields[2]
		}
	}
	return kind
}

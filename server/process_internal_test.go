package server

import (
	"testing"
	"testing/fstest"
)

// A swap device counts where no cgroup above the process forbids it.
func TestSwap(t *testing.T) {
	t.Parallel()
	const (
		none  = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
		disk  = none + "/dev/vda2                               partition\t4194300\t\t0\t\t-2\n"
		zram  = none + "/dev/zram0                              partition\t4194300\t\t0\t\t100\n"
		mine  = "1:name=systemd:/x\n0::/system.slice/attestcsr.service\n"
		slice = "sys/fs/cgroup/system.slice/"
	)
	for name, test := range map[string]struct {
		files map[string]string
		on    bool
	}{
		"no such kernel":        {nil, false},
		"no device":             {map[string]string{"proc/swaps": none}, false},
		"zram":                  {map[string]string{"proc/swaps": zram}, false},
		"a disk":                {map[string]string{"proc/swaps": disk}, true},
		"a disk beside zram":    {map[string]string{"proc/swaps": zram + disk[len(none):]}, true},
		"without a limit":       {map[string]string{"proc/swaps": disk, "proc/self/cgroup": mine, slice + "attestcsr.service/memory.swap.max": "max\n"}, true},
		"with a limit":          {map[string]string{"proc/swaps": disk, "proc/self/cgroup": mine, slice + "attestcsr.service/memory.swap.max": "4096\n"}, true},
		"forbidden":             {map[string]string{"proc/swaps": disk, "proc/self/cgroup": mine, slice + "attestcsr.service/memory.swap.max": "0\n"}, false},
		"forbidden above":       {map[string]string{"proc/swaps": disk, "proc/self/cgroup": mine, slice + "memory.swap.max": "0\n"}, false},
		"forbidden elsewhere":   {map[string]string{"proc/swaps": disk, "proc/self/cgroup": mine, slice + "other.service/memory.swap.max": "0\n"}, true},
		"forbidden a container": {map[string]string{"proc/swaps": disk, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.swap.max": "0\n"}, false},
		"outside its namespace": {map[string]string{"proc/swaps": disk, "proc/self/cgroup": "0::/../../x\n"}, true},
	} {
		root := fstest.MapFS{}
		for file, content := range test.files {
			root[file] = &fstest.MapFile{Data: []byte(content)}
		}
		if on := swapOn(root); on != test.on {
			t.Errorf("%s: %v", name, on)
		}
	}
}

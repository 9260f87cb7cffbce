package server

import (
	"testing"
	"testing/fstest"
)

func TestCgroupMemory(t *testing.T) {
	t.Parallel()
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	const v2 = "sys/fs/cgroup/"
	const v1 = "sys/fs/cgroup/memory/"
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  int64
	}{
		"no cgroups":         {fstest.MapFS{}, 0},
		"version 2":          {fstest.MapFS{"proc/self/cgroup": file("0::/a.slice/b.service\n"), v2 + "a.slice/b.service/memory.max": file("536870912\n")}, 512 << 20},
		"none set":           {fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), v2 + "a/memory.max": file("max\n")}, 0},
		"above is lower":     {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), v2 + "a/b/memory.max": file("200\n"), v2 + "a/memory.max": file("100\n")}, 100},
		"above has one":      {fstest.MapFS{"proc/self/cgroup": file("0::/a/b\n"), v2 + "a/b/memory.max": file("max\n"), v2 + "a/memory.max": file("100\n")}, 100},
		"own namespace":      {fstest.MapFS{"proc/self/cgroup": file("0::/\n"), v2 + "memory.max": file("100\n")}, 100},
		"outside of it":      {fstest.MapFS{"proc/self/cgroup": file("0::/../x\n"), v2 + "memory.max": file("100\n")}, 100},
		"version 1":          {fstest.MapFS{"proc/self/cgroup": file("5:cpu:/c\n4:memory:/a\n"), v1 + "a/memory.limit_in_bytes": file("100\n")}, 100},
		"version 1 unset":    {fstest.MapFS{"proc/self/cgroup": file("4:memory:/\n"), v1 + "memory.limit_in_bytes": file("9223372036854771712\n")}, 0},
		"version 1, docker":  {fstest.MapFS{"proc/self/cgroup": file("4:memory:/docker/0123\n"), v1 + "memory.limit_in_bytes": file("100\n")}, 100},
		"both, version 1":    {fstest.MapFS{"proc/self/cgroup": file("4:memory:/a\n0::/a\n"), v1 + "a/memory.limit_in_bytes": file("100\n")}, 100},
		"a colon in a name":  {fstest.MapFS{"proc/self/cgroup": file("0::/a:b\n"), v2 + "a:b/memory.max": file("100\n")}, 100},
		"a line that is odd": {fstest.MapFS{"proc/self/cgroup": file("x\n0::/a\n"), v2 + "a/memory.max": file("100\n")}, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := cgroupMemory(c.files); err != nil || got != c.want {
				t.Errorf("%d, %v, want %d", got, err, c.want)
			}
		})
	}
	damaged := fstest.MapFS{"proc/self/cgroup": file("0::/a\n"), v2 + "a/memory.max": file("lots\n")}
	if got, err := cgroupMemory(damaged); err == nil || got != 0 {
		t.Errorf("no number: %d, %v", got, err)
	}
}

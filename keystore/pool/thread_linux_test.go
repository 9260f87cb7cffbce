package pool_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"attestcsr/keystore"
	"attestcsr/keystore/keystoretest"
	"attestcsr/keystore/pool"
	"attestcsr/test/kit"
)

// policies returns the scheduling policy of every thread of this process.
func policies(t testing.TB) map[int]uint32 {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	all := map[int]uint32{}
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			t.Fatal(err)
		}
		if attr, err := unix.SchedGetAttr(tid, 0); err == nil { // else it has ended
			all[tid] = attr.Policy
		}
	}
	return all
}

func idleThreads(t testing.TB) []int {
	t.Helper()
	var idle []int
	for tid, policy := range policies(t) {
		if policy == unix.SCHED_IDLE {
			idle = append(idle, tid)
		}
	}
	slices.Sort(idle)
	return idle
}

// Not parallel: what it looks at belongs to the process.
func TestThreadsAreIdle(t *testing.T) {
	kit.Eventually(t, "no idle threads", func() bool { return len(idleThreads(t)) == 0 })
	made := &where{Custodian: keystoretest.NewVault()}
	p := newPool(pool.Options{Custodian: made, Targets: map[int]int{2048: 20}, Workers: 3})
	if err := p.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	idle := idleThreads(t)
	if len(idle) != 3 || slices.Contains(idle, os.Getpid()) {
		t.Errorf("idle threads %v, want 3 and not the main one, %d", idle, os.Getpid())
	}
	for _, tid := range made.threads(2048) {
		if !slices.Contains(idle, tid) {
			t.Errorf("a key of the pool was made on thread %d, which is not idle", tid)
		}
	}
	// Many goroutines and threads come to be meanwhile: none on those threads, and
	// none that inherits from them.
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if slices.Contains(idle, unix.Gettid()) {
				t.Error("another goroutine runs on an idle thread")
			}
			if _, err := p.Generate(t.Context(), rsaSpec(4096)); err != nil {
				t.Errorf("Generate: %v", err)
			}
		})
	}
	wg.Wait()
	for _, tid := range made.threads(4096) {
		if slices.Contains(idle, tid) {
			t.Error("a key somebody waits for is made on an idle thread")
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	kit.Eventually(t, "no idle threads", func() bool { return len(idleThreads(t)) == 0 })
}

// A worker that the runtime puts on the main thread looks for another.
func TestMainThreadIsSpared(t *testing.T) {
	var tasks sync.WaitGroup
	serve, started, end := pool.NewThread(&tasks)
	onMain := make(chan bool, 1)
	onMainThread <- func() {
		onMain <- unix.Gettid() == os.Getpid()
		serve()
	}
	if !<-onMain {
		t.Fatal("that was not the main thread")
	}
	<-started
	if idle := idleThreads(t); len(idle) != 1 || idle[0] == os.Getpid() {
		t.Errorf("idle threads %v, want one and not the main one, %d", idle, os.Getpid())
	}
	end()
	tasks.Wait()
	kit.Eventually(t, "no idle threads", func() bool { return len(idleThreads(t)) == 0 })
}

// where is a custodian that notes on which threads it makes keys.
type where struct {
	keystore.Custodian
	mu  sync.Mutex
	ids map[int][]int // by bits
}

func (w *where) Generate(ctx context.Context, spec keystore.KeySpec) (keystore.Key, error) {
	w.mu.Lock()
	if w.ids == nil {
		w.ids = map[int][]int{}
	}
	w.ids[spec.Bits] = append(w.ids[spec.Bits], unix.Gettid())
	w.mu.Unlock()
	return w.Custodian.Generate(ctx, spec)
}

func (w *where) threads(bits int) []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids[bits]
}

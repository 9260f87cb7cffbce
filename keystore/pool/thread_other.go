//go:build !linux

package pool

func onMainThread() bool { return false }

func makeIdle() bool { return false }

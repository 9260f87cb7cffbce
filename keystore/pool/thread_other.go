//go:build !linux

package pool

func onMainThread() bool { return false }

func lowerPriority() priority { return normal }

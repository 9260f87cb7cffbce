package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// starts measures how long a start on existing data takes.
func starts(ctx context.Context, b *bench) error {
	dataDir, err := b.seeded(ctx, b.scale.stored)
	if err != nil {
		return err
	}
	for _, ending := range []struct {
		name string
		end  func(*server) error
	}{
		{"a clean stop", (*server).stop},
		{"kill -9", func(s *server) error { s.kill(); return nil }},
	} {
		var latencies []time.Duration
		for i := range b.scale.starts + 1 {
			s, err := b.start(ctx, b.binary, dataDir, settings{})
			if err != nil {
				return err
			}
			if i > 0 { // the start before ended as this row says
				latencies = append(latencies, s.ready)
			}
			// Something is written, so that the end has something to leave behind.
			id := fmt.Sprintf("%.4s-%d", strings.ReplaceAll(ending.name, " ", "-"), i)
			_, err = s.once(ctx, createNSX(id, ecP256))
			if err := errors.Join(err, ending.end(s)); err != nil {
				return err
			}
		}
		all := samples{latencies: latencies}
		r := figure(fmt.Sprintf("start to ready, %d objects, after %s", b.scale.stored, ending.name), []samples{all})
		r.PerSecond = 0 // they are apart
		b.report.add(r)
		b.report.atMost("start to ready after "+ending.name+": p50", quantile(0.5)(all), 150, "ms")
	}
	return nil
}

// memory measures an idle service.
func memory(ctx context.Context, b *bench) error {
	dataDir, err := b.seeded(ctx, b.scale.stored)
	if err != nil {
		return err
	}
	stored := fmt.Sprintf("idle, %d CSRs stored, ", b.scale.stored)
	for _, state := range []struct {
		name, dataDir string
		kill          bool
		target        float64
	}{
		{stored + "after a clean stop", dataDir, true, 60},
		{stored + "after kill -9", dataDir, false, 60},
		{"idle, full pool", b.dataDir(), false, 45},
	} {
		anonymous, resident, err := b.idleMemory(ctx, state.dataDir, state.kill)
		if err != nil {
			return err
		}
		b.report.add(value(state.name+": anonymous", anonymous, "MB", ""))
		b.report.add(value(state.name+": resident", resident, "MB", "with the pages of the program and of the store's file"))
		b.report.atMost(state.name+": anonymous memory", anonymous, state.target, "MB")
	}
	return nil
}

// idleMemory starts the service with its default pool, and reads its memory when
// the pool is full and nothing has happened for a while.
func (b *bench) idleMemory(ctx context.Context, dataDir string, kill bool) (anonymous, resident float64, err error) {
	s, err := b.start(ctx, b.binary, dataDir, settings{})
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if kill {
			s.kill()
		} else {
			err = errors.Join(err, s.stop())
		}
	}()
	if err := s.waitWarm(ctx, 1); err != nil {
		return 0, 0, err
	}
	// A commit that the end has to deal with.
	if _, err := s.once(ctx, createESX(0)); err != nil {
		return 0, 0, err
	}
	select {
	case <-time.After(b.scale.settle):
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	return s.memory()
}

// sizes measures what is shipped.
func sizes(ctx context.Context, b *bench) error {
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	binary := float64(info.Size()) / 1e6
	b.report.add(value("binary, stripped", binary, "MB", ""))
	b.report.atMost("binary, stripped", binary, 25, "MB")
	image, engine, err := imageSize(ctx)
	if err != nil {
		b.report.add(value("image", 0, "", fmt.Sprintf("not measured (%v); it holds the binary and an empty folder", err)))
		return nil
	}
	b.report.add(value("image attestcsr", image, "MB", "as "+engine+" says; made by \"make image\""))
	b.report.atMost("image", image, 27, "MB")
	return nil
}

// imageSize asks the first container engine that has it for the image that "make
// image" has made, in MB.
func imageSize(ctx context.Context) (size float64, engine string, err error) {
	for _, engine := range []string{"docker", "podman"} {
		if _, err := exec.LookPath(engine); err != nil {
			continue
		}
		// An engine that is not running, or that another one built the image with.
		out, err := exec.CommandContext(ctx, engine, "image", "inspect", "--format", "{{.Size}}", "attestcsr").Output() //nolint:gosec // one of two
		if err != nil {
			continue
		}
		bytes, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		return bytes / 1e6, engine, err
	}
	return 0, "", errors.New("no docker and no podman that has an image attestcsr: \"make image\" makes it")
}

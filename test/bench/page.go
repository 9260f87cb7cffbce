package main

import (
	"context"
	"net/http"
	"regexp"
	"slices"
)

// page counts what a browser fetches for the first view of the page: the page, what it
// names, and the state. Assets come compressed, as browsers ask for them.
func page(ctx context.Context, b *bench) error {
	s, err := b.startSeeded(ctx, 0, 1)
	if err != nil {
		return err
	}
	header := basic()
	header.Set("Accept-Encoding", "gzip")
	browser := s.clients(1, header)[0]
	html, err := s.once(ctx, call{"GET", "/", "", http.StatusOK})
	if err != nil {
		return err
	}
	named := regexp.MustCompile(`/assets/[\w.-]+`).FindAllString(string(html), -1)
	slices.Sort(named)
	paths, size := append([]string{"/", "/console/state"}, slices.Compact(named)...), 0
	for _, path := range paths {
		body, err := browser.do(ctx, call{"GET", path, "", http.StatusOK})
		if err != nil {
			return err
		}
		size += len(body)
	}
	b.report.atMost(6, row{What: "first view of the page: requests", Value: float64(len(paths))})
	b.report.atMost(150, row{What: "first view of the page, compressed", Value: float64(size) / 1000, Unit: "kB"})
	return nil
}

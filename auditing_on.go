//go:build !bench

package main

// auditing: the trail cannot be turned off. Only a binary that was built with the
// tag "bench", to be measured against itself, may be without.
func auditing() bool { return true }

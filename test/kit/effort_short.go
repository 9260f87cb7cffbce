//go:build !soak

package kit

const soak = false

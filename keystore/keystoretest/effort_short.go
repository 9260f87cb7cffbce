//go:build !soak

package keystoretest

const soak = false

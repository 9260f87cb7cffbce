//go:build soak

package keystoretest

const soak = true

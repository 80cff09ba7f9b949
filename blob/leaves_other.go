//go:build !amd64 || purego

package blob

// wideSupported: there is no wide kernel for this architecture, or it was asked to be left out.
func wideSupported() bool { return false }

// leaves16 is not reached.
func leaves16(*[lanes]Hash, *[lanes * BlockSize]byte) { panic("BUG: no wide SHA-256 kernel") }

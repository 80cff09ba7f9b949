// Package rafstest writes Nydus images (RAFS v6) for tests, from the published format: bootstrap, blobs, and the layer
// that holds the bootstrap.
//
// # Place
//
// Beside image/rafs; tests only.
//
// # Goroutines
//
// None.
//
// # Locks
//
// None.
//
// # Errors
//
// It panics.
package rafstest

// Package pantala is the root of the repository. It holds no code, only the tests that keep the house in
// order: layers_test.go checks import layers, the fence around third-party modules, folder names and the shape
// of package comments. The program is cmd/pantala.
//
// # Place
//
// Outside the read path; ARCHITECTURE.md follows one read through the folders below. Nothing imports it.
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
// None.
package pantala

// Package registrytest has registries for tests: [Start] runs a real one (Debian's docker-registry), [New] is one in
// memory that does what a test orders, and [Tokens] is a token server for both.
//
// # Place
//
// Used by the tests of origin/registry, and of what is built on it.
//
// # Goroutines
//
// Those of httptest.Server, and one that waits for the real registry; both end with the test.
//
// # Locks
//
// Server.mu and Tokens.mu guard what their comments say and are never held across I/O.
//
// # Errors
//
// Trouble of the helper itself fails the test.
package registrytest

// Package origintest is a scriptable HTTP origin for tests: it serves one object correctly, or with the
// faults that a test orders, and counts what it is asked for. [Sink] is the other end of a Fetch.
//
// # Place
//
// Used by the tests of origin, fetch, node and bench only.
//
// # Goroutines
//
// Those of httptest.Server; [Server.Close] ends the stalled ones and waits for all.
//
// # Locks
//
// Server.mu and Sink.mu guard what their comments say and are never held across I/O.
//
// # Errors
//
// Trouble of the helper itself fails the test.
package origintest

// Package e2e does to pantala what its users and their bad days do to it, and looks at the outcome from outside:
// the real binary, real nginx, real kernels, real processes that are killed. It has tests only.
//
//	go test ./e2e/               256 MiB files, ten kills
//	go test ./e2e/ -full         1 GiB files, fifty kills (also E2E_FULL=1)
//	E2E_RACE=1 go test ./e2e/    a node that is built with the race detector
//
// # Place
//
// Above everything. Each test shows one promise of docs/semantics.md; e2e/e2etest holds the parts.
//
// # Goroutines
//
// Those of e2etest. Tests start none of their own.
//
// # Locks
//
// None.
//
// # Errors
//
// Wrong bytes, a hang, a mount or a process left behind fail a test wherever they show. Times are compared only
// where the promise is a time: 1 s for the end of a killed reader, 30 s ± 1 s for the error of a read that nobody
// can serve.
package e2e

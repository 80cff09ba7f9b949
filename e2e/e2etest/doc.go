// Package e2etest starts the real parts that a system test of pantala needs, and takes them away again: the
// pantala binary (built once, CGO off), nginx, trackers, nodes, readers of a mount, cgroups, and two proxies
// that make one node lie to the others.
//
// # Place
//
// Above everything: e2e and bench use it, it uses only what a user has, the command line and the files that
// it documents. It imports nothing of pantala.
//
// A process that waits for a mount can hang for as long as the file system that it waits for. Therefore the
// test process itself never opens, stats or lists anything below a mount point: readers are child processes
// (programs, or the test binary started again with a role, see [Main]) under a time limit, and mount points
// are looked up in /proc/self/mountinfo.
//
// # Goroutines
//
// One per child process that waits for it, ended by the child's end; one per proxied connection, ended by
// closing the proxy. [World]'s cleanup waits for all of them.
//
// # Locks
//
// World.mu guards the list of what is to be closed; it is never held while something is closed.
//
// # Errors
//
// What fails in the test's surroundings ends the test with Fatal and says what to install or to look at. What a
// part under test leaves behind (a mount, a process) is an error of the test.
package e2etest

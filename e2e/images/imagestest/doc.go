// Package imagestest has the parts that a test with container images needs beside those of e2etest: images made of
// nothing but this code and a static busybox, docker-registry, and containerd, Debian's or a 2.x of which
// CONTAINERD2_BIN names the folder (make containerd2 builds one).
//
// # Place
//
// Test support above everything, beside e2e/e2etest, whose World starts and ends all of it. containerd is configured by
// `pantala setup containerd`, so that is tested with everything else.
//
// # Goroutines
//
// Those of e2etest and of containerd's client.
//
// # Locks
//
// None.
//
// # Errors
//
// What fails in the surroundings ends the test with Fatal; what a test is about is returned.
package imagestest

// Package images boots container images through pantala, as their users do: a real registry, a real containerd that
// `pantala setup containerd` has configured, real containers. It has tests only.
//
//	go test ./e2e/images/                              Debian's containerd (1.6)
//	CONTAINERD2_BIN=DIR go test ./e2e/images/          and a 2.x whose programs are in DIR (make containerd2)
//
// # Place
//
// Above everything, beside e2e; e2e/images/imagestest holds the parts.
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
// A machine that cannot run containers skips, and fails where CI=true. What is left behind (a mount, a process, a
// snapshot) fails a test.
package images

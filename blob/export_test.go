package blob

import "testing"

// Wide reports whether Leaves uses the wide kernel.
func Wide() bool { return wide }

// Narrow makes Leaves do without the wide kernel until the test ends.
func Narrow(tb testing.TB) {
	was := wide
	wide = false
	tb.Cleanup(func() { wide = was })
}

package fs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPosix runs the one test of go-fuse's POSIX suite that writes nothing; the others begin by creating files.
func TestPosix(t *testing.T) {
	m := serve(t, setup{hold: true})
	posixtest.All["ReadDirConsistency"](t, m.dir)
}

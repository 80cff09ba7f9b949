package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
)

// Exit codes, as in docs/semantics.md.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2   // the command line, the configuration, a URL
	exitNotFound    = 3   // the origin or the cache has no such thing
	exitDenied      = 4   // the origin wants other credentials
	exitTemporary   = 5   // nobody delivered in time, or the object changed meanwhile: trying again may help
	exitIntegrity   = 6   // bytes do not match their digest
	exitLocal       = 7   // this machine: the directory, the port, the disk, FUSE
	exitInterrupted = 130 // 128 + SIGINT, as shells do
)

// usageError is a command line that says what it cannot mean.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitCode is the one table from error classes to exit codes. The order counts: an error of this machine
// may wrap another class.
func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, control.ErrLocal), errors.Is(err, blob.ErrNoSpace):
		return exitLocal
	case errors.Is(err, blob.ErrNotFound):
		return exitNotFound
	case errors.Is(err, blob.ErrDenied):
		return exitDenied
	case errors.Is(err, blob.ErrCorrupt):
		return exitIntegrity
	case errors.Is(err, blob.ErrUnavailable), errors.Is(err, blob.ErrChanged), errors.Is(err, blob.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return exitTemporary
	case errors.Is(err, blob.ErrInvalid):
		return exitUsage
	}
	return exitOther
}

// Exit codes of mount(8).
const (
	mountUsage       = 1  // incorrect invocation or permissions
	mountSystem      = 2  // system error: no FUSE, no memory
	mountBug         = 4  // internal bug
	mountInterrupted = 8  // user interrupt
	mountFailure     = 32 // mount failure
)

// mountCode is the exit code of mount.pantala.
func mountCode(err error) int {
	switch code := exitCode(err); {
	case code == exitOK:
		return 0
	case code == exitUsage:
		return mountUsage
	case code == exitInterrupted:
		return mountInterrupted
	case strings.Contains(err.Error(), "BUG:"):
		return mountBug
	case code == exitLocal && len(fs.Prerequisites()) > 0:
		return mountSystem
	}
	return mountFailure
}

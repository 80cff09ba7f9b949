package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/pantala/pantala/blob"
)

// ErrLocal is the class of trouble that is this machine's own: a directory, a port, the disk, FUSE.
var ErrLocal = errors.New("local")

// ErrNoDaemon says that nobody answers at the control socket.
var ErrNoDaemon = errors.New("no pantala daemon runs")

// ErrBroke marks an exchange that began and did not end: the daemon was just stopping, or it died.
var ErrBroke = errors.New("broke off")

// Local gives err the class ErrLocal and leaves its text. nil stays nil.
func Local(err error) error {
	if err == nil || errors.Is(err, ErrLocal) {
		return err
	}
	return local{err}
}

type local struct{ error }

func (l local) Unwrap() error        { return l.error }
func (l local) Is(target error) bool { return target == ErrLocal }

// classes are the errors that survive the socket, each with its word. The order decides which of several
// classes of one error is kept.
var classes = []struct {
	word string
	err  error
}{
	{"local", ErrLocal},
	{"not-found", blob.ErrNotFound},
	{"denied", blob.ErrDenied},
	{"corrupt", blob.ErrCorrupt},
	{"changed", blob.ErrChanged},
	{"no-space", blob.ErrNoSpace},
	{"invalid", blob.ErrInvalid},
	{"unavailable", blob.ErrUnavailable},
	{"closed", blob.ErrClosed},
	{"absent", blob.ErrAbsent},
	{"deadline", context.DeadlineExceeded},
	{"canceled", context.Canceled},
}

// Class is the word of the first class that err has, "" when it has none.
func Class(err error) string {
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.word
		}
	}
	return ""
}

// Fault is an error as it crosses the socket, or a pipe between two processes of ours.
type Fault struct {
	Class string `json:"class,omitempty"`
	Text  string `json:"error"`
}

// FaultOf is err ready to be sent.
func FaultOf(err error) *Fault { return &Fault{Class(err), err.Error()} }

// Error is the text that the other side wrote.
func (f *Fault) Error() string { return f.Text }

// Is reports whether target is the class of f.
func (f *Fault) Is(target error) bool {
	for _, c := range classes {
		if c.word == f.Class {
			return c.err == target
		}
	}
	return false
}

// Check refuses what cannot have come from [FaultOf].
func (f *Fault) Check() error {
	if f.Text == "" {
		return fmt.Errorf("%w answer: an error without a text", blob.ErrInvalid)
	}
	return nil
}

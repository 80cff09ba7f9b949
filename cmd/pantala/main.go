// Command pantala mounts remote blobs as local paths and shares them with other machines.
//
// # Place
//
// At the very top: it reads flags, asks the daemon over the control socket or builds a node itself, and turns
// errors into one line and an exit code. A file per subcommand.
//
// # Goroutines
//
// One that waits for signals, which main owns.
//
// # Locks
//
// None; two processes exclude each other by the flock of start.lock in the state directory (spawn.go).
//
// # Errors
//
// exit.go maps the classes of blob and control to exit codes, in one place.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// app is what every subcommand is given.
type app struct {
	stdout, stderr io.Writer
	env            []string
	uid            int
	reloads        atomic.Bool // SIGHUP means to read files again, not to end
}

// run does what the command line says and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, env: os.Environ(), uid: os.Geteuid()}
	ctx, stop := untilSignal(context.Background(), &a.reloads)
	defer stop()
	if filepath.Base(args[0]) == "mount.pantala" {
		return a.mountHelper(ctx, args[1:])
	}
	root := a.root()
	root.SetArgs(args[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.complain(err)
	}
	return exitCode(err)
}

// complain prints an error as one line.
func (a *app) complain(err error) {
	fmt.Fprintf(a.stderr, "pantala: %s\n", oneLine(err.Error()))
}

// warn prints what the user should know though the command goes on.
func (a *app) warn(warnings ...string) {
	for _, w := range warnings {
		fmt.Fprintf(a.stderr, "pantala: warning: %s\n", oneLine(w))
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// errInterrupted is why a context ended: the user, or the system, sent a signal.
var errInterrupted = errors.New("interrupted")

// untilSignal returns a context that ends at the first SIGINT, SIGTERM or SIGHUP. The second one ends the
// process at once. While reloads is set SIGHUP is somebody else's.
func untilSignal(ctx context.Context, reloads *atomic.Bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals, done := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup(1)
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		defer close(done)
		for first := true; ; {
			s, ok := <-signals
			if !ok {
				return
			}
			if s == syscall.SIGHUP && reloads.Load() {
				continue
			}
			if !first {
				os.Exit(exitInterrupted)
			}
			cancel(errInterrupted)
			first = false
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		<-done
		cancel(nil)
	}
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
)

// Files of a state directory beside the cache and the socket.
const (
	pidName    = "daemon.pid"
	logName    = "daemon.log"
	daemonLock = "daemon.lock" // held by the daemon for life
	startLock  = "start.lock"  // held by a command while it starts one
)

const (
	// startTimeout bounds the start of a daemon, which takes some 20 ms; a large cache after a power loss is
	// checked again while starting.
	startTimeout = time.Minute
	// idleTime is how long a daemon that a command has started lives without mounts and shares.
	idleTime = 30 * time.Second
	// lockEvery is how often a lock that somebody else holds is tried again.
	lockEvery = 5 * time.Millisecond
	// maxLog is how long daemon.log may be before it is put aside, in bytes.
	maxLog = 8 << 20
)

const (
	// leaveFor bounds how long a daemon that is stopping is waited for: it takes up to stopTimeout for answers
	// under way and busy mounts, then cuts off who still reads.
	leaveFor = 4 * stopTimeout
	// leaveEvery is how often it is looked at.
	leaveEvery = 50 * time.Millisecond
	// maxBroken is how many exchanges may break off. One is what a daemon leaves that was just stopping; if a
	// request kills every daemon it is sent to, that has to come to an end.
	maxBroken = 3
)

// withDaemon calls f with a client of the daemon, after starting one when none runs. When f fails, a daemon
// that was started for it is stopped again. A daemon that is just stopping is waited for, and the next one
// started.
func (a *app) withDaemon(ctx context.Context, c config.Config, f func(*control.Client) error) error {
	client := control.NewClient(c.State)
	err := f(client)
	broken := 0
	for begun := time.Now(); ; {
		switch {
		case errors.Is(err, control.ErrNoDaemon), errors.Is(err, blob.ErrClosed):
		case errors.Is(err, control.ErrBroke) && broken < maxBroken:
			broken++
		default:
			return err
		}
		if time.Since(begun) > leaveFor {
			return err
		}
		started, serr := startDaemon(ctx, c)
		if serr != nil {
			return serr
		}
		if started == nil {
			// Somebody answers: another command has started it, or it is still stopping.
			select {
			case <-time.After(leaveEvery):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			err = f(client)
			continue
		}
		if err = f(client); err == nil {
			return started.Process.Release()
		}
		stopStarted(client, started)
	}
}

// stopAgain is how often, and stopFor how long, a daemon is asked to stop that still has something to do: the
// request that we gave up ends there a moment later than here.
const (
	stopAgain = 10 * time.Millisecond
	stopFor   = time.Second
)

// stopStarted stops a daemon that has nothing to do and waits until it is gone. When somebody else has given
// it work meanwhile it stays.
func stopStarted(client *control.Client, started *exec.Cmd) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for begun := time.Now(); ; time.Sleep(stopAgain) {
		stopping, err := client.Stop(ctx, true)
		if err == nil && stopping {
			break
		}
		if err != nil || time.Since(begun) > stopFor {
			started.Process.Release()
			return
		}
	}
	kill := time.AfterFunc(2*stopTimeout, func() { started.Process.Kill() })
	started.Wait()
	kill.Stop()
}

// startDaemon starts a daemon in the background and returns when it answers; nil, when somebody else has
// started one meanwhile.
func startDaemon(ctx context.Context, c config.Config) (*exec.Cmd, error) {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w: make it writable, or name another one with --state", err))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, control.Local(fmt.Errorf("the daemon did not start within %v: see %s", startTimeout, filepath.Join(c.State, logName))))
	defer cancel()
	start, err := waitLock(ctx, filepath.Join(c.State, startLock), nil)
	if err != nil {
		return nil, err
	}
	defer start.Close()
	// One that is stopping still holds its lock; one that answers makes another unnecessary.
	alive := func() bool {
		_, err := control.NewClient(c.State).Status(ctx)
		return err == nil
	}
	if alive() {
		return nil, nil
	}
	life, err := waitLock(ctx, filepath.Join(c.State, daemonLock), alive)
	if err != nil || life == nil {
		return nil, err
	}
	life.Close()
	return spawn(ctx, c)
}

// waitLock takes the flock of path. It gives up, and returns nil, when enough says so.
func waitLock(ctx context.Context, path string, enough func() bool) (*os.File, error) {
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		f, err := lock(path)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, control.Local(fmt.Errorf("state directory: %w: make it writable, or name another one with --state", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if enough != nil && enough() {
			return nil, nil
		}
	}
}

// spawn runs this program again as a daemon and waits until it says, over a pipe, that it is ready or why not.
func spawn(ctx context.Context, c config.Config) (*exec.Cmd, error) {
	log, err := openLog(filepath.Join(c.State, logName))
	if err != nil {
		return nil, control.Local(err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, control.Local(err)
	}
	defer ready.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe", // also when the file has been replaced since
		Args:        append([]string{"pantala", "daemon", "--background"}, daemonArgs(c)...),
		Dir:         "/",
		Stdout:      log,
		Stderr:      log,
		ExtraFiles:  []*os.File{theirs},                 // descriptor 3
		SysProcAttr: &syscall.SysProcAttr{Setsid: true}, // out of reach of this terminal's signals
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, control.Local(fmt.Errorf("starting the daemon: %w", err))
	}
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Now()) })
	defer stop()
	line, _ := bufio.NewReader(ready).ReadBytes('\n')
	var said readiness
	switch err := json.Unmarshal(line, &said); {
	case err == nil && said.Ready:
		return cmd, nil
	case err == nil && said.Fault != nil && said.Fault.Check() == nil:
		cmd.Wait()
		return nil, said.Fault
	case ctx.Err() != nil:
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(2*stopTimeout, func() { cmd.Process.Kill() })
		cmd.Wait()
		kill.Stop()
		return nil, context.Cause(ctx)
	default:
		err := cmd.Wait()
		return nil, control.Local(fmt.Errorf("the daemon ended while starting (%v): see %s", err, log.Name()))
	}
}

// readiness is the line that a daemon writes to the one who started it.
type readiness struct {
	Ready bool           `json:"ready,omitempty"`
	Fault *control.Fault `json:"fault,omitempty"`
}

// daemonArgs hand the settings of a whole node to the daemon. Secrets are no such settings: they travel in
// requests, and never stand on a command line.
func daemonArgs(c config.Config) []string {
	args := []string{
		"--state=" + c.State,
		"--tracker=" + strings.Join(c.Trackers, ","),
		"--log-level=" + strings.ToLower(c.LogLevel.String()),
	}
	for key, value := range c.Whole() {
		args = append(args, "--"+key+"="+value)
	}
	if c.CACert != "" {
		if abs, err := filepath.Abs(c.CACert); err == nil {
			args = append(args, "--cacert="+abs)
		}
	}
	if f := c.File(); f != "" {
		args = append(args, "--config="+f)
	}
	return args
}

// openLog opens daemon.log for appending; one that has grown long is put aside.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

package e2etest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is a child process to be.
type Command struct {
	Args   []string
	Env    []string // added to the test's own
	Stdin  *os.File
	Stdout *os.File // nil: kept for Result
	UID    int      // user and group; 0: the test's own
	Cgroup *Cgroup  // nil: the test's own
	Host   *Host    // whose network it uses; nil: the test's own
}

// Result is how a child ended.
type Result struct {
	Args           []string
	Code           int            // exit code, -1 when a signal ended it
	Signal         syscall.Signal // 0 when it exited by itself
	Stdout, Stderr string
	Took           time.Duration
	CPU            time.Duration // user and system time of the child and of what it waited for
	TimedOut       bool          // it had to be killed
}

// String is the command, its end and what it said on stderr.
func (r Result) String() string {
	end := "exit " + itoa(r.Code)
	switch {
	case r.TimedOut:
		end = "killed after its time limit"
	case r.Signal != 0:
		end = "signal " + r.Signal.String()
	}
	return strings.Join(r.Args, " ") + ": " + end + " after " + r.Took.Round(time.Millisecond).String() + "\nstdout: " + r.Stdout + "\nstderr: " + r.Stderr
}

// Process is a child of the test.
type Process struct {
	w       *World
	cmd     *exec.Cmd
	args    []string
	started time.Time
	out     lockedBuffer
	err     lockedBuffer
	done    chan struct{}
	ended   time.Time
	waitErr error
}

// lockedBuffer may be read while the child still writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start starts a child in its own process group.
func (w *World) Start(c Command) *Process {
	w.T.Helper()
	args := c.Args
	if c.Host != nil {
		args = c.Host.command(args)
	}
	if c.Cgroup != nil {
		// The shell enters the group before it becomes the program, so all of the program's life counts.
		args = append([]string{"sh", "-c", `echo $$ >"$0" && exec "$@"`, c.Cgroup.procs()}, args...)
	}
	p := &Process{w: w, cmd: exec.Command(args[0], args[1:]...), args: c.Args, done: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), markEnv+"="+w.Root), c.Env...)
	p.cmd.Stderr = &p.err
	p.cmd.Stdout = &p.out
	if c.Stdout != nil {
		p.cmd.Stdout = c.Stdout
	}
	if c.Stdin != nil {
		p.cmd.Stdin = c.Stdin
	}
	p.cmd.Dir = "/"
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.UID != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.UID)}
	}
	// A program that has ended while somebody else holds its stdout or stderr is reported, see Wait.
	p.cmd.WaitDelay = 2 * time.Second
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		w.T.Fatalf("starting %s: %v", strings.Join(c.Args, " "), err)
	}
	w.children.Add(1)
	go func() {
		defer w.children.Done()
		p.waitErr = p.cmd.Wait()
		p.ended = time.Now()
		close(p.done)
	}()
	return p
}

// PID is the id of the child.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// EndedAt is when the child ended; only after [Process.Done].
func (p *Process) EndedAt() time.Time { return p.ended }

// Ended reports whether the child has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Output is what the child has said so far on stdout and stderr.
func (p *Process) Output() string { return p.out.String() + p.err.String() }

// Signal sends sig to the child alone.
func (p *Process) Signal(sig syscall.Signal) { p.cmd.Process.Signal(sig) }

// kill sends SIGKILL to the child's group and waits for its end; mounts of the World are aborted when it is
// stuck in one of them.
func (p *Process) kill() bool {
	syscall.Kill(-p.PID(), syscall.SIGKILL)
	select {
	case <-p.done:
		return true
	case <-time.After(5 * time.Second):
	}
	for _, m := range MountsBelow(p.w.Root) {
		ForceUnmount(m.Dir)
	}
	select {
	case <-p.done:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

// Wait waits for the end of the child and kills it when limit has passed since now.
func (p *Process) Wait(limit time.Duration) Result {
	p.w.T.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	r := Result{Args: p.args}
	select {
	case <-p.done:
	case <-timer.C:
		r.TimedOut = true
		if !p.kill() {
			p.w.T.Fatalf("%s (pid %d) survives SIGKILL and the abort of every mount of this test", strings.Join(p.args, " "), p.PID())
		}
	}
	r.Stdout, r.Stderr = p.out.String(), p.err.String()
	r.Took = p.ended.Sub(p.started)
	state := p.cmd.ProcessState
	r.Code = state.ExitCode()
	r.CPU = state.UserTime() + state.SystemTime()
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.Signal = ws.Signal()
	}
	if errors.Is(p.waitErr, exec.ErrWaitDelay) {
		p.w.T.Errorf("%s has ended, but something it started still holds its stdout or stderr: a caller that reads them would wait for ever", strings.Join(p.args, " "))
	}
	return r
}

// Run starts a child and waits for it.
func (w *World) Run(limit time.Duration, args ...string) Result {
	w.T.Helper()
	return w.Start(Command{Args: args}).Wait(limit)
}

// MustRun is [World.Run] for a child that has to succeed.
func (w *World) MustRun(limit time.Duration, args ...string) Result {
	w.T.Helper()
	r := w.Run(limit, args...)
	if r.Code != 0 {
		w.T.Fatalf("%v", r)
	}
	return r
}

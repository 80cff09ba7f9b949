package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/node"
)

// serving is a node with its control socket in this process.
type serving struct {
	node   *node.Node
	server *control.Server
	lock   *os.File // daemon.lock, held for life
	pid    string   // path of daemon.pid
	log    *slog.Logger
}

type serveOptions struct {
	log  *slog.Logger
	idle time.Duration // how long to live without mounts and shares; 0 = for ever
}

// memoryBeside is what a node needs beside its transfer buffers, in bytes: about 20 MiB of code and tables
// that are resident, 512 KiB per mebi-block of bitmaps and leaves, and room for the garbage collector to let
// the heap grow before it works harder. It keeps a node with default buffers below 256 MiB.
const memoryBeside = 96 << 20

// startServing locks the state directory, builds a node, and opens its control socket.
func (a *app) startServing(c config.Config, o serveOptions) (_ *serving, err error) {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w: make it writable, or name another one with --state", err))
	}
	s := &serving{pid: filepath.Join(c.State, pidName), log: o.log}
	if s.lock, err = lock(filepath.Join(c.State, daemonLock)); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := os.ReadFile(s.pid)
			return nil, control.Local(fmt.Errorf("a daemon (pid %s) already runs in %s: use it (leave out -f), stop it (pantala daemon --stop), or name another --state", oneLine(string(pid)), c.State))
		}
		return nil, control.Local(fmt.Errorf("state directory: %w: make it writable, or name another one with --state", err))
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(c.Memory + memoryBeside)
	}
	if s.node, err = node.New(c, node.Options{Version: version(), Log: o.log, Idle: o.idle, KeepFuse: []string{"/proc/self/exe", keepFuseName}}); err != nil {
		return nil, err
	}
	if c.Snapshotter != "" {
		if err = s.node.ServeSnapshotter(c.Snapshotter); err != nil {
			return nil, err
		}
	}
	if s.server, err = control.Serve(c.State, s.node, o.log); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.pid, fmt.Appendln(nil, os.Getpid()), 0o600); err != nil {
		return nil, control.Local(fmt.Errorf("state directory: %w", err))
	}
	// The daemon must not keep a directory busy, least of all one that is mounted over later.
	if err := os.Chdir("/"); err != nil {
		return nil, control.Local(err)
	}
	return s, nil
}

// stopTimeout is how long stopping may be polite: answers under way and busy mounts.
const stopTimeout = 5 * time.Second

// wait serves until a signal comes or the node ends by itself, then stops everything in reverse order.
func (s *serving) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		s.log.Info("stopping", "why", context.Cause(ctx))
	case <-s.node.Done():
	}
	return s.close()
}

// close stops what has been started.
func (s *serving) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	if s.server != nil {
		quick, cancel := context.WithTimeout(ctx, time.Second)
		s.server.Close(quick) // answers that take longer are cut off, which is what their askers are told
		cancel()
	}
	if s.node != nil {
		errs = append(errs, s.node.Close(ctx))
	}
	os.Remove(s.pid)
	errs = append(errs, s.lock.Close())
	return control.Local(errors.Join(errs...))
}

// lock takes a flock(2) on path without waiting. It is not inherited by programs that this one starts.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

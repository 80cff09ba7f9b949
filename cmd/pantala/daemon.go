package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
)

const daemonLong = `Run the daemon of a --state directory in the foreground: under a service manager, or to see its log.

"pantala mount" and "pantala share" start one in the background when none runs; that one stops by
itself when it has nothing left to do. This one stays until SIGINT or SIGTERM, or
"pantala daemon --stop". It then unmounts everything; who still has a file open two seconds later is
cut off.`

const daemonExample = `  pantala daemon --listen 10.0.0.2:6881 --tracker http://10.0.0.1:7700/announce --quota 200GiB
  pantala daemon --stop`

func (a *app) daemonCommand() *cobra.Command {
	var background, stop bool
	c := &cobra.Command{
		Use:     "daemon",
		Short:   "Run the daemon in the foreground",
		Long:    daemonLong,
		Example: daemonExample,
		GroupID: "run",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			switch {
			case background:
				return a.daemonBehind(c.Context(), conf, err)
			case err != nil:
				return err
			case stop:
				return a.stopDaemon(c.Context(), conf)
			}
			return a.daemonHere(c.Context(), conf)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.String("quota", "", "how much the cache may hold, such as 20GiB; what was not used for longest goes (default no bound)")
	f.String("memory", "", "transfer buffers (default 64MiB)")
	f.String("fill", "", "for mounts that do not say: never, idle or eager (default idle)")
	f.String("snapshotter", "", "serve containerd's snapshotter on this unix socket: see pantala setup containerd")
	addRegistries(f)
	addImageMount(f)
	addPlace(f)
	addLimits(f)
	addDiscovery(f)
	f.String("timeout", "", "for mounts that do not say: how long a read waits (default 30s)")
	f.String("cacert", "", "PEM file of certificates that origins may use besides the system's")
	f.Bool("hard", false, "reads wait for ever instead")
	f.Bool("strict", false, "believe no hash that only a tracker vouches for")
	f.BoolVar(&stop, "stop", false, "stop the daemon that runs in --state, and unmount its mounts")
	f.BoolVar(&background, "background", false, "started by another command: report over descriptor 3")
	f.MarkHidden("background")
	return c
}

// daemonHere runs the daemon for somebody who watches it.
func (a *app) daemonHere(ctx context.Context, c config.Config) error {
	log := a.logger(a.stderr, c.LogLevel)
	s, err := a.startServing(c, serveOptions{log: log})
	if err != nil {
		return err
	}
	st, _ := s.node.Status(ctx)
	log.Info("ready", "pid", st.PID, "state", c.State, "listen", st.Listen)
	return s.wait(ctx)
}

// daemonBehind runs the daemon for a command that waits at the other end of descriptor 3 until it is ready.
func (a *app) daemonBehind(ctx context.Context, c config.Config, err error) error {
	ready := os.NewFile(3, "ready")
	if ready == nil {
		return usagef("--background is for pantala itself: leave it out")
	}
	var s *serving
	if err == nil {
		s, err = a.startServing(c, serveOptions{log: a.logger(a.stderr, c.LogLevel), idle: idleTime})
	}
	said := readiness{Ready: err == nil}
	if err != nil {
		said.Fault = control.FaultOf(err)
	}
	// When nobody reads any more the command was killed; the daemon then stops when it has been idle.
	json.NewEncoder(ready).Encode(said)
	ready.Close()
	if err != nil {
		return err
	}
	return s.wait(ctx)
}

// stopDaemon asks the daemon to stop and waits until it has.
func (a *app) stopDaemon(ctx context.Context, c config.Config) error {
	if _, err := control.NewClient(c.State).Stop(ctx, false); err != nil {
		if errors.Is(err, control.ErrNoDaemon) {
			return fmt.Errorf("%w: %w", blob.ErrNotFound, err)
		}
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 4*stopTimeout, fmt.Errorf("%w: the daemon in %s has not stopped yet: see %s", blob.ErrUnavailable, c.State, filepath.Join(c.State, logName)))
	defer cancel()
	f, err := waitLock(ctx, filepath.Join(c.State, daemonLock), nil)
	if err != nil {
		return err
	}
	return f.Close()
}

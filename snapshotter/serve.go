package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/pantala/pantala/blob"
)

const (
	// stopTime is what calls in flight have to end when Serve is to end. They are short, but for those that wait for an
	// image, which containerd asks for again.
	stopTime = 3 * time.Second

	// remounts is how many trees are mounted at once after a start: each waits for metadata of its layers, seldom for
	// the processor.
	remounts = 4

	// remountTime bounds each of them, so that images that nobody can deliver do not hold up the others. What was not
	// mounted in time is tried again when a container asks for it.
	remountTime = time.Minute
)

// Serve answers containerd on a unix socket until ctx ends. The socket is up before anything is mounted again that
// was mounted before this process started, and an image that cannot be mounted is only logged. A socket that
// somebody answers on is ErrInvalid, one that nobody does is replaced.
func (s *Snapshotter) Serve(ctx context.Context, socket string) error {
	l, err := listen(ctx, socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	helpers.Go(func() {
		<-ctx.Done()
		stop(server)
	})
	helpers.Go(func() { s.remount(ctx) })
	err = server.Serve(l)
	ended := ctx.Err() != nil
	cancel()
	helpers.Wait()
	if ended && (err == nil || errors.Is(err, grpc.ErrServerStopped)) {
		return nil
	}
	return fmt.Errorf("snapshotter on %s: %w", socket, err)
}

// stop ends a server: gracefully within stopTime, else at once.
func stop(server *grpc.Server) {
	hard := time.AfterFunc(stopTime, server.Stop)
	server.GracefulStop()
	hard.Stop()
}

// listen makes the socket, which only root may use.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	var d net.Dialer
	bounded, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	if c, err := d.DialContext(bounded, "unix", socket); err == nil {
		c.Close()
		return nil, fmt.Errorf("%w: somebody answers on %s already: is another pantala daemon running? Choose another --snapshotter", blob.ErrInvalid, socket)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(socket)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o711); err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("snapshotter: %w", err)
	}
	return l, nil
}

// learn reads which snapshots are lazy.
func (s *Snapshotter) learn(ctx context.Context) error {
	err := s.read(ctx, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			l, ok := lazyOf(info.Labels)
			if !ok {
				return nil
			}
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err == nil {
				s.lowers.add(id, l)
			}
			return err
		})
	})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("snapshotter: %s: %w", s.root, err)
	}
	return nil
}

// remount mounts what snapshots hold, first what containers stand on.
func (s *Snapshotter) remount(ctx context.Context) {
	var first, then []chain
	err := s.read(ctx, func(ctx context.Context) error {
		used := map[string]bool{}
		err := storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			if info.Kind == snapshots.KindCommitted {
				return nil
			}
			c, err := chainOf(ctx, info.Parent)
			if err == nil && c.id != "" && !used[c.id] {
				used[c.id] = true
				first = append(first, c)
			}
			return err
		})
		if err != nil {
			return err
		}
		return storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			l, ok := lazyOf(info.Labels)
			if !ok || l.lower == "" {
				return nil
			}
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err == nil && !used[id] {
				then = append(then, chain{name: info.Name, id: id, lazy: l})
			}
			return err
		})
	})
	if err != nil {
		if !errdefs.IsNotFound(err) {
			s.log.Error("which trees to mount again cannot be read: they are mounted when they are asked for", "err", err)
		}
		return
	}
	todo := make(chan chain)
	var workers sync.WaitGroup
	for range remounts {
		workers.Go(func() {
			for c := range todo {
				s.remountOne(ctx, c)
			}
		})
	}
	for _, c := range append(first, then...) {
		select {
		case todo <- c:
		case <-ctx.Done():
		}
	}
	close(todo)
	workers.Wait()
}

func (s *Snapshotter) remountOne(ctx context.Context, c chain) {
	bounded, cancel := context.WithTimeoutCause(ctx, remountTime, fmt.Errorf("%w: not within %v", blob.ErrUnavailable, remountTime))
	defer cancel()
	switch err := s.raise(bounded, &c); {
	case ctx.Err() != nil:
	case errdefs.IsNotFound(err): // removed meanwhile
	case err != nil:
		s.log.Error("image cannot be mounted again yet: tried again when a container asks for it", "image", c.lazy.image.Ref, "manifest", c.lazy.image.Manifest, "err", err)
	default:
		s.log.Debug("mounted again", "image", c.lazy.image.Ref, "dir", c.lazy.lower)
	}
}

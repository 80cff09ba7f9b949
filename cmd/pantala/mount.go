package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
)

const mountLong = `Mount SOURCE at DIR and return as soon as the mount answers; the bytes come when they are read.

SOURCE is an http://, https:// or file:// URL, a magnet: link, a .torrent (a path or URL that ends
so), or a container image, oci://HOST/NAME[:TAG|@DIGEST]. DIR is an empty directory, in which the blob appears under its own name; with --as-file it is a
file, which becomes the blob. The files of a torrent that has several appear below DIR. The path of
the blob, or DIR, is printed.

Of an image, DIR becomes the root file system, read-only or with --rw. Credentials are those of
docker login, mirrors those of /etc/containerd/certs.d.

The work is done by a daemon in the background, one per --state directory. It is started when none
runs, and stops by itself 30 seconds after its last mount is gone. --quota, --memory and --listen
are settings of the daemon: to change them, unmount everything first.`

const mountExample = `  pantala mount https://host/model.bin /mnt/model
  pantala mount -H 'Authorization: Bearer TOKEN' --digest sha256:9f86… https://host/model.bin /mnt/model
  pantala mount --tracker http://10.0.0.1:7700/announce --listen 10.0.0.2:6881 https://host/model.bin /mnt/model
  pantala mount --tracker http://10.0.0.1:7700/announce 'magnet:?xt=urn:btmh:1220…' /mnt/data
  pantala mount --fill never data.torrent /mnt/data
  pantala mount --platform linux/arm64 oci://docker.io/library/python:3.13 /mnt/python
  pantala mount --as-file --fill eager https://host/disk.img ./disk.img
  pantala mount -f -o timeout=5s,strict https://host/model.bin /mnt/model

  # /etc/fstab, with pantala linked to /sbin/mount.pantala:
  https://host/model.bin /mnt/model pantala ro,_netdev,fill=eager 0 0`

// mountFlags are the flags of mount, and the options of -o and fstab.
type mountFlags struct {
	fetchFlags
	asFile        bool
	foreground    bool
	noPassthrough bool
	platform      string
	readWrite     bool
}

func (m *mountFlags) add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.BoolVarP(&m.foreground, "foreground", "f", false, "serve the mount in this process, until it is unmounted or interrupted")
	f.BoolVar(&m.asFile, "as-file", false, "DIR is a file and becomes the blob")
	m.fetchFlags.add(f, true)
	f.Bool("allow-other", false, "other users may read the mount (always on for root)")
	f.BoolVar(&m.noPassthrough, "no-passthrough", false, "answer reads of complete blobs ourselves instead of letting the kernel do it")
	f.StringVar(&m.platform, "platform", "", "of an image: os/arch[/variant] (default this machine's)")
	f.BoolVar(&m.readWrite, "rw", false, "of an image: it can be written to; what was written is gone when it is unmounted")
	addRegistries(f)
	addImageMount(f)
	f.String("quota", "", "how much the cache may hold, such as 20GiB; what was not used for longest goes (default no bound)")
	f.String("memory", "", "transfer buffers of the daemon (default 64MiB)")
}

// request is what the flags ask the node for.
func (m *mountFlags) request(c config.Config, source, dir string) (r control.MountRequest, err error) {
	if err := m.checkDigest(); err != nil {
		return r, err
	}
	if source, err = sourceURL(source); err != nil {
		return r, err
	}
	r = control.MountRequest{Source: source, AsFile: m.asFile, NoPassthrough: !c.Passthrough, Platform: m.platform, ReadWrite: m.readWrite, Expect: expect(c)}
	if c.From("allow-other") != "" {
		r.AllowOther = &c.AllowOther
	}
	if r.Options, err = m.options(c); err != nil {
		return r, err
	}
	r.Dir, err = resolveDir(dir)
	return r, err
}

func (a *app) mountCommand() *cobra.Command {
	m := new(mountFlags)
	var options []string
	c := &cobra.Command{
		Use:     "mount SOURCE DIR",
		Short:   "Mount a remote blob as a local path",
		Long:    mountLong,
		Example: mountExample,
		GroupID: "use",
		Args:    exactly(2, "a SOURCE and a DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			for _, o := range options {
				if err := applyOptions(c.Flags(), o, false); err != nil {
					return err
				}
			}
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			return a.mount(c.Context(), conf, m, args[0], args[1])
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveFilterDirs
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	m.add(c.Flags())
	c.Flags().StringArrayVarP(&options, "options", "o", nil, "the same options in the form of fstab: fill=eager,strict")
	c.RegisterFlagCompletionFunc("fill", cobra.FixedCompletions([]string{"never", "idle", "eager"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// mount mounts in this process or asks the daemon, and prints the path of the blob.
func (a *app) mount(ctx context.Context, c config.Config, m *mountFlags, source, dir string) error {
	r, err := m.request(c, source, dir)
	if err != nil {
		return err
	}
	a.askingPeers(r.Source)
	if m.foreground {
		return a.mountHere(ctx, c, r)
	}
	reply, err := a.mountByDaemon(ctx, c, r)
	if err != nil {
		return err
	}
	a.mounted(reply)
	return nil
}

// mounted tells what was mounted: the path on stdout for programs, the rest on stderr for people.
func (a *app) mounted(r control.MountReply) {
	a.warn(r.Warnings...)
	fmt.Fprintln(a.stdout, r.Path)
	if f, ok := a.stderr.(*os.File); ok && isTerminal(f) {
		what := "mounted"
		if r.Files > 0 {
			what = fmt.Sprintf("mounted %d files", r.Files)
		}
		fmt.Fprintf(a.stderr, "pantala: "+what+", %s, of which %s are here\n", humanize.IBytes(uint64(r.Size)), humanize.IBytes(uint64(r.Present)))
	}
}

// mountByDaemon asks the daemon, after starting one when none runs.
func (a *app) mountByDaemon(ctx context.Context, c config.Config, r control.MountRequest) (reply control.MountReply, err error) {
	err = a.withDaemon(ctx, c, func(client *control.Client) error {
		reply, err = client.Mount(ctx, r)
		return err
	})
	return reply, err
}

// mountHere serves the mount in this process.
func (a *app) mountHere(ctx context.Context, c config.Config, r control.MountRequest) error {
	s, err := a.startServing(c, serveOptions{log: a.logger(a.stderr, c.LogLevel)})
	if err != nil {
		return err
	}
	reply, err := s.node.Mount(ctx, r)
	if err != nil {
		s.close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	a.mounted(reply)
	s.node.StopWhenIdle(time.Millisecond) // when it is unmounted there is nothing left to do
	return s.wait(ctx)
}

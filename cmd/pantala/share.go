package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/node"
)

const shareLong = `Let others fetch a local file, or an object that is behind a URL, from this machine.

A PATH is shared in place: it is read once to compute its digest, and must not be changed while it is
shared. A URL is downloaded into the cache, from peers where they have it, and kept.

The link that is printed can be given to "pantala mount" and "pantala get" on other machines, and to
BitTorrent clients. The daemon serves until "pantala share --stop", or until it is stopped.`

const shareExample = `  pantala share --listen 10.0.0.2:6881 ./model.bin
  pantala share --tracker http://10.0.0.1:7700/announce --listen 10.0.0.2:6881 https://host/model.bin
  pantala share --stop ./model.bin`

func (a *app) shareCommand() *cobra.Command {
	fl := new(fetchFlags)
	var stop, noWait, quiet bool
	out := "table"
	c := &cobra.Command{
		Use:     "share PATH|URL",
		Short:   "Share a local file or a URL with other machines",
		Long:    shareLong,
		Example: shareExample,
		GroupID: "use",
		Args:    exactly(1, "a PATH or a URL"),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			r, err := shareRequest(conf, fl, args[0])
			if err != nil {
				return err
			}
			r.NoWait = noWait
			if stop {
				return unshare(c.Context(), conf, r)
			}
			return a.share(c.Context(), conf, r, quiet, out == "json")
		},
	}
	f := c.Flags()
	fl.add(f, false)
	f.BoolVar(&stop, "stop", false, "share it no longer")
	f.BoolVar(&noWait, "no-wait", false, "URL: return at once, not when it is complete")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	f.String("quota", "", "how much the cache may hold, such as 20GiB (default no bound)")
	f.String("memory", "", "transfer buffers of the daemon (default 64MiB)")
	output(c, &out)
	return c
}

// shareRequest tells paths from URLs.
func shareRequest(c config.Config, fl *fetchFlags, what string) (r control.ShareRequest, err error) {
	if err := fl.checkDigest(); err != nil {
		return r, err
	}
	if r.Options, err = fl.options(c); err != nil {
		return r, err
	}
	r.Expect = expect(c)
	if node.IsMagnet(what) || strings.Contains(what, "://") && !strings.HasPrefix(what, "file://") {
		r.URL = what
		return r, nil
	}
	path, err := filepath.Abs(strings.TrimPrefix(what, "file://"))
	if err != nil {
		return r, control.Local(err)
	}
	// The daemon must not follow a link onto a mount of its own: this process, which serves none, does.
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, control.Local(fmt.Errorf("share: %s does not exist: name a file or a URL", what))
	}
	if err != nil {
		return r, control.Local(fmt.Errorf("share: %w", err))
	}
	r.Path = resolved
	return r, nil
}

func (a *app) share(ctx context.Context, c config.Config, r control.ShareRequest, quiet, asJSON bool) error {
	name := filepath.Base(r.Path)
	if r.Path == "" {
		name = nameOf(r.URL)
	}
	bar := a.progress(name, quiet)
	defer bar.stop()
	var reply control.ShareReply
	err := a.withDaemon(ctx, c, func(client *control.Client) (err error) {
		reply, err = client.Share(ctx, r, bar.update)
		return err
	})
	bar.stop()
	if err != nil {
		return err
	}
	a.warn(reply.Warnings...)
	if asJSON {
		return a.json(reply)
	}
	if reply.Digest == "" {
		fmt.Fprintf(a.stdout, "sharing  %s\nmount    pantala mount %s DIR\n", reply.Name, quote(reply.Source))
		return nil
	}
	fmt.Fprintf(a.stdout, "digest   %s\n", reply.Digest)
	if reply.Magnet != "" {
		fmt.Fprintf(a.stdout, "magnet   %s\n", reply.Magnet)
	}
	fmt.Fprintf(a.stdout, "mount    pantala mount %s DIR\n", quote(reply.Source))
	return nil
}

// quote makes a word for the shell of something without single quotes.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "%27") + "'" }

func unshare(ctx context.Context, c config.Config, r control.ShareRequest) error {
	name := r.URL
	if r.Path != "" {
		name = r.Path
	}
	err := control.NewClient(c.State).Unshare(ctx, name)
	if errors.Is(err, control.ErrNoDaemon) {
		return fmt.Errorf("%w: %w: nothing is shared", blob.ErrNotFound, err)
	}
	return err
}

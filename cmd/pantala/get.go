package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/node"
)

const getLong = `Download SOURCE to a file, from peers where they have it. No daemon and no FUSE are needed.

SOURCE is a URL, a magnet: link, or a .torrent (a path or URL that ends so). A torrent of several files
becomes a directory, which must not be there yet, or be empty.

Bytes go to a folder .FILE.pantala beside FILE; FILE appears when it is complete and its --digest, if one
was given, is right. What an interrupted download has left is used again with -c; without it, the
download starts anew. A file that is called FILE already is replaced at the very end.`

const getExample = `  pantala get https://host/model.bin
  pantala get -c -O models/m.bin --digest sha256:9f86… https://host/model.bin
  pantala get --tracker http://10.0.0.1:7700/announce --listen 10.0.0.2:6881 https://host/model.bin
  pantala get -c -O data data.torrent
  pantala get --limit-rate 20MB -O - https://host/src.tar | tar x`

type getFlags struct {
	fetchFlags
	output string
	resume bool
	quiet  bool
}

func (a *app) getCommand() *cobra.Command {
	g := new(getFlags)
	c := &cobra.Command{
		Use:     "get SOURCE",
		Short:   "Download a blob to a file, as wget would",
		Long:    getLong,
		Example: getExample,
		GroupID: "use",
		Args:    exactly(1, "a SOURCE"),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			return a.get(c.Context(), conf, g, args[0])
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&g.output, "output", "O", "", "file or directory to write, - for standard output (default the last part of the URL, or the torrent's name)")
	f.BoolVarP(&g.resume, "continue", "c", false, "go on where an earlier download stopped")
	g.fetchFlags.add(f, false)
	f.String("memory", "", "transfer buffers (default 64MiB)")
	f.BoolVarP(&g.quiet, "quiet", "q", false, "say nothing but errors")
	return c
}

// get is one download: a node of its own in the part folder.
func (a *app) get(ctx context.Context, c config.Config, g *getFlags, source string) error {
	if err := g.checkDigest(); err != nil {
		return err
	}
	o, err := g.options(c)
	if err != nil {
		return err
	}
	if source, err = sourceURL(source); err != nil {
		return err
	}
	p, err := newPart(g, source)
	if err != nil {
		return err
	}
	t := &transfer{app: a, flags: g, part: p, source: source, options: o, begun: time.Now()}
	c.State, c.Quota = p.dir, 0
	err = t.run(ctx, c)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return t.clean(err)
}

// part is where the bytes of one download are until it is complete.
type part struct {
	out string // the file it will be; "" for standard output
	dir string
}

// newPart decides on names. Nothing is created but the folder for standard output.
func newPart(g *getFlags, source string) (p part, err error) {
	if g.output == "-" {
		if g.resume {
			return p, usagef("-c cannot go on with standard output: name a file with -O")
		}
		p.dir, err = os.MkdirTemp("", "pantala-get-")
		return p, control.Local(err)
	}
	name := g.output
	if name == "" {
		if name = nameOf(source); name == "" {
			return p, usagef("the source has no name of its own: name the file with -O")
		}
	}
	if p.out, err = filepath.Abs(name); err != nil {
		return p, control.Local(err)
	}
	if st, err := os.Stat(p.out); err == nil && !st.Mode().IsRegular() && !(st.IsDir() && isTorrent(source)) {
		return p, control.Local(fmt.Errorf("output %s is not a regular file: name another one with -O", name))
	}
	dir := filepath.Dir(p.out)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return p, control.Local(fmt.Errorf("output directory %s does not exist: create it, or name another file with -O", dir))
	}
	p.dir = filepath.Join(dir, "."+filepath.Base(p.out)+".pantala")
	return p, nil
}

// isTorrent reports whether a source may turn out to be several files.
func isTorrent(source string) bool { return metainfo.IsMagnet(source) || node.IsTorrent(source) }

// nameOf is the last element of the path of a URL, or what a magnet link or .torrent calls the file; "" when none
// says anything.
func nameOf(source string) string {
	if metainfo.IsMagnet(source) {
		m, err := metainfo.ParseMagnet(source)
		if err != nil {
			return "magnet" // the error comes when it is opened
		}
		_, hex, _ := strings.Cut(m.ID().String(), ":")
		if m.HasCanonical {
			hex = m.Digest.String()
		}
		return cmp.Or(m.Name, hex)
	}
	u, err := url.Parse(source)
	if err != nil {
		return "blob" // the same
	}
	if node.IsTorrent(source) && u.Scheme == "file" {
		m, err := node.ReadTorrent(u.Path)
		if err != nil {
			return "torrent" // the same
		}
		return m.Info.Name
	}
	switch name := path.Base(u.Path); name {
	case ".", "/", "..":
		return ""
	default:
		if node.IsTorrent(source) {
			name = cmp.Or(strings.TrimSuffix(name, path.Ext(name)), name)
		}
		return name
	}
}

// transfer is a download under way.
type transfer struct {
	app      *app
	flags    *getFlags
	part     part
	source   string
	options  control.Options
	begun    time.Time
	status   control.Transfer // the last that was known
	complete bool             // out has its name
	created  bool             // the part folder is ours to remove, and not another process's
}

// run joins the swarm, downloads, checks and places the file.
func (t *transfer) run(ctx context.Context, c config.Config) (err error) {
	log := slog.New(slog.DiscardHandler)
	if c.From("log-level") != "" {
		log = t.app.logger(t.app.stderr, c.LogLevel)
	}
	_, statErr := os.Stat(t.part.dir)
	there := statErr == nil && t.part.out != ""
	t.created = !there
	n, err := node.New(c, node.Options{Version: version(), Log: log})
	if err != nil {
		return err
	}
	t.created = true
	defer func() {
		stop, cancel := context.WithTimeout(context.Background(), stopTimeout)
		defer cancel()
		if e := n.Close(stop); err == nil {
			err = e
		}
	}()
	if !t.flags.resume {
		if err := forget(ctx, n, nil); err != nil {
			return err
		}
	}
	name := "-"
	if t.part.out != "" {
		name = filepath.Base(t.part.out)
	}
	bar := t.app.progress(name, t.flags.quiet)
	defer bar.stop()
	t.app.askingPeers(t.source)
	d, err := n.Download(ctx, t.source, t.options, t.options.LimitRate, func(done int64) {
		bar.update(control.Progress{What: downloading, Done: done, Total: -1})
	})
	if err != nil {
		return err
	}
	closed := false
	release := func() {
		if !closed {
			closed = true
			t.status = d.Status()
			d.Close()
		}
	}
	defer release()
	if !t.flags.quiet {
		t.app.warn(d.Warnings...)
	}
	if t.flags.resume && there && d.Status().Present == 0 && !t.flags.quiet {
		t.app.warn("what is in " + t.part.dir + " is of another version: starting anew")
	}
	if err := forget(ctx, n, d.Blobs()); err != nil {
		return err
	}
	if err := t.checkOutput(d); err != nil {
		return err
	}
	want := d.Named()
	if t.options.Digest != "" {
		if want, err = node.ParseDigest(t.options.Digest); err != nil {
			return err
		}
	}
	if t.flags.resume && !there && d.Files() == 0 {
		if done, err := t.already(ctx, d.Size(), want); done || err != nil {
			t.complete = done
			return err
		}
	}
	if err := d.Room(); err != nil {
		return err
	}
	tell := func(s control.Transfer) {
		bar.update(control.Progress{What: downloading, Done: s.Present, Total: s.Size, FromPeers: s.FromPeers})
	}
	tell(d.Status())
	if t.part.out == "" {
		err = t.stream(ctx, d, want, tell)
	} else if err = d.Wait(ctx, want, tell); err == nil {
		err = d.Place(t.part.out)
	}
	bar.stop()
	if err != nil {
		return err
	}
	t.complete = true
	release()
	if !t.flags.quiet {
		fmt.Fprintln(t.app.stderr, bar.summary(t.status, t.begun))
	}
	return nil
}

// already reports whether the file is there and complete: it has the digest that was asked for, or, when none
// was, the size, as for wget.
func (t *transfer) already(ctx context.Context, size int64, want blob.Hash) (bool, error) {
	st, err := os.Stat(t.part.out)
	if err != nil || st.Size() != size {
		return false, nil
	}
	if want != (blob.Hash{}) {
		f, err := os.Open(t.part.out)
		if err != nil {
			return false, control.Local(fmt.Errorf("output: %w", err))
		}
		defer f.Close()
		got, err := node.Sum(ctx, f, size)
		if err != nil || got != want {
			return false, err
		}
	}
	if !t.flags.quiet {
		fmt.Fprintf(t.app.stderr, "%s: is complete already\n", filepath.Base(t.part.out))
	}
	return true, nil
}

// stream writes to standard output in order. Its digest can only be compared when all has been written.
func (t *transfer) stream(ctx context.Context, d *node.Download, want blob.Hash, tell func(control.Transfer)) error {
	if err := d.CopyTo(ctx, t.app.stdout, want, tell); err != nil {
		return err
	}
	if c, ok := t.app.stdout.(io.Closer); ok {
		if err := c.Close(); err != nil {
			return control.Local(fmt.Errorf("output: %w", err))
		}
	}
	return nil
}

// checkOutput refuses a name that is taken: a file is replaced by a file, and nothing by a directory but an empty
// one.
func (t *transfer) checkOutput(d *node.Download) error {
	st, err := os.Lstat(t.part.out)
	if err != nil || t.part.out == "" {
		return nil
	}
	switch {
	case d.Files() == 0 && st.IsDir():
		return control.Local(fmt.Errorf("output %s is a directory: name a file with -O", t.part.out))
	case d.Files() > 0 && !st.IsDir():
		return control.Local(fmt.Errorf("output %s is a file, and the torrent a directory of %d: name another one with -O", t.part.out, d.Files()))
	case d.Files() > 0:
		if all, err := os.ReadDir(t.part.out); err != nil || len(all) > 0 {
			return control.Local(fmt.Errorf("output directory %s is not empty: remove it, or name another one with -O", t.part.out))
		}
	}
	return nil
}

// forget removes all blobs of the part folder but some.
func forget(ctx context.Context, n *node.Node, but []blob.ID) error {
	all, err := n.CacheList(ctx)
	if err != nil {
		return err
	}
	for _, b := range all {
		if id, err := b.Blob(); err != nil || !slices.Contains(but, id) {
			if _, err := n.CacheRemove(ctx, b.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// clean removes the part folder, unless it is worth going on with.
func (t *transfer) clean(err error) error {
	if !t.created && t.part.out != "" {
		return err // somebody else's
	}
	corrupt := errors.Is(err, blob.ErrCorrupt)
	if keep := t.part.out != "" && !t.complete && !corrupt && t.status.Present > 0; keep {
		if !t.flags.quiet {
			fmt.Fprintf(t.app.stderr, "%s of %s are kept: go on with pantala get -c\n", size(t.status.Present), size(t.status.Size))
		}
		return err
	}
	if e := os.RemoveAll(t.part.dir); err == nil {
		err = control.Local(e)
	}
	return err
}

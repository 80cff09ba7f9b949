package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/node"
)

const shareLong = `Let others fetch local files, an object that is behind a URL, or a torrent, from this machine.

A PATH, a file or a directory, is shared in place as a BitTorrent v2 torrent: it is read once to compute
its hashes, and must not be changed while it is shared. With --hybrid clients that only know v1 can
fetch it, too. (A directory shared with --v1 is copied into the cache: v1 pieces span files.) A URL,
magnet: link or .torrent is downloaded into the cache, from peers where they have it, and kept; with
--from the files of a .torrent are taken, and checked, where they are.

A single file that is shared without --hybrid or --v1 makes the same torrent on every machine, in which
it is called by its digest: whoever shares or mounts the same bytes by it meets the others.

The link that is printed can be given to "pantala mount" and "pantala get" on other machines, and to
BitTorrent clients; so can the .torrent that --torrent writes. The daemon serves until "pantala share
--stop", or until it is stopped.`

const shareExample = `  pantala share --listen 10.0.0.2:6881 ./model.bin
  pantala share --hybrid --torrent data.torrent --tracker http://10.0.0.1:7700/announce ./data
  pantala share --from /srv/debian-12 https://host/debian-12.torrent
  pantala share --tracker http://10.0.0.1:7700/announce --listen 10.0.0.2:6881 https://host/model.bin
  pantala share --stop ./model.bin`

// shareFlags are the flags of share.
type shareFlags struct {
	fetchFlags
	stop, noWait, quiet bool
	v1, hybrid, private bool
	pieceLength         string
	webSeeds            []string
	torrent, from       string
	out                 string
}

func (a *app) shareCommand() *cobra.Command {
	fl := &shareFlags{out: "table"}
	c := &cobra.Command{
		Use:     "share PATH|URL",
		Short:   "Share local files, a URL or a torrent with other machines",
		Long:    shareLong,
		Example: shareExample,
		GroupID: "use",
		Args:    exactly(1, "a PATH or a URL"),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			r, err := fl.request(conf, args[0])
			if err != nil {
				return err
			}
			if fl.stop {
				return unshare(c.Context(), conf, r)
			}
			return a.share(c.Context(), conf, r, fl)
		},
	}
	f := c.Flags()
	fl.add(f, false)
	f.BoolVar(&fl.hybrid, "hybrid", false, "PATH: make a torrent that v1 and v2 clients can fetch")
	f.BoolVar(&fl.v1, "v1", false, "PATH: make a v1 torrent")
	f.StringVar(&fl.torrent, "torrent", "", "write the .torrent to this file")
	f.StringVar(&fl.from, "from", "", ".torrent: the file or directory where its files are")
	f.BoolVar(&fl.private, "private", false, "PATH: peers come from the torrent's trackers only (BEP 27)")
	f.StringVar(&fl.pieceLength, "piece-length", "", "PATH: such as 1MiB, a power of two from 16KiB to 16MiB (default by size)")
	f.StringArrayVar(&fl.webSeeds, "web-seed", nil, "PATH: URL of an HTTP server that has the same files (BEP 19); may be repeated")
	f.BoolVar(&fl.stop, "stop", false, "share it no longer")
	f.BoolVar(&fl.noWait, "no-wait", false, "URL: return at once, not when it is complete")
	f.BoolVarP(&fl.quiet, "quiet", "q", false, "no progress")
	f.String("quota", "", "how much the cache may hold, such as 20GiB (default no bound)")
	f.String("memory", "", "transfer buffers of the daemon (default 64MiB)")
	output(c, &fl.out)
	return c
}

// request tells paths from URLs.
func (fl *shareFlags) request(c config.Config, what string) (r control.ShareRequest, err error) {
	if err := fl.checkDigest(); err != nil {
		return r, err
	}
	if r.Options, err = fl.options(c); err != nil {
		return r, err
	}
	r.Expect, r.NoWait, r.Private, r.WebSeeds, r.WantTorrent = expect(c), fl.noWait, fl.private, fl.webSeeds, fl.torrent != ""
	switch {
	case fl.v1 && fl.hybrid:
		return r, usagef("--v1 and --hybrid exclude each other: a hybrid is both")
	case fl.v1:
		r.Version = "v1"
	case fl.hybrid:
		r.Version = "hybrid"
	}
	if fl.pieceLength != "" {
		if r.PieceLength, err = config.ParseSize(fl.pieceLength); err != nil || r.PieceLength <= 0 {
			return r, usagef("--piece-length %q is not a size, such as 1MiB", fl.pieceLength)
		}
	}
	for _, w := range fl.webSeeds {
		if !strings.HasPrefix(w, "http://") && !strings.HasPrefix(w, "https://") {
			return r, usagef("--web-seed %q is not an http:// or https:// URL", w)
		}
	}
	made := r.Version != "" || fl.private || fl.pieceLength != "" || len(fl.webSeeds) > 0
	what, err = sourceURL(what)
	if err != nil {
		return r, err
	}
	if isURL := metainfo.IsMagnet(what) || node.IsTorrent(what) || strings.Contains(what, "://") && !strings.HasPrefix(what, "file://"); isURL && !(node.IsTorrent(what) && made) {
		if made {
			return r, usagef("--hybrid, --v1, --private, --piece-length and --web-seed say how a torrent of a PATH is made; %s is not one", what)
		}
		if r.URL = what; fl.from != "" {
			r.From, err = realPath(fl.from)
		}
		return r, err
	}
	if fl.from != "" {
		return r, usagef("--from says where the files of a .torrent are; %s is not one", what)
	}
	r.Path, err = realPath(strings.TrimPrefix(what, "file://"))
	return r, err
}

// realPath is absolute and without links: the daemon must not follow one onto a mount of its own; this process,
// which serves none, does.
func realPath(what string) (string, error) {
	path, err := filepath.Abs(what)
	if err != nil {
		return "", control.Local(err)
	}
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", control.Local(fmt.Errorf("share: %s does not exist: name a file, a directory or a URL", what))
	}
	if err != nil {
		return "", control.Local(fmt.Errorf("share: %w", err))
	}
	return resolved, nil
}

// sourceURL makes a file: URL of the path of a .torrent, relative to where the command runs; anything else stays as
// it is.
func sourceURL(source string) (string, error) {
	if strings.Contains(source, "://") || !node.IsTorrent(source) {
		return source, nil
	}
	path, err := filepath.Abs(source)
	if err != nil {
		return "", control.Local(err)
	}
	if _, err := os.Stat(path); err != nil {
		return "", control.Local(fmt.Errorf("%s: %w: name a .torrent that is there, or a URL", source, errors.Unwrap(err)))
	}
	return (&url.URL{Scheme: "file", Path: path}).String(), nil
}

// askingPeers tells people what takes so long: a link that has to be looked up.
func (a *app) askingPeers(source string) {
	if m, err := metainfo.ParseMagnet(source); err == nil && !m.HasCanonical {
		if f, ok := a.stderr.(*os.File); ok && isTerminal(f) {
			fmt.Fprintln(a.stderr, "pantala: asking peers what the magnet link means (its .torrent) …")
		}
	}
}

func (a *app) share(ctx context.Context, c config.Config, r control.ShareRequest, fl *shareFlags) error {
	name := filepath.Base(r.Path)
	if r.Path == "" {
		name = nameOf(r.URL)
	}
	a.askingPeers(r.URL)
	bar := a.progress(name, fl.quiet)
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
	if fl.torrent != "" {
		if reply.Torrent == nil {
			return fmt.Errorf("%w: what is behind a URL has no .torrent before it is complete: leave out --torrent", blob.ErrInvalid)
		}
		if err := os.WriteFile(fl.torrent, reply.Torrent, 0o666); err != nil {
			return control.Local(fmt.Errorf("--torrent: %w", err))
		}
	}
	if reply.Torrent = nil; fl.out == "json" {
		return a.json(struct {
			control.ShareReply
			Torrent string `json:"torrent,omitempty"` // the file
		}{reply, fl.torrent})
	}
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(a.stdout, "%-9s%s\n", what, value)
		}
	}
	if reply.Digest == "" && reply.Magnet == "" {
		line("sharing", reply.Name)
	}
	line("digest", reply.Digest)
	line("infohash", reply.InfoHash)
	line("v1", reply.InfoHashV1)
	line("magnet", reply.Magnet)
	line("torrent", fl.torrent)
	line("mount", "pantala mount "+quote(reply.Source)+" DIR")
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

package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/node"
)

const cacheLong = `Look after the cached blobs of a --state directory, whether or not its daemon runs.

NAME is an id as "pantala cache ls" shows it, the first digits of one, a URL, or a file name. What is
pinned is never evicted; neither is what is mounted or shared.`

func (a *app) cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "cache",
		Short:   "List, pin and remove cached blobs",
		Long:    cacheLong,
		GroupID: "look",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	c.AddCommand(
		a.cacheList(),
		a.cacheOne("stat NAME", "Show one cached blob", "  pantala cache stat https://host/model.bin", control.Cache.CacheStat),
		a.cacheOne("pin NAME", "Keep a blob for ever", "  pantala cache pin model.bin", func(k control.Cache, ctx context.Context, name string) (control.Cached, error) {
			return k.CachePin(ctx, name, true)
		}),
		a.cacheOne("unpin NAME", "Let a blob be evicted again", "  pantala cache unpin model.bin", func(k control.Cache, ctx context.Context, name string) (control.Cached, error) {
			return k.CachePin(ctx, name, false)
		}),
		a.cacheOne("rm NAME", "Remove a blob from the cache", "  pantala cache rm 9f86d081", control.Cache.CacheRemove),
		a.cacheGC(),
	)
	return c
}

// withCache calls f with the daemon, or with the store itself when none runs.
func (a *app) withCache(ctx context.Context, c config.Config, f func(control.Cache) error) error {
	err := f(control.NewClient(c.State))
	if !errors.Is(err, control.ErrNoDaemon) {
		return err
	}
	k, err := node.OpenCache(c.State, blockio.Options{Quota: c.Quota})
	if err != nil {
		return err
	}
	return errors.Join(f(k), k.Store.Close())
}

func (a *app) cacheList() *cobra.Command {
	out := "table"
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List cached blobs",
		Example: "  pantala cache ls\n  pantala cache ls -o json",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			var all []control.Cached
			if err := a.withCache(c.Context(), conf, func(k control.Cache) (err error) {
				all, err = k.CacheList(c.Context())
				return err
			}); err != nil {
				return err
			}
			if out == "json" {
				return a.json(all)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSIZE\tHERE\tON DISK\tUSED\tSTATE\tSOURCE")
			for _, b := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.ID[:min(len(b.ID), 17)], size(b.Size), percent(b.Present, b.Size), size(b.Allocated), humanize.Time(b.Used), cachedState(b), short(b.Source))
			}
			return w.Flush()
		},
	}
	output(c, &out)
	return c
}

func cachedState(b control.Cached) string {
	switch {
	case b.Open && b.Pinned:
		return "in use, pinned"
	case b.Open:
		return "in use"
	case b.Pinned:
		return "pinned"
	}
	return "-"
}

// cacheOne is a command that does something to one blob and prints it.
func (a *app) cacheOne(use, short, example string, do func(control.Cache, context.Context, string) (control.Cached, error)) *cobra.Command {
	out := "table"
	c := &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    short + ".\n\nNAME is an id, the first digits of one, a URL, or a file name.",
		Example: example,
		Args:    exactly(1, "a NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			var b control.Cached
			if err := a.withCache(c.Context(), conf, func(k control.Cache) (err error) {
				b, err = do(k, c.Context(), args[0])
				return err
			}); err != nil {
				return err
			}
			if out == "json" {
				return a.json(b)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintf(w, "id\t%s\nsource\t%s\nname\t%s\nsize\t%s (%d bytes)\nhere\t%s (%d bytes)\non disk\t%s\nused\t%s\nstate\t%s\n",
				b.ID, b.Source, b.Name, size(b.Size), b.Size, percent(b.Present, b.Size), b.Present, size(b.Allocated), humanize.Time(b.Used), cachedState(b))
			return w.Flush()
		},
	}
	output(c, &out)
	return c
}

func (a *app) cacheGC() *cobra.Command {
	var free string
	c := &cobra.Command{
		Use:     "gc",
		Short:   "Evict what was not used for longest until the quota holds",
		Long:    "Evict unpinned blobs that are not in use, those that are least worth keeping first, until the quota\nholds and --free more bytes would fit.",
		Example: "  pantala cache gc\n  pantala cache gc --free 10GiB",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := config.ParseSize(free)
			if err != nil {
				return usagef("--free: %w", err)
			}
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			return a.withCache(c.Context(), conf, func(k control.Cache) error {
				freed, err := k.CacheGC(c.Context(), n)
				if err == nil {
					fmt.Fprintf(a.stdout, "freed %s\n", size(freed))
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&free, "free", "0", "how much more must fit, such as 10GiB")
	c.Flags().String("quota", "", "the quota when no daemon runs (default no bound)")
	return c
}

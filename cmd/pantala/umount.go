package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
)

const umountLong = `Unmount DIRs, or with --all everything that the daemon of this --state directory has mounted.

What a daemon that was killed has left behind is unmounted too. umount(8) does the same for a live
mount.`

func (a *app) umountCommand() *cobra.Command {
	var all, force bool
	c := &cobra.Command{
		Use:     "umount DIR…",
		Aliases: []string{"unmount"},
		Short:   "Unmount",
		Long:    umountLong,
		Example: `  pantala umount /mnt/model
  pantala umount --force /mnt/model     # detach it from the tree even if somebody reads from it
  pantala umount --all`,
		GroupID: "use",
		Args: func(c *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usagef("%s --all takes no directories", c.CommandPath())
			}
			if !all && len(args) == 0 {
				return usagef("%s needs a DIR, or --all: see %s --help", c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			client := control.NewClient(conf.State)
			if all {
				return a.umountAll(c.Context(), client, force)
			}
			var first error
			for _, dir := range args {
				err := umount(c.Context(), client, dir, force)
				switch {
				case err == nil:
				case first == nil:
					first = err
				default:
					a.complain(err)
				}
			}
			return first
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			mounts, _ := fs.Mounts()
			var dirs []string
			for _, m := range mounts {
				dirs = append(dirs, m.Dir)
			}
			return dirs, cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "detach what is in use; who reads from it goes on until they close it")
	c.Flags().BoolVar(&all, "all", false, "unmount everything")
	return c
}

// umount asks the daemon; what it does not know is unmounted without it, when it is a mount of ours.
func umount(ctx context.Context, client *control.Client, name string, force bool) error {
	dir, err := resolveDir(name)
	if err != nil {
		return err
	}
	err = client.Unmount(ctx, dir, force)
	if err == nil || !errors.Is(err, control.ErrNoDaemon) && !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	mounts, merr := fs.Mounts()
	if merr != nil {
		return control.Local(merr)
	}
	for _, m := range mounts {
		if m.Dir == dir {
			// A dead mount answers every request with an error, so that nobody can lose anything by force.
			stale := errors.Is(fs.CheckDir(dir, false), fs.ErrStale)
			return control.Local(fs.UnmountDir(dir, force || stale))
		}
	}
	return control.Local(fmt.Errorf("%s is not a pantala mount: pantala status lists them", name))
}

// umountAll unmounts what the daemon has, and what dead daemons left.
func (a *app) umountAll(ctx context.Context, client *control.Client, force bool) error {
	status, err := client.Status(ctx)
	if err != nil && !errors.Is(err, control.ErrNoDaemon) {
		return err
	}
	var errs []error
	for _, m := range status.Mounts {
		errs = append(errs, client.Unmount(ctx, m.Dir, force))
	}
	mounts, err := fs.Mounts()
	if err != nil {
		return control.Local(err)
	}
	for _, m := range mounts {
		if errors.Is(fs.CheckDir(m.Dir, false), fs.ErrStale) {
			errs = append(errs, control.Local(fs.UnmountDir(m.Dir, true)))
		}
	}
	return errors.Join(errs...)
}

package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/fs"
)

// keepFuseName is the hidden command that keeps the mount of layers alive while no daemon serves it.
const keepFuseName = "keep-fuse"

func (a *app) keepFuseCommand() *cobra.Command {
	return &cobra.Command{
		Use:    keepFuseName + " SOCKET",
		Short:  "Keep the mount of layers while no daemon serves it (started by the daemon)",
		Hidden: true,
		Args:   exactly(1, "SOCKET"),
		RunE: func(c *cobra.Command, args []string) error {
			daemon := os.NewFile(3, "daemon")
			if daemon == nil {
				return usagef("%s is for pantala itself", c.CommandPath())
			}
			if err := fs.Hold(c.Context(), daemon, args[0]); err != nil {
				return control.Local(err)
			}
			return nil
		},
	}
}

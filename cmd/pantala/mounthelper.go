package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// mountHelper is `mount.pantala SOURCE DIR [-sfnvN] [-o opts]`: what mount(8) and systemd call for an fstab
// line of type pantala. It exits with the codes of mount(8).
func (a *app) mountHelper(ctx context.Context, args []string) int {
	err := a.helperMount(ctx, args)
	if err != nil {
		fmt.Fprintf(a.stderr, "mount.pantala: %s\n", oneLine(err.Error()))
	}
	return mountCode(err)
}

func (a *app) helperMount(ctx context.Context, args []string) error {
	m := new(mountFlags)
	flags := pflag.NewFlagSet("mount.pantala", pflag.ContinueOnError)
	m.add(flags)
	flags.AddFlagSet(a.root().PersistentFlags())
	var positional, options []string
	fake := false
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "-o" || arg == "-N" || arg == "-t":
			if i++; i == len(args) {
				return usagef("%s needs a value: mount.pantala SOURCE DIR [-o OPTIONS]", arg)
			}
			if arg == "-o" {
				options = append(options, args[i])
			}
		case len(arg) > 1 && arg[0] == '-' && strings.Trim(arg[1:], "sfnv") == "":
			fake = fake || strings.Contains(arg, "f")
		case arg != "-" && strings.HasPrefix(arg, "-"):
			return usagef("unknown flag %s: mount.pantala SOURCE DIR [-sfnv] [-o OPTIONS]", arg)
		default:
			positional = append(positional, arg)
		}
	}
	if len(positional) != 2 {
		return usagef("mount.pantala needs a SOURCE and a DIR: mount.pantala SOURCE DIR [-o OPTIONS]")
	}
	for _, o := range options {
		if err := applyOptions(flags, o, true); err != nil {
			return err
		}
	}
	if m.foreground {
		return usagef("option foreground: mount(8) waits for its helper: leave it out")
	}
	c, err := a.load(flags)
	if err != nil {
		return err
	}
	r, err := m.request(c, positional[0], positional[1])
	if err != nil || fake {
		return err
	}
	reply, err := a.mountByDaemon(ctx, c, r)
	if err != nil {
		return err
	}
	a.warn(reply.Warnings...)
	return nil
}

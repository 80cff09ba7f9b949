package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/lmittmann/tint"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
)

const rootLong = `pantala makes a remote blob a local path, at once. The bytes that are read come first, from the
nearest machine that has them; every 16 KiB is verified before a reader sees it; and when all bytes
are there, they are read at the speed of the local disk.

  pantala mount https://host/model.bin /mnt/model     # then read /mnt/model/model.bin
  pantala get https://host/model.bin                  # or download it, as wget would

Machines that name the same tracker share one download:

  pantala tracker --listen 10.0.0.1:7700              # on one machine
  export PANTALA_TRACKER=http://10.0.0.1:7700/announce
  pantala mount --listen 10.0.0.2:6881 https://host/model.bin /mnt/model

Settings come from flags, then PANTALA_* variables (PANTALA_TRACKER for --tracker), then the file
/etc/pantala/config.yaml (for users also ~/.config/pantala/config.yaml), then defaults.

Exit codes: 0 done; 2 usage; 3 not found; 4 permission refused by the origin; 5 temporary, try
again; 6 bytes do not match their digest; 7 trouble of this machine (directory, port, disk, FUSE);
130 interrupted; 1 anything else.`

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "pantala",
		Short:         "Mount remote blobs as local paths, shared by peers",
		Long:          rootLong,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return unknownCommand(c, args[0])
		},
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveDefault)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return flagError(c, err) })
	f := root.PersistentFlags()
	f.SortFlags = false
	f.String("state", "", "directory of cache, control socket and log (default "+config.Default(a.uid, os.Getenv).State+")")
	f.String("listen", "", "address that peers connect to, HOST:PORT; port 0 takes a free one (default 127.0.0.1:0)")
	f.String("tracker", "", "announce URLs of trackers, or srv:_NAME._tcp.DOMAIN for those that DNS names, separated by commas")
	f.String("config", "", "configuration file (default /etc/pantala/config.yaml, if it is there)")
	f.String("log-level", "", "debug, info, warn or error (default info)")
	root.AddGroup(
		&cobra.Group{ID: "use", Title: "Reading and sharing:"},
		&cobra.Group{ID: "run", Title: "Running:"},
		&cobra.Group{ID: "look", Title: "Looking:"},
	)
	root.AddCommand(
		a.mountCommand(), a.umountCommand(), a.getCommand(), a.shareCommand(),
		a.daemonCommand(), a.trackerCommand(), a.limitsCommand(), a.setupCommand(),
		a.statusCommand(), a.cacheCommand(), a.imageCommand(), a.profileCommand(), a.doctorCommand(), a.versionCommand(),
		a.keepFuseCommand(),
	)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("mount")
	return root
}

// unknownCommand names the nearest command.
func unknownCommand(c *cobra.Command, name string) error {
	var known []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			known = append(known, sub.Name())
		}
	}
	if n, near := config.Nearest(name, known); near {
		return usagef("unknown command %q: did you mean %q?", name, n)
	}
	return usagef("unknown command %q: %s --help lists all", name, c.CommandPath())
}

// group is the RunE of a command that only has subcommands.
func group(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	return unknownCommand(c, args[0])
}

// flagError names the nearest flag.
func flagError(c *cobra.Command, err error) error {
	text := oneLine(err.Error())
	if name, ok := strings.CutPrefix(text, "unknown flag: --"); ok {
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		if n, near := config.Nearest(name, known); near {
			return usagef("unknown flag --%s: did you mean --%s?", name, n)
		}
	}
	return usagef("%s: see %s --help", text, c.CommandPath())
}

// exactly is cobra.ExactArgs with an error that says what is wanted.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		if n == 0 {
			return usagef("%s takes no arguments, but got %q: see %s --help", c.CommandPath(), args[0], c.CommandPath())
		}
		return usagef("%s needs %s: see %s --help", c.CommandPath(), what, c.CommandPath())
	}
}

// load puts together the configuration of one command: every flag that has the name of a key is one.
func (a *app) load(flags *pflag.FlagSet) (config.Config, error) {
	given := map[string]string{}
	flags.Visit(func(f *pflag.Flag) {
		if slices.Contains(config.Keys(), f.Name) {
			given[f.Name] = f.Value.String()
		}
		if f.Name == "no-passthrough" && f.Value.String() == "true" {
			given["passthrough"] = "false"
		}
	})
	file := ""
	if f := flags.Lookup("config"); f != nil {
		file = f.Value.String()
	}
	conf, err := config.Load(config.Input{File: file, Env: a.env, Flags: given, UID: a.uid})
	if err != nil && !errors.Is(err, blob.ErrInvalid) {
		err = control.Local(err) // what is written there is not wrong: it cannot be read
	}
	return conf, err
}

// output adds -o json to a command.
func output(c *cobra.Command, to *string) {
	c.Flags().VarP((*format)(to), "output", "o", "table or json")
	c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// format is the value of -o.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "FORMAT" }
func (f *format) Set(s string) error {
	if s != "table" && s != "json" {
		return fmt.Errorf("%q is neither table nor json", s)
	}
	*f = format(s)
	return nil
}

// logger writes to w: for people on a terminal, for machines elsewhere.
func (a *app) logger(w io.Writer, level slog.Level) *slog.Logger {
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: "15:04:05.000", NoColor: os.Getenv("NO_COLOR") != ""}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

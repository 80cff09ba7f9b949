package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
)

const limitsLong = `Show, or change at once, how many bytes per second the daemon of --state moves. 0 lifts a limit.

Without --tenant it is the limits of the whole machine; with it, those of what was mounted, downloaded
or shared under that name; with --class, those of all that is asked for in one class: fault and read
(a program is blocked on it), readahead (it will be soon), background (nobody waits). What a program
is blocked on may pass for a moment while background transfers may not; these then pay for it. A change
holds until the daemon ends: the configuration file sets what holds from the start, under tenants: and
classes: for these.`

const limitsExample = `  pantala limits
  pantala limits --upload-limit 5MB --download-limit 0
  pantala limits --tenant training --origin-limit 100MB
  pantala limits --class background --download-limit 20MB`

func (a *app) limitsCommand() *cobra.Command {
	var tenant, class string
	out := "table"
	c := &cobra.Command{
		Use:     "limits",
		Short:   "Show or change limits of a running daemon",
		Long:    limitsLong,
		Example: limitsExample,
		GroupID: "run",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			r := control.LimitsRequest{Tenant: tenant, Class: class}
			for key, set := range map[string]struct {
				to   **int64
				rate int64
			}{"upload-limit": {&r.Upload, conf.UploadLimit}, "download-limit": {&r.Download, conf.DownloadLimit}, "origin-limit": {&r.Origin, conf.OriginLimit}} {
				if strings.HasPrefix(conf.From(key), "flag ") {
					*set.to = &set.rate
				}
			}
			return a.limits(c.Context(), conf.State, r, out)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	addLimits(f)
	f.StringVar(&tenant, "tenant", "", "the limits of this tenant instead of the machine's")
	f.StringVar(&class, "class", "", "the limits of this class: fault, read, readahead or background")
	output(c, &out)
	return c
}

// addLimits adds the flags that bound the whole node.
func addLimits(f *pflag.FlagSet) {
	f.String("upload-limit", "", "bytes per second that all uploads together may have, such as 5MB (default no limit)")
	f.String("download-limit", "", "the same for all downloads, from peers and origins together")
	f.String("origin-limit", "", "the same for what comes from origins")
}

// limits asks the daemon and prints its answer.
func (a *app) limits(ctx context.Context, state string, r control.LimitsRequest, out string) error {
	l, err := control.NewClient(state).Limits(ctx, r)
	switch {
	case errors.Is(err, control.ErrNoDaemon):
		return fmt.Errorf("%w: %w", blob.ErrNotFound, err)
	case err != nil:
		return err
	case out == "json":
		return a.json(l)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\tUPLOAD\tDOWNLOAD\tORIGIN")
	line := func(name string, r control.Rates) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, perSecond(r.Upload), perSecond(r.Download), perSecond(r.Origin))
	}
	line("machine", l.Rates)
	for _, name := range slices.Sorted(maps.Keys(l.Classes)) {
		line("class "+name, l.Classes[name])
	}
	for _, name := range slices.Sorted(maps.Keys(l.Tenants)) {
		line("tenant "+name, l.Tenants[name])
	}
	return w.Flush()
}

func perSecond(rate int64) string {
	if rate == 0 {
		return "no limit"
	}
	return humanize.Bytes(uint64(rate)) + "/s"
}

// parseRate reads --limit-rate; 0 when it was not given.
func parseRate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := config.ParseSize(s)
	if err != nil || n == 0 {
		return 0, usagef("--limit-rate %q is not a number of bytes per second, such as 20MB", s)
	}
	return n, nil
}

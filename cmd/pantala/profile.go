package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/pantala/pantala/config"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/image/profile"
	"github.com/pantala/pantala/node"
)

const profileLong = `Look at, and carry from machine to machine, the orders in which images are read when they start.

Each start of an image is recorded: which parts of its layers were read first, in which order, a few
kilobytes in all. The next start, here or, through the tracker, on any node, fetches in that order just
ahead of the program. Nothing else depends on a profile: a wrong one costs some bytes.

IMAGE is a reference as for pantala mount, with or without oci://, or the digest of a manifest, or its
first digits.`

func (a *app) profileCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "profile",
		Short:   "Show, export and import the orders in which images are read",
		Long:    profileLong,
		Example: "  pantala profile ls\n  pantala profile export python:3.12 python.ptp\n  pantala profile import python:3.12 python.ptp",
		GroupID: "look",
		Args:    cobra.ArbitraryArgs,
		RunE:    group,
	}
	c.AddCommand(a.profileList(), a.profileShow(), a.profileExport(), a.profileImport())
	return c
}

// withProfiles calls f with the daemon, or with what it has kept when none runs.
func (a *app) withProfiles(c config.Config, f func(control.Profiles) error) error {
	err := f(control.NewClient(c.State))
	if !errors.Is(err, control.ErrNoDaemon) {
		return err
	}
	return f(node.OpenProfiles(c.State))
}

func (a *app) profileList() *cobra.Command {
	out := "table"
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images whose orders are known",
		Example: "  pantala profile ls\n  pantala profile ls -o json",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			var all []control.Profile
			if err := a.withProfiles(conf, func(p control.Profiles) (err error) {
				all, err = p.ProfileList(c.Context())
				return err
			}); err != nil {
				return err
			}
			if out == "json" {
				return a.json(all)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "MANIFEST\tSTARTS\tSPANS\tUSED\tIMAGE")
			for _, p := range all {
				fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\n", p.Image[:min(len(p.Image), 19)], p.Starts, p.Spans, humanize.Time(p.Used), short(lastRef(p)))
			}
			return w.Flush()
		},
	}
	output(c, &out)
	return c
}

// lastRef is how an image was named last.
func lastRef(p control.Profile) string {
	if len(p.Refs) == 0 {
		return "-"
	}
	return p.Refs[0]
}

func (a *app) profileShow() *cobra.Command {
	out, order := "table", false
	c := &cobra.Command{
		Use:     "show IMAGE",
		Short:   "Show what is known about the start of an image",
		Long:    "Show how many spans of which layers an image reads when it starts, and where in its order each layer comes\nfirst; layers are counted from 0, the bottom one. With --order, each span in order: its layer and number.",
		Example: "  pantala profile show python:3.12\n  pantala profile show --order sha256:9f86d0 | head",
		Args:    exactly(1, "an IMAGE"),
		RunE: func(c *cobra.Command, args []string) error {
			one, of, err := a.profile(c, args[0])
			if err != nil {
				return err
			}
			if out == "json" {
				one.Data = nil
				return a.json(struct {
					control.Profile
					Order []profile.Touch `json:"order"`
				}{one, of.Touches})
			}
			w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
			if order {
				for _, t := range of.Touches {
					fmt.Fprintf(w, "%d\t%d\n", t.Layer, t.Span)
				}
				return w.Flush()
			}
			fmt.Fprintf(w, "image\t%s\nmanifest\t%s\nstarts\t%d\nspans\t%d, in %s\nused\t%s\n\n", lastRef(one), one.Image, of.Starts, len(of.Touches), size(int64(len(one.Data))), humanize.Time(one.Used))
			fmt.Fprintln(w, "LAYER\tSPANS\tFIRST")
			for _, l := range layersOf(of) {
				fmt.Fprintf(w, "%d\t%d\t%d\n", l.layer, l.spans, l.first)
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&order, "order", false, "print every span in order")
	output(c, &out)
	return c
}

// layerUse is how one layer is read.
type layerUse struct {
	layer        uint16
	spans, first int
}

// layersOf sums a profile up by layer.
func layersOf(p *profile.Profile) (all []layerUse) {
	for i, t := range p.Touches {
		at := slices.IndexFunc(all, func(l layerUse) bool { return l.layer == t.Layer })
		if at < 0 {
			at = len(all)
			all = append(all, layerUse{t.Layer, 0, i + 1})
		}
		all[at].spans++
	}
	slices.SortFunc(all, func(a, b layerUse) int { return int(a.layer) - int(b.layer) })
	return all
}

// profile asks for the profile of an image.
func (a *app) profile(c *cobra.Command, image string) (one control.Profile, of *profile.Profile, err error) {
	conf, err := a.load(c.Flags())
	if err != nil {
		return one, nil, err
	}
	err = a.withProfiles(conf, func(p control.Profiles) (err error) {
		one, err = p.ProfileGet(c.Context(), image)
		return err
	})
	if err == nil {
		of, err = profile.Parse(one.Data)
	}
	return one, of, err
}

func (a *app) profileExport() *cobra.Command {
	return &cobra.Command{
		Use:     "export IMAGE [FILE]",
		Short:   "Write the order of an image to a file",
		Long:    "Write in which order an image is read to FILE, or to the output when that is none or -, and no terminal. The\nformat is in docs/wire.md.",
		Example: "  pantala profile export python:3.12 python.ptp",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			to := "-"
			if len(args) == 2 {
				to = args[1]
			}
			if f, ok := a.stdout.(*os.File); ok && to == "-" && isTerminal(f) {
				return usagef("a profile is not for a terminal: name a file, or see pantala profile show --order")
			}
			one, _, err := a.profile(c, args[0])
			if err != nil {
				return err
			}
			if to == "-" {
				_, err = a.stdout.Write(one.Data)
			} else {
				err = os.WriteFile(to, one.Data, 0o644)
			}
			return control.Local(err)
		},
	}
}

func (a *app) profileImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import IMAGE FILE",
		Short: "Take the order of an image from a file",
		Long: `Take in which order an image is read from FILE, as export has written it, or from the input when it
is -. It replaces what was recorded here; starts that come later are merged with it. An image that was
never started here is named by the digest of its manifest, unless a daemon runs that can ask its
registry.`,
		Example: "  pantala profile import python:3.12 python.ptp",
		Args:    exactly(2, "an IMAGE and a FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			data, err := readProfile(args[1])
			if err != nil {
				return err
			}
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			var one control.Profile
			if err := a.withProfiles(conf, func(p control.Profiles) (err error) {
				one, err = p.ProfilePut(c.Context(), args[0], data)
				return err
			}); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s: %s of %s\n", one.Image, count(one.Spans, "span"), count(one.Starts, "start"))
			return nil
		},
	}
}

// readProfile reads a file, or the input, that is a profile.
func readProfile(path string) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, control.Local(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, profile.MaxBytes+1))
	if err != nil {
		return nil, control.Local(err)
	}
	if _, err := profile.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/pantala/pantala/control"
)

const statusLong = `Show what is mounted and shared, how much of it is here, where its bytes came from, and who the peers
are. Byte counts of "from peers" and "from origin" are of this run of the daemon.`

func (a *app) statusCommand() *cobra.Command {
	out := "table"
	c := &cobra.Command{
		Use:     "status",
		Short:   "Show mounts, shares and peers",
		Long:    statusLong,
		Example: "  pantala status\n  pantala status -o json | jq '.mounts[] | {dir, present, from_peers}'",
		GroupID: "look",
		Args:    exactly(0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := a.load(c.Flags())
			if err != nil {
				return err
			}
			s, err := currentStatus(c.Context(), conf.State)
			if err != nil {
				return err
			}
			if out == "json" {
				return a.json(s)
			}
			return a.printStatus(s)
		},
	}
	output(c, &out)
	return c
}

// currentStatus asks the daemon; without one, nothing is mounted.
func currentStatus(ctx context.Context, state string) (control.Status, error) {
	s, err := control.NewClient(state).Status(ctx)
	if errors.Is(err, control.ErrNoDaemon) {
		return control.Status{
			State: state, Mounts: []control.Mount{}, Shares: []control.Share{}, Peers: []control.Peer{}, Trackers: []control.Tracker{},
		}, nil
	}
	return s, err
}

func (a *app) printStatus(s control.Status) error {
	if s.PID == 0 {
		fmt.Fprintf(a.stdout, "No daemon runs in %s: nothing is mounted or shared.\n", s.State)
		return nil
	}
	fmt.Fprintf(a.stdout, "pantala %s, pid %d, up %v, peers connect to %s, state in %s%s\n", s.Version, s.PID, time.Since(s.Started).Round(time.Second), s.Listen, s.State, zoneOf(s))
	if u := s.Cache; u != nil {
		quota := "no quota"
		if u.Quota > 0 {
			quota = "quota " + size(u.Quota)
		}
		fmt.Fprintf(a.stdout, "cache: %s in %s, %s, %s free on the disk\n", size(u.Bytes), count(u.Blobs, "blob"), quota, size(u.Free))
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	if len(s.Mounts) > 0 {
		fmt.Fprintln(w, "\nDIR\tSIZE\tHERE\tPEERS\tORIGIN\tWAITING\tERRORS\tSOURCE")
		for _, m := range s.Mounts {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", m.Dir, size(m.Size), percent(m.Present, m.Size), size(m.FromPeers), size(m.FromOrigin), m.Waiting, m.Errors, short(m.Source)+several(m.Files))
		}
	}
	if len(s.Shares) > 0 {
		fmt.Fprintln(w, "\nSHARED\tSIZE\tHERE\tUPLOADED\tPEERS")
		for _, m := range s.Shares {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", short(m.Source)+several(m.Files), size(m.Size), percent(m.Present, m.Size), size(m.Uploaded), m.Transfer.Peers)
		}
	}
	if len(s.Peers) > 0 {
		fmt.Fprintln(w, "\nPEER\tDOWN\tUP\tRATE\tCLIENT\tBLOB")
		for _, p := range s.Peers {
			client := p.Client
			if p.Banned {
				client += " (banned: sent wrong bytes)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s/s\t%s\t%s\n", p.Addr, size(p.Downloaded), size(p.Uploaded), size(p.Rate), client, short(p.Blob))
		}
	}
	if len(s.Trackers) > 0 {
		fmt.Fprintln(w, "\nTRACKER\tSTATE\tNODES\tLEASES\tPLAN\tBLOB")
		for _, t := range s.Trackers {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", short(t.URL), t.State, t.Nodes, t.Leases, placeIn(t.Tree), short(t.Blob))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if m.LastError != "" {
			fmt.Fprintf(a.stdout, "\n%s: last error: %s\n", m.Dir, oneLine(m.LastError))
		}
	}
	for _, t := range s.Trackers {
		if t.Alone {
			fmt.Fprintf(a.stdout, "\ntracker %s: cannot reach the state it shares with others: it goes on from memory\n", t.URL)
		}
		if t.LastError != "" {
			fmt.Fprintf(a.stdout, "\ntracker %s: %s: %s\n", t.URL, t.State, oneLine(t.LastError))
		}
	}
	return nil
}

// zoneOf is where the node says that it stands.
func zoneOf(s control.Status) string {
	if s.Zone == "" {
		return ""
	}
	return ", zone " + s.Zone
}

// placeIn says in one cell from whom this node takes which stripe.
func placeIn(t *control.Tree) string {
	if t == nil {
		return "-"
	}
	var all []string
	for k, parents := range t.Parents {
		switch {
		case slices.Contains(t.Head, k) && len(parents) == 0:
			all = append(all, fmt.Sprintf("%d: origin", k))
		case slices.Contains(t.Head, k):
			all = append(all, fmt.Sprintf("%d: source %s", k, parents[0]))
		case len(parents) > 0:
			all = append(all, fmt.Sprintf("%d: %s", k, parents[0]))
		default:
			all = append(all, fmt.Sprintf("%d: anybody", k))
		}
	}
	return strings.Join(all, ", ")
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// count is a number of things: "1 blob", "2 blobs".
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// percent rounds down: 100 % is said when it is true.
func percent(part, whole int64) string {
	if whole == 0 {
		return "100 %"
	}
	return fmt.Sprintf("%d %%", int64(float64(part)/float64(whole)*100))
}

// short leaves the ends of a long name.
func short(s string) string {
	const most = 60
	if len(s) <= most || strings.HasPrefix(s, "/") {
		return s
	}
	return s[:most/2-1] + "…" + s[len(s)-most/2:]
}

// several says how many files a torrent has, if it is a directory.
func several(files int) string {
	if files == 0 {
		return ""
	}
	return " (" + count(files, "file") + ")"
}

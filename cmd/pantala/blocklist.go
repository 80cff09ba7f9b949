package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/tracker"
)

// blocklistEvery is how often the blocklist is looked at for changes.
const blocklistEvery = 2 * time.Second

// readBlocklist reads the file of a tracker's blocklist.
func readBlocklist(path string) (*tracker.Blocklist, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, control.Local(fmt.Errorf("blocklist: %w: create it, or leave --blocklist out", err))
	}
	defer f.Close()
	list, err := tracker.ParseBlocklist(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// mark is by what a change of a file is noticed.
type mark struct {
	size  int64
	time  time.Time
	inode uint64
}

func markOf(path string) (m mark) {
	if st, err := os.Stat(path); err == nil {
		m = mark{size: st.Size(), time: st.ModTime()}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			m.inode = sys.Ino
		}
	}
	return m
}

// watchBlocklist reads the blocklist again when it changes, and on SIGHUP, until ctx ends. While it is malformed the
// old one stays.
func watchBlocklist(ctx context.Context, path string, t *tracker.Server, log *slog.Logger) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(blocklistEvery)
	defer tick.Stop()
	last := markOf(path)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			last = mark{}
		case <-tick.C:
		}
		now := markOf(path)
		if now == last {
			continue
		}
		last = now
		list, err := readBlocklist(path)
		if err != nil {
			log.Error("the blocklist stays as it was", "err", err)
			continue
		}
		t.Block(list)
		log.Info("blocklist read", "file", path, "entries", list.Len())
	}
}

package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
	"github.com/pantala/pantala/swarm"
)

const (
	// maxKnown is how many peers of a blob are remembered: enough that one of them is still there, and few enough
	// to be dialled at once.
	maxKnown = 32
	// maxKnownFile bounds what is read back, in bytes: 64 addresses of up to 50 characters, and quotes.
	maxKnownFile = 8 << 10
	// knownEvery is how often the list is brought up to date while a blob is open. After a kill -9 it is that old.
	knownEvery = time.Minute
	// knownFirst is when that happens for the first time: a node that is killed soon after its start must not have
	// learnt nothing.
	knownFirst = 5 * time.Second
)

// knownPeers remembers across restarts where the good peers of each blob listen, so that a swarm whose tracker is
// gone finds itself again. Each blob has a file, and so have the nodes of the DHT. It has no state of its own.
type knownPeers struct{ dir string }

// knownDir is the directory of remembered peers in a state directory.
func knownDir(state string) string { return filepath.Join(state, "peers") }

// nodesName is the file of the nodes of the DHT. No blob is called so.
const nodesName = "dht-nodes"

func (k knownPeers) name(id blob.ID) string { return strings.ReplaceAll(id.String(), ":", "-") }

// get are the remembered peers of a blob. What cannot be read is not there.
func (k knownPeers) get(id blob.ID) []netip.AddrPort { return k.read(k.name(id)) }

func (k knownPeers) nodes() []netip.AddrPort { return k.read(nodesName) }

func (k knownPeers) read(name string) (all []netip.AddrPort) {
	f, err := os.Open(filepath.Join(k.dir, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > maxKnownFile || json.NewDecoder(f).Decode(&all) != nil {
		return nil
	}
	return all[:min(len(all), 2*maxKnown)]
}

func (k knownPeers) put(id blob.ID, peers []netip.AddrPort) error {
	return k.write(k.name(id), peers[:min(len(peers), maxKnown)])
}

func (k knownPeers) putNodes(nodes []netip.AddrPort) error {
	return k.write(nodesName, nodes[:min(len(nodes), 2*maxKnown)])
}

// write replaces a file. Nothing is synced: what a power loss leaves of it cannot be read, and is not there.
func (k knownPeers) write(name string, all []netip.AddrPort) error {
	raw, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("known peers: %w", err)
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return fmt.Errorf("known peers: %w", err)
	}
	tmp, err := os.CreateTemp(k.dir, "tmp-")
	if err != nil {
		return fmt.Errorf("known peers: %w", err)
	}
	_, err = tmp.Write(raw)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(k.dir, name))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("known peers: %w", err)
	}
	return nil
}

// sweep removes the files of blobs that are not in the store any more, and what was being written.
func (k knownPeers) sweep(s *blockio.Store, l library) error {
	known := map[string]bool{nodesName: true}
	for _, i := range s.List() {
		known[k.name(i.ID)] = true
	}
	files, err := os.ReadDir(k.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("known peers: %w", err)
	}
	var errs []error
	for _, f := range files {
		if !known[f.Name()] && !l.has(f.Name()) {
			errs = append(errs, os.Remove(filepath.Join(k.dir, f.Name())))
		}
	}
	return errors.Join(errs...)
}

// worth are the peers that are worth remembering, best first: those that have brought most, then those that have
// most. Of two lists the newer one comes first, and fills up with those of the older.
func worth(infos []swarm.PeerInfo, older []netip.AddrPort) (all []netip.AddrPort) {
	slices.SortStableFunc(infos, func(a, b swarm.PeerInfo) int {
		return cmp.Or(cmp.Compare(b.Downloaded, a.Downloaded), cmp.Compare(b.Pieces, a.Pieces), cmp.Compare(b.Uploaded, a.Uploaded))
	})
	var bad []netip.AddrPort
	for _, p := range infos {
		switch {
		case p.Banned:
			bad = append(bad, p.Addr, p.Listens)
		case p.Listens.IsValid():
			all = append(all, p.Listens)
		}
	}
	for _, a := range older {
		if !slices.Contains(all, a) && !slices.Contains(bad, a) {
			all = append(all, a)
		}
	}
	return all[:min(len(all), maxKnown)]
}

// remember keeps the list of known peers of a blob up to date until stop is called, which does so once more.
func (n *Node) remember(l *live, t *swarm.Torrent) (stop func()) {
	k := n.finders.known
	last := k.get(l.id)
	save := func() {
		now := worth(t.Peers(), last)
		if slices.Equal(now, last) {
			return
		}
		if err := k.put(l.id, now); err != nil {
			n.log.Warn("peers are not remembered", "blob", l.id, "err", err)
			return
		}
		last = now
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(knownFirst)
		defer timer.Stop()
		for {
			select {
			case <-timer.C:
				save()
				timer.Reset(knownEvery)
			case <-done:
				save()
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

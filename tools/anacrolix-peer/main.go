// Command anacrolix-peer is a small BitTorrent client around github.com/anacrolix/torrent, for tests: all discovery
// but trackers is switched off.
//
//	anacrolix-peer TORRENT FOLDER ADDRESS:PORT
//
// It prints READY when it listens, and DONE when everything is there and
// verified. It ends when standard input is closed.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"github.com/anacrolix/log"
	"github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: anacrolix-peer TORRENT FOLDER ADDRESS:PORT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Println("FAILED", err)
		os.Exit(1)
	}
}

func run(source, dir, listen string) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	c := torrent.NewDefaultClientConfig()
	c.Seed = true
	c.NoDHT, c.NoDefaultPortForwarding, c.DisableUTP, c.DisableIPv6, c.DisableWebtorrent = true, true, true, true, true
	c.DefaultStorage = storage.NewFileOpts(storage.NewFileClientOpts{ClientBaseDir: dir, PieceCompletion: storage.NewMapPieceCompletion()})
	c.Logger = log.Default.WithFilterLevel(log.Warning)
	c.SetListenAddr(net.JoinHostPort(host, port))
	if c.ListenPort, err = strconv.Atoi(port); err != nil {
		return err
	}
	client, err := torrent.NewClient(c)
	if err != nil {
		return err
	}
	defer client.Close()
	fmt.Println("READY")
	meta, err := metainfo.LoadFromFile(source)
	if err != nil {
		return err
	}
	spec, err := torrent.TorrentSpecFromMetaInfoErr(meta)
	if err != nil {
		return err
	}
	spec.Trackers = nil // not before it wants something: it would ask for no peers, and only for more when the interval is over
	t, _, err := client.AddTorrentSpec(spec)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(context.Background())
	go func() {
		defer end()
		io.Copy(io.Discard, os.Stdin)
	}()
	ended := ctx.Done()
	select {
	case <-t.GotInfo():
	case <-ended:
		return nil
	}
	if err := t.VerifyDataContext(ctx); err != nil {
		return err
	}
	t.DownloadAll()
	t.AddTrackers(meta.UpvertedAnnounceList())
	select {
	case <-t.Complete().On():
		fmt.Println("DONE")
	case <-ended:
		return nil
	}
	<-ended
	return nil
}

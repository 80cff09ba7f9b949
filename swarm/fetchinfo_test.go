package swarm_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
	"github.com/pantala/pantala/swarm"
	"github.com/pantala/pantala/swarm/swarmtest"
)

// addInfo lets a node answer for an info dictionary; what the torrent is about does not matter.
func addInfo(t testing.TB, info []byte, private bool) *swarm.Node {
	t.Helper()
	n := newNode(t, swarm.Options{})
	v1, v2 := sha1.Sum(info), sha256.Sum256(info)
	_, err := n.Add(swarm.Config{
		Keys: [][20]byte{[20]byte(v2[:20]), v1}, Store: empty(t, blob.GeometryFor(1)), Info: info, Private: private,
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func infoHash(info []byte) swarm.InfoHash {
	return swarm.InfoHash{V1: sha1.Sum(info), V2: sha256.Sum256(info)}
}

// list is a channel of addresses that ends.
func list(addrs ...netip.AddrPort) <-chan netip.AddrPort {
	c := make(chan netip.AddrPort, len(addrs))
	for _, a := range addrs {
		c <- a
	}
	close(c)
	return c
}

// TestFetchInfo gets info dictionaries of several lengths by either hash, and both.
func TestFetchInfo(t *testing.T) {
	for _, size := range []int64{1, 16 << 10, 16<<10 + 1, 1<<20 + 5} {
		info := swarmtest.Random(size, 41)
		a, b := addInfo(t, info, false), addInfo(t, info, false)
		h := infoHash(info)
		for _, want := range []swarm.InfoHash{h, {V1: h.V1}, {V2: h.V2}} {
			got, err := newNode(t, swarm.Options{}).FetchInfo(deadline(t), want, list(a.Addr(), b.Addr()))
			if err != nil || !bytes.Equal(got, info) {
				t.Errorf("%d bytes by %s: %v", size, want, err)
			}
		}
	}
}

// infoPeer is a peer that says it has metadata of size bytes, and answers a request as f says; nil: not at all.
func infoPeer(t testing.TB, size int, f func(piece uint32) *peerwire.Metadata) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				h, err := peerwire.ReadHandshake(c)
				if err != nil {
					return
				}
				h.PeerID = [20]byte{5}
				out := peerwire.AppendHandshake(nil, h)
				out = peerwire.AppendExtendedHandshake(out, peerwire.ExtendedHandshake{
					Messages: map[string]uint8{peerwire.MetadataName: 9}, MetadataSize: size,
				})
				if _, err := c.Write(out); err != nil {
					return
				}
				rd := peerwire.NewReader(c, 1)
				var ext uint8
				for {
					m, err := rd.Next()
					if err != nil {
						return
					}
					if m.ID == peerwire.Extended && m.Ext == 0 {
						h, _ := peerwire.ParseExtendedHandshake(m.Data)
						ext = h.Messages[peerwire.MetadataName]
					}
					if m.ID != peerwire.Extended || m.Ext != 9 {
						continue
					}
					q, err := peerwire.ParseMetadata(m.Data)
					if err != nil {
						t.Error(err)
						return
					}
					if answer := f(q.Piece); answer != nil {
						c.Write(peerwire.AppendMetadata(nil, ext, *answer))
					}
				}
			})
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// honest answers with pieces of info.
func honest(info []byte) func(uint32) *peerwire.Metadata {
	return func(i uint32) *peerwire.Metadata {
		at := int(i) * peerwire.MetadataPiece
		return &peerwire.Metadata{Type: peerwire.MetadataData, Piece: i, Size: len(info), Data: info[at:min(at+peerwire.MetadataPiece, len(info))]}
	}
}

// TestFetchInfoLiars gets the right bytes in spite of peers that send wrong ones, say wrong sizes, or stall.
func TestFetchInfoLiars(t *testing.T) {
	info := swarmtest.Random(200_000, 42)
	wrong := func(i uint32) *peerwire.Metadata {
		m := honest(info)(i)
		m.Data = bytes.Clone(m.Data)
		m.Data[0] ^= 1
		return m
	}
	short := func(i uint32) *peerwire.Metadata {
		return &peerwire.Metadata{Type: peerwire.MetadataData, Piece: i, Size: len(info), Data: []byte("x")}
	}
	slow := func(i uint32) *peerwire.Metadata {
		time.Sleep(5 * time.Millisecond)
		return honest(info)(i)
	}
	silent := func(uint32) *peerwire.Metadata { return nil }
	reject := func(i uint32) *peerwire.Metadata { return &peerwire.Metadata{Type: peerwire.MetadataReject, Piece: i} }
	for name, peers := range map[string][]netip.AddrPort{
		"wrong bytes": {infoPeer(t, len(info), wrong), infoPeer(t, len(info), wrong), infoPeer(t, len(info), slow)},
		"sizes": {
			infoPeer(t, 10, honest(info[:10])), infoPeer(t, peerwire.MaxMetadata, silent), infoPeer(t, peerwire.MaxMetadata, slow),
			infoPeer(t, len(info), honest(info)),
		},
		"short":  {infoPeer(t, len(info), short), infoPeer(t, len(info), slow)},
		"reject": {infoPeer(t, len(info), reject), infoPeer(t, 0, reject), infoPeer(t, len(info), slow)},
		"silent": {infoPeer(t, len(info), silent), infoPeer(t, len(info), slow)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newNode(t, swarm.Options{}).FetchInfo(deadline(t), infoHash(info), list(peers...))
			if err != nil || !bytes.Equal(got, info) {
				t.Error(err)
			}
		})
	}
}

// TestFetchInfoFails says why there is no metadata.
func TestFetchInfoFails(t *testing.T) {
	info := []byte("d4:name1:xe")
	n := newNode(t, swarm.Options{})
	if _, err := n.FetchInfo(deadline(t), swarm.InfoHash{}, list()); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("no hash: %v", err)
	}
	want := infoHash(info)
	if _, err := n.FetchInfo(deadline(t), want, list()); !errors.Is(err, blob.ErrUnavailable) || !strings.Contains(err.Error(), "no peer is known") {
		t.Errorf("no peers: %v", err)
	}
	// A private torrent's is not given away.
	private := addInfo(t, info, true)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := n.FetchInfo(ctx, want, list(private.Addr()))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 of them could be talked to, 0 offered it") {
		t.Errorf("private: %v", err)
	}
	// The node is closed meanwhile.
	other := newNode(t, swarm.Options{})
	done := make(chan error)
	go func() {
		_, err := other.FetchInfo(deadline(t), want, make(chan netip.AddrPort))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	other.Close()
	if err := <-done; !errors.Is(err, blob.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestMetadataBounded: a peer gets the dictionary a bounded number of times over one connection.
func TestMetadataBounded(t *testing.T) {
	info := swarmtest.Random(40_000, 43)
	n := addInfo(t, info, false)
	c, err := net.Dial("tcp", n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	out := peerwire.AppendHandshake(nil, peerwire.Handshake{Reserved: peerwire.Abilities, InfoHash: sha1.Sum(info), PeerID: [20]byte{8}})
	out = peerwire.AppendBare(out, peerwire.HaveNone)
	out = peerwire.AppendExtendedHandshake(out, peerwire.ExtendedHandshake{Messages: map[string]uint8{peerwire.MetadataName: 4}})
	for i := range uint32(20) {
		out = peerwire.AppendMetadata(out, 2, peerwire.Metadata{Type: peerwire.MetadataRequest, Piece: i % 4})
	}
	if _, err := c.Write(out); err != nil {
		t.Fatal(err)
	}
	if _, err := peerwire.ReadHandshake(c); err != nil {
		t.Fatal(err)
	}
	rd := peerwire.NewReader(c, 1)
	data, rejects := 0, 0
	for data+rejects < 20 {
		m, err := rd.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.ID == peerwire.Extended && m.Ext == 0 {
			h, err := peerwire.ParseExtendedHandshake(m.Data)
			if err != nil || h.MetadataSize != len(info) || h.Messages[peerwire.MetadataName] != 2 {
				t.Errorf("offered %+v, %v", h, err)
			}
		}
		if m.ID != peerwire.Extended || m.Ext != 4 {
			continue
		}
		a, err := peerwire.ParseMetadata(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if a.Type == peerwire.MetadataReject {
			rejects++
			continue
		}
		data++
		if !bytes.Equal(a.Data, honest(info)(a.Piece).Data) || a.Size != len(info) {
			t.Errorf("piece %d differs", a.Piece)
		}
	}
	if data != 9 {
		t.Errorf("%d pieces were sent", data)
	}
}

package fetch

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/blockio"
)

// TestDisputedPieceIsFilledAgain: what a dispute took away is behind what has been filled already.
func TestDisputedPieceIsFilledAgain(t *testing.T) {
	data := content(8 << 20)
	store := open(t, data, blockio.Options{})
	claim(t, store, data)
	synctest.Test(t, func(t *testing.T) {
		peers, origin := source(data), source(data)
		peers.before = func(context.Context) error { time.Sleep(time.Millisecond); return nil } // filled bit by bit
		e := New(Options{})
		defer e.Close()
		b := e.Open(Config{Store: store, Peers: peers, Origin: origin, Fill: FillEager})
		b.Wake()
		time.Sleep(time.Second)
		if !b.Complete() {
			t.Fatalf("not complete: %+v", b.Stats())
		}
		peers.has = func(blob.Run) bool { return false }
		store.DropClaim(2)
		if b.Complete() {
			t.Fatal("the dispute took nothing away")
		}
		b.Wake()
		time.Sleep(time.Second)
		if !b.Complete() {
			t.Errorf("a disputed piece is not fetched again: %+v", b.Stats())
		}
	})
}

// TestDisputedBytesAreNotServed: bytes that were believed because of a claim and could not be kept must go with
// the claim.
func TestDisputedBytesAreNotServed(t *testing.T) {
	data, lie := content(1<<20), content(1<<20)
	for i := range lie {
		lie[i] ^= 1
	}
	store := open(t, data, blockio.Options{Quota: 1})
	claim(t, store, lie)
	peers, origin := source(lie), source(data)
	b := start(t, Options{}, Config{Store: store, Peers: peers, Origin: origin, Fill: FillNever})
	if p, err := read(t, b, 0, 4096); err != nil || !bytes.Equal(p, lie[:4096]) {
		t.Fatalf("the claim is not believed: %v", err)
	}
	peers.has = func(blob.Run) bool { return false }
	store.DropClaim(0)
	if p, err := read(t, b, 0, 4096); err != nil || !bytes.Equal(p, data[:4096]) {
		t.Errorf("after the dispute: %v, or the claimed bytes still", err)
	}
}

package node

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/control"
	"github.com/pantala/pantala/metainfo"
	"github.com/pantala/pantala/origin/origintest"
)

// TestMeetByDigest: nodes that know the same digest, and different URLs, meet before anybody can know the infohash,
// and share what they read; those without a digest do not.
func TestMeetByDigest(t *testing.T) {
	want := origintest.Bytes(31, 3<<20+5)
	digest := blob.Hash(sha256.Sum256(want))
	one, two := origintest.New(t, origintest.Of(want)), origintest.New(t, origintest.Of(want))
	announce := startTracker(t)
	first := start(t, conf(t, announce))
	o := control.Options{Digest: "sha256:" + digest.String()}
	reply, err := first.Share(patient(t), control.ShareRequest{URL: one.At("/a/model.bin"), Options: o}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, st := fetchAll(t, start(t, conf(t, announce)), two.At("/other/name.bin"), o)
	if !bytes.Equal(got, want) || st.FromPeers < int64(len(want))*9/10 {
		t.Errorf("%d bytes, %+v", len(got), st)
	}
	if _, st := fetchAll(t, start(t, conf(t, announce)), two.At("/other/name.bin"), control.Options{}); st.FromPeers > 0 && st.FromOrigin == 0 {
		t.Errorf("without a digest nobody can say that it is the same: %+v", st)
	}
	// Now that all bytes are there they have an infohash, too, under which the first node is found.
	m, err := metainfo.ParseMagnet(reply.Magnet)
	if err != nil {
		t.Fatal(err)
	}
	bare := metainfo.Magnet{V2: m.V2, Size: -1, Trackers: []string{announce}}
	if got, st := fetchAll(t, start(t, conf(t)), bare.String(), control.Options{}); !bytes.Equal(got, want) || st.FromPeers != int64(len(want)) {
		t.Errorf("%d bytes, %+v", len(got), st)
	}
}

// TestTogetherByDigest: cold nodes with different URLs of the same bytes divide the work between them.
func TestTogetherByDigest(t *testing.T) {
	want := origintest.Bytes(32, 8<<20)
	digest := blob.Hash(sha256.Sum256(want))
	announce := startTracker(t)
	type result struct {
		got []byte
		st  control.Transfer
		err error
	}
	results := make(chan result, 2)
	for range cap(results) {
		s := origintest.New(t, origintest.Of(want))
		// Slow, so that what each reads before it has heard of the other is little, also on a busy machine.
		s.Set(origintest.Faults{Rate: 2 << 20})
		n := start(t, conf(t, announce))
		go func() {
			d, err := n.Download(t.Context(), s.At("/model.bin"), control.Options{Digest: "sha256:" + digest.String()}, 0, noProgress)
			if err != nil {
				results <- result{err: err}
				return
			}
			defer d.Close()
			var b bytes.Buffer
			err = d.CopyTo(t.Context(), &b, digest, func(control.Transfer) {})
			results <- result{b.Bytes(), d.Status(), err}
		}()
	}
	var origin int64
	for range cap(results) {
		r := <-results
		if r.err != nil || !bytes.Equal(r.got, want) {
			t.Errorf("bytes differ, or %v", r.err)
		}
		origin += r.st.FromOrigin
	}
	t.Logf("%d bytes from two origins for %d", origin, len(want))
	if origin > int64(len(want))*3/2 {
		t.Errorf("%d bytes came from the origins, which both have %d", origin, len(want))
	}
}

package peerwire_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// TestMetadata compares with the examples of BEP 9.
func TestMetadata(t *testing.T) {
	for _, c := range []struct {
		m    peerwire.Metadata
		body string
	}{
		{peerwire.Metadata{Type: peerwire.MetadataRequest}, "d8:msg_typei0e5:piecei0ee"},
		{peerwire.Metadata{Type: peerwire.MetadataData, Size: 3425, Data: []byte("xxxxxxxx")}, "d8:msg_typei1e5:piecei0e10:total_sizei3425eexxxxxxxx"},
		{peerwire.Metadata{Type: peerwire.MetadataReject, Piece: 7}, "d8:msg_typei2e5:piecei7ee"},
	} {
		b := peerwire.AppendMetadata(nil, 3, c.m)
		frame, err := peerwire.NewReader(bytes.NewReader(b), 1).Next()
		if err != nil || frame.ID != peerwire.Extended || frame.Ext != 3 || string(frame.Data) != c.body {
			t.Errorf("%+v is sent as %+v, %v", c.m, frame, err)
		}
		got, err := peerwire.ParseMetadata([]byte(c.body))
		if d := cmp.Diff(c.m, got, cmpopts.EquateEmpty()); d != "" || err != nil {
			t.Errorf("%s: %v %s", c.body, err, d)
		}
	}
	for _, bad := range []string{
		"", "i1e", "de", "d8:msg_typei0ee", "d5:piecei0ee", "d8:msg_typei-1e5:piecei0ee", "d8:msg_typei0e5:piecei-1ee",
		"d8:msg_typei0e5:piecei99999999999ee", "d8:msg_typei1e5:piecei0ee", "d8:msg_type1:05:piecei0ee",
		"d8:msg_typei1e5:piecei0e10:total_sizei999999999eex",
		"d8:msg_typei1e5:piecei0ee" + strings.Repeat("x", peerwire.MetadataPiece+1), strings.Repeat("l", 20_000),
	} {
		if m, err := peerwire.ParseMetadata([]byte(bad)); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%.60q: %+v, %v, want ErrInvalid", bad, m, err)
		}
	}
	// A whole piece fits the frames that are read.
	full := peerwire.AppendMetadata(nil, 255, peerwire.Metadata{
		Type: peerwire.MetadataData, Piece: 2047, Size: peerwire.MaxMetadata, Data: make([]byte, peerwire.MetadataPiece),
	})
	if _, err := peerwire.NewReader(bytes.NewReader(full), 1).Next(); err != nil {
		t.Error(err)
	}
}

// FuzzMetadata reads what strangers may send as a message of BEP 9: no panic, and what is read is in bounds and
// says the same when it is written again.
func FuzzMetadata(f *testing.F) {
	for _, s := range []string{
		"d8:msg_typei0e5:piecei0ee", "d8:msg_typei1e5:piecei0e10:total_sizei3425eexxxxxxxx", "d8:msg_typei2e5:piecei7ee",
		"d8:msg_typei9e5:piecei7e3:food1:ai1eee", "d1:al", "d8:msg_typei1e8:msg_typei0e5:piecei0ee",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := peerwire.ParseMetadata(body)
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("error without its class: %v", err)
			}
			return
		}
		if len(m.Data) > peerwire.MetadataPiece || m.Size > peerwire.MaxMetadata || m.Size < 0 || int(m.Piece) > peerwire.MaxMetadata/peerwire.MetadataPiece {
			t.Fatalf("out of bounds: %+v", m)
		}
		if m.Type != peerwire.MetadataData {
			m.Size = 0
		}
		again, err := peerwire.ParseMetadata(peerwire.AppendMetadata(nil, 1, m)[6:])
		if err != nil || !cmp.Equal(m, again, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v is read as %+v, %v", m, again, err)
		}
	})
}

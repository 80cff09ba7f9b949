package origin_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/origin"
	"github.com/pantala/pantala/origin/origintest"
)

func TestStreamFaults(t *testing.T) {
	for _, test := range []struct {
		name       string
		open, then origintest.Faults
		class      error
	}{
		{name: "good"},
		{name: "no ranges", open: origintest.Faults{IgnoreRange: true}, then: origintest.Faults{IgnoreRange: true}},
		{name: "no size", open: origintest.Faults{Chunked: true}, then: origintest.Faults{Chunked: true}},
		{name: "no size, then one", open: origintest.Faults{Chunked: true}},
		{name: "size, then none", then: origintest.Faults{Chunked: true}},
		{name: "star total", open: origintest.Faults{StarTotal: true}},
		{name: "cut", then: origintest.Faults{ShortBody: 300_000}},
		{name: "reset", then: origintest.Faults{Reset: 300_000}},
		{name: "stall", then: origintest.Faults{Stall: 300_000, Times: 2}},
		{name: "shorter ranges", then: origintest.Faults{ShortBody: 300_000, Shorten: 200_000, Times: 3}},
		{name: "500", then: origintest.Faults{Status: 500, Times: 1}},
		{name: "404", then: origintest.Faults{Status: 404}, class: blob.ErrNotFound},
		// Without ranges the start is read again, and skipped: the validator says that it is the same.
		{name: "no ranges, cut once", open: origintest.Faults{IgnoreRange: true}, then: origintest.Faults{IgnoreRange: true, Reset: 300_000, Times: 1}},
		{name: "no ranges, always cut", open: origintest.Faults{IgnoreRange: true}, then: origintest.Faults{IgnoreRange: true, Reset: 300_000}, class: blob.ErrUnavailable},
		{name: "no size, cut once", open: origintest.Faults{Chunked: true}, then: origintest.Faults{Chunked: true, ShortBody: 300_000, Times: 1}},
		// Without a validator nothing tells whether the rest is of the same object.
		{name: "no validator", open: origintest.Faults{NoETag: true, NoLastModified: true}},
		{name: "no validator, cut", open: origintest.Faults{NoETag: true, NoLastModified: true}, then: origintest.Faults{NoETag: true, NoLastModified: true, ShortBody: 300_000, Times: 1}, class: blob.ErrUnavailable},
		{name: "no size, no validator, cut", open: origintest.Faults{Chunked: true, NoETag: true, NoLastModified: true}, then: origintest.Faults{Chunked: true, NoETag: true, NoLastModified: true, ShortBody: 300_000, Times: 1}, class: blob.ErrUnavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := origintest.Bytes(30, size)
			s := origintest.New(t, origintest.Of(want))
			s.Set(test.open)
			obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
			s.Set(test.then)
			got, err := streamAll(t, obj)
			if !errors.Is(err, test.class) {
				t.Fatalf("Stream: %v, want %v", err, test.class)
			}
			if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
				t.Errorf("Stream gave %d bytes, or wrong ones", len(got))
			}
			if err == nil && obj.Size() != size {
				t.Errorf("size %d after Stream", obj.Size())
			}
		})
	}
}

func TestStreamChanged(t *testing.T) {
	want := origintest.Bytes(31, size)
	s := origintest.New(t, origintest.Of(want))
	obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
	s.Set(origintest.Faults{ShortBody: 300_000})
	s.ChangeAfter(1, origintest.Of(origintest.Bytes(32, size)))
	got, err := streamAll(t, obj)
	if !errors.Is(err, blob.ErrChanged) || !bytes.HasPrefix(want, got) || !obj.Changed() {
		t.Errorf("Stream gave %d bytes, %v", len(got), err)
	}
}

func TestStreamReceiver(t *testing.T) {
	s := origintest.New(t, origintest.Of(origintest.Bytes(33, size)))
	obj := open(t, newClient(t, impatient), s.At("/x"), origin.Options{})
	own := errors.New("own trouble")
	if err := obj.Stream(within(t, 10*time.Second), func([]byte) error { return own }); !errors.Is(err, own) || s.Requests() != 2 {
		t.Errorf("Stream: %v after %d requests", err, s.Requests())
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.Set(origintest.Faults{Stall: 300_000})
	if err := obj.Stream(ctx, func([]byte) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Stream: %v, want canceled", err)
	}
}

package peerwire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

const id = peerwire.RunsID

// runs are the messages of our extension as docs/wire.md gives them.
var runs = []struct {
	name string
	enc  []byte
	hex  string
	want peerwire.Message
}{
	{
		"run", peerwire.AppendRun(nil, id, peerwire.Run{Class: 3, Flags: peerwire.RunWait, Tag: 7, Block: 0x100, Count: 16, Millis: 20_000}),
		"00000015" + "14" + "11" + "00" + "03" + "01" + "00000007" + "00000100" + "00000010" + "00004e20",
		peerwire.Message{Run: peerwire.Run{Class: 3, Flags: peerwire.RunWait, Tag: 7, Block: 0x100, Count: 16, Millis: 20_000}},
	},
	{
		"data", append(peerwire.AppendDataHeader(nil, id, peerwire.Run{Flags: peerwire.DataLast, Tag: 7, Block: 0x100, Bytes: 3}, 3), "abc"...),
		"00000013" + "14" + "11" + "01" + "01" + "00000007" + "00000100" + "00000003" + "616263",
		peerwire.Message{Length: 3, Run: peerwire.Run{Op: peerwire.OpData, Flags: peerwire.DataLast, Tag: 7, Block: 0x100, Bytes: 3}},
	},
	{
		"cancel", peerwire.AppendRunCancel(nil, id, 7), "00000007" + "14" + "11" + "02" + "00000007",
		peerwire.Message{Run: peerwire.Run{Op: peerwire.OpCancel, Tag: 7}},
	},
	{
		"reject", peerwire.AppendRunReject(nil, id, 7, peerwire.ReasonBusy, 100),
		"0000000c" + "14" + "11" + "03" + "02" + "00000007" + "00000064",
		peerwire.Message{Run: peerwire.Run{Op: peerwire.OpReject, Tag: 7, Reason: peerwire.ReasonBusy, Millis: 100}},
	},
	{
		"snapshot", peerwire.AppendRanges(nil, id, true, []blob.Run{{First: 1, Count: 2}, {First: 9, Count: 1}}),
		"00000014" + "14" + "11" + "04" + "00" + "0000000100000002" + "0000000900000001",
		peerwire.Message{
			Run:  peerwire.Run{Op: peerwire.OpHave, Whole: true},
			Data: []byte{0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1},
		},
	},
	{
		"delta of nothing", peerwire.AppendRanges(nil, id, false, nil), "00000004" + "14" + "11" + "04" + "01",
		peerwire.Message{Run: peerwire.Run{Op: peerwire.OpHave}, Data: []byte{}},
	},
	{
		"unknown op", peerwire.AppendExtended(nil, id, []byte{99, 1, 2}), "00000005" + "14" + "11" + "63" + "0102",
		peerwire.Message{Run: peerwire.Run{Op: 99}},
	},
}

func TestRunsGolden(t *testing.T) {
	for _, c := range runs {
		t.Run(c.name, func(t *testing.T) {
			c.want.ID, c.want.Ext = peerwire.Extended, id
			if got := hex.EncodeToString(c.enc); got != c.hex {
				t.Errorf("encoded\n %s, want\n %s", got, c.hex)
			}
			// A frame behind it must be found, whatever the pieces in which the bytes come.
			stream := peerwire.AppendHave(bytes.Clone(c.enc), 5)
			for _, src := range []io.Reader{bytes.NewReader(stream), iotest.OneByteReader(bytes.NewReader(stream))} {
				r := peerwire.NewReader(src, 2)
				got, err := r.Next()
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Error(d)
				}
				if m, err := r.Next(); err != nil || m.ID != peerwire.Have {
					t.Errorf("after it: %+v, %v", m, err)
				}
			}
			for n := range len(c.enc) {
				r := peerwire.NewReader(bytes.NewReader(c.enc[:n]), 2)
				m, err := r.Next()
				if err == nil && m.Run.Op == peerwire.OpData {
					_, err = r.Skip(int(m.Length))
				}
				if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[n < 4]; !errors.Is(err, want) {
					t.Errorf("cut at %d: %+v, %v, want %v", n, m, err, want)
				}
			}
		})
	}
}

func TestRunsMalformed(t *testing.T) {
	data := func(bytes uint32, n int) []byte {
		return append(peerwire.AppendDataHeader(nil, id, peerwire.Run{Bytes: bytes}, n), make([]byte, min(n, 1<<20))...)
	}
	for name, frame := range map[string][]byte{
		"no op":                peerwire.AppendExtended(nil, id, nil),
		"short run":            peerwire.AppendExtended(nil, id, make([]byte, 18)),
		"long run":             peerwire.AppendExtended(nil, id, make([]byte, 20)),
		"run of nothing":       peerwire.AppendRun(nil, id, peerwire.Run{}),
		"run of too much":      peerwire.AppendRun(nil, id, peerwire.Run{Count: peerwire.MaxRunBlocks + 1}),
		"run beyond the end":   peerwire.AppendRun(nil, id, peerwire.Run{Block: 1<<32 - 2, Count: 4}),
		"short cancel":         peerwire.AppendExtended(nil, id, []byte{2, 0, 0, 0}),
		"short reject":         peerwire.AppendExtended(nil, id, []byte{3, 0, 0, 0, 0}),
		"have without kind":    peerwire.AppendExtended(nil, id, []byte{4}),
		"have of another kind": peerwire.AppendExtended(nil, id, []byte{4, 2}),
		"half a range":         peerwire.AppendExtended(nil, id, []byte{4, 0, 1, 2, 3, 4}),
		"too many ranges":      peerwire.AppendRanges(nil, id, true, make([]blob.Run, peerwire.MaxRanges+1)),
		"data without fields":  peerwire.AppendExtended(nil, id, []byte{1, 0, 0}),
		"data of nothing":      data(0, 0),
		"data of too much":     data(peerwire.MaxRun+1, peerwire.MaxRun+1),
		"data longer than it":  data(10, 11),
		"data without payload": data(10, 0),
	} {
		r := peerwire.NewReader(bytes.NewReader(frame), 2)
		if m, err := r.Next(); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want ErrInvalid", name, m, err)
		}
	}
	// The longest data message is read.
	frame := data(peerwire.MaxRun, peerwire.MaxRun)
	r := peerwire.NewReader(bytes.NewReader(frame), 2)
	m, err := r.Next()
	if err != nil || m.Length != peerwire.MaxRun {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := r.Payload(make([]byte, m.Length)); err != nil {
		t.Error(err)
	}
}

// TestSomeAndSkip reads a payload piece by piece, around interruptions.
func TestSomeAndSkip(t *testing.T) {
	body := []byte("0123456789")
	stream := append(peerwire.AppendDataHeader(nil, id, peerwire.Run{Bytes: 10}, 10), body...)
	stream = peerwire.AppendHave(stream, 1)
	r := peerwire.NewReader(&flaky{src: iotest.OneByteReader(bytes.NewReader(stream))}, 2)
	next := func() peerwire.Message {
		for {
			m, err := r.Next()
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
		}
	}
	next()
	var got []byte
	for len(got) < 4 {
		p := make([]byte, 4-len(got))
		n, err := r.Some(p)
		if got = append(got, p[:n]...); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	for left := 3; left > 0; {
		var err error
		if left, err = r.Skip(left); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	for len(got) < 7 {
		p := make([]byte, 7-len(got))
		n, _ := r.Some(p)
		got = append(got, p[:n]...)
	}
	if string(got) != "0123789" {
		t.Errorf("read %q", got)
	}
	if _, err := r.Some(make([]byte, 1)); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("beyond the payload: %v", err)
	}
	if m := next(); m.ID != peerwire.Have {
		t.Errorf("after it: %+v", m)
	}
}

// flaky interrupts every other read.
type flaky struct {
	src io.Reader
	n   int
}

func (f *flaky) Read(p []byte) (int, error) {
	if f.n++; f.n%2 == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return f.src.Read(p)
}

// TestRunsAllocations: neither side allocates for a message.
func TestRunsAllocations(t *testing.T) {
	var stream []byte
	for _, c := range runs {
		stream = append(stream, c.enc...)
	}
	r := peerwire.NewReader(&loop{b: stream}, 2)
	buf := make([]byte, 0, 4096)
	ranges := []blob.Run{{First: 1, Count: 2}}
	if n := testing.AllocsPerRun(1000, func() {
		m, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		for i := range peerwire.Ranges(m.Data) {
			_ = peerwire.Range(m.Data, i)
		}
		b := peerwire.AppendRun(buf, id, m.Run)
		b = peerwire.AppendDataHeader(b, id, m.Run, 3)
		b = peerwire.AppendRunReject(b, id, 1, peerwire.ReasonAbsent, 0)
		_ = peerwire.AppendRanges(b, id, false, ranges)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzExtension reads one frame of our extension with an arbitrary body: no panic, nothing beyond the limits, and
// what is accepted means the same when it is encoded again.
func FuzzExtension(f *testing.F) {
	for _, c := range runs {
		f.Add(c.enc[6:])
	}
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{4, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, body []byte) {
		in := peerwire.AppendExtended(nil, id, body)
		r := peerwire.NewReader(bytes.NewReader(in), 2)
		m, err := r.Next()
		if err != nil {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		var again []byte
		switch m.Run.Op {
		case peerwire.OpRun:
			if m.Run.Count == 0 || m.Run.Count > peerwire.MaxRunBlocks {
				t.Fatalf("beyond the limits: %+v", m)
			}
			again = peerwire.AppendRun(nil, id, m.Run)
		case peerwire.OpData:
			if m.Length > peerwire.MaxRun || m.Run.Bytes > peerwire.MaxRun {
				t.Fatalf("beyond the limits: %+v", m)
			}
			payload := make([]byte, m.Length)
			if _, err := r.Payload(payload); err != nil {
				t.Fatal(err)
			}
			again = append(peerwire.AppendDataHeader(nil, id, m.Run, len(payload)), payload...)
		case peerwire.OpCancel:
			again = peerwire.AppendRunCancel(nil, id, m.Run.Tag)
		case peerwire.OpReject:
			again = peerwire.AppendRunReject(nil, id, m.Run.Tag, m.Run.Reason, m.Run.Millis)
		case peerwire.OpHave:
			n := peerwire.Ranges(m.Data)
			if n > peerwire.MaxRanges {
				t.Fatalf("%d ranges", n)
			}
			list := make([]blob.Run, n)
			for i := range list {
				list[i] = peerwire.Range(m.Data, i)
			}
			again = peerwire.AppendRanges(nil, id, m.Run.Whole, list)
		default:
			return
		}
		if !bytes.Equal(in, again) {
			t.Fatalf("%x became %x", in, again)
		}
	})
}

package peerwire_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// root is an easily recognised pieces root.
var root = blob.Hash(bytes.Repeat([]byte{0xaa}, 32))

func hashes(n int) []blob.Hash {
	hs := make([]blob.Hash, n)
	for i := range hs {
		hs[i] = blob.Hash{byte(i + 1)}
	}
	return hs
}

func flat(hs ...blob.Hash) (b []byte) {
	for _, h := range hs {
		b = append(b, h[:]...)
	}
	return b
}

// messages are all messages of BEP 3, 6, 10 and 52: how they are encoded, the bytes that the BEP prescribes,
// and what is read.
var messages = []struct {
	name string
	enc  []byte
	hex  string
	want peerwire.Message
}{
	{"keep-alive", peerwire.AppendKeepAlive(nil), "00000000", peerwire.Message{ID: peerwire.KeepAlive}},
	{"choke", peerwire.AppendBare(nil, peerwire.Choke), "0000000100", peerwire.Message{ID: peerwire.Choke}},
	{"unchoke", peerwire.AppendBare(nil, peerwire.Unchoke), "0000000101", peerwire.Message{ID: peerwire.Unchoke}},
	{"interested", peerwire.AppendBare(nil, peerwire.Interested), "0000000102", peerwire.Message{ID: peerwire.Interested}},
	{"not interested", peerwire.AppendBare(nil, peerwire.NotInterested), "0000000103", peerwire.Message{ID: peerwire.NotInterested}},
	{"have", peerwire.AppendHave(nil, 0x01020304), "000000050401020304", peerwire.Message{ID: peerwire.Have, Piece: 0x01020304}},
	{
		"bitfield", peerwire.AppendBitfield(nil, []uint64{1 | 1<<9}, 10), "00000003058040",
		peerwire.Message{ID: peerwire.Bitfield, Data: []byte{0x80, 0x40}},
	},
	{
		"request", peerwire.AppendRequest(nil, 1, 0x8000, 0x4000), "0000000d06000000010000800000004000",
		peerwire.Message{ID: peerwire.Request, Piece: 1, Begin: 0x8000, Length: 0x4000},
	},
	{
		"cancel", peerwire.AppendCancel(nil, 1, 0x8000, 0x4000), "0000000d08000000010000800000004000",
		peerwire.Message{ID: peerwire.Cancel, Piece: 1, Begin: 0x8000, Length: 0x4000},
	},
	{
		"piece", append(peerwire.AppendPieceHeader(nil, 7, 0x4000, 3), "abc"...), "0000000c070000000700004000616263",
		peerwire.Message{ID: peerwire.Piece, Piece: 7, Begin: 0x4000, Length: 3},
	},
	{"suggest", peerwire.AppendSuggest(nil, 5), "000000050d00000005", peerwire.Message{ID: peerwire.Suggest, Piece: 5}},
	{"have all", peerwire.AppendBare(nil, peerwire.HaveAll), "000000010e", peerwire.Message{ID: peerwire.HaveAll}},
	{"have none", peerwire.AppendBare(nil, peerwire.HaveNone), "000000010f", peerwire.Message{ID: peerwire.HaveNone}},
	{
		"reject", peerwire.AppendReject(nil, 1, 0x8000, 0x4000), "0000000d10000000010000800000004000",
		peerwire.Message{ID: peerwire.Reject, Piece: 1, Begin: 0x8000, Length: 0x4000},
	},
	{"allowed fast", peerwire.AppendAllowedFast(nil, 5), "000000051100000005", peerwire.Message{ID: peerwire.AllowedFast, Piece: 5}},
	{
		"extended", peerwire.AppendExtended(nil, 9, []byte("hi")), "0000000414096869",
		peerwire.Message{ID: peerwire.Extended, Ext: 9, Data: []byte("hi")},
	},
	{
		"extended handshake", peerwire.AppendExtendedHandshake(nil, peerwire.ExtendedHandshake{Client: "x", Port: 7, Queue: 9}),
		"0000001e1400" + hex.EncodeToString([]byte("d1:mde1:pi7e4:reqqi9e1:v1:xe")),
		peerwire.Message{ID: peerwire.Extended, Data: []byte("d1:mde1:pi7e4:reqqi9e1:v1:xe")},
	},
	{
		"hash request", peerwire.AppendHashRequest(nil, peerwire.HashRange{Root: root, Base: 0, Index: 64, Length: 64, Proof: 9}),
		"0000003115" + strings.Repeat("aa", 32) + "00000000000000400000004000000009",
		peerwire.Message{ID: peerwire.HashRequest, Range: peerwire.HashRange{Root: root, Index: 64, Length: 64, Proof: 9}},
	},
	{
		"hashes", peerwire.AppendHashes(nil, peerwire.HashRange{Root: root, Base: 4, Index: 2, Length: 2, Proof: 2}, hashes(2), hashes(2)),
		"000000b116" + strings.Repeat("aa", 32) + "00000004000000020000000200000002" + hex.EncodeToString(flat(append(hashes(2), hashes(2)...)...)),
		peerwire.Message{
			ID: peerwire.Hashes, Range: peerwire.HashRange{Root: root, Base: 4, Index: 2, Length: 2, Proof: 2},
			Data: flat(append(hashes(2), hashes(2)...)...),
		},
	},
	{
		"hash reject", peerwire.AppendHashReject(nil, peerwire.HashRange{Root: root, Index: 8, Length: 8}),
		"0000003117" + strings.Repeat("aa", 32) + "00000000000000080000000800000000",
		peerwire.Message{ID: peerwire.HashReject, Range: peerwire.HashRange{Root: root, Index: 8, Length: 8}},
	},
}

func TestGolden(t *testing.T) {
	for _, c := range messages {
		t.Run(c.name, func(t *testing.T) {
			if got := hex.EncodeToString(c.enc); got != c.hex {
				t.Errorf("encoded\n %s, want\n %s", got, c.hex)
			}
			got, err := peerwire.NewReader(bytes.NewReader(c.enc), 2).Next()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestStream reads all messages in a row, whatever the pieces in which the socket delivers them.
func TestStream(t *testing.T) {
	var all []byte
	for _, c := range messages {
		all = append(all, c.enc...)
	}
	for name, src := range map[string]io.Reader{
		"whole": bytes.NewReader(all), "bytewise": iotest.OneByteReader(bytes.NewReader(all)),
		"half": iotest.HalfReader(bytes.NewReader(all)), "with eof": iotest.DataErrReader(bytes.NewReader(all)),
	} {
		r := peerwire.NewReader(src, 2)
		for _, c := range messages {
			got, err := r.Next()
			if err != nil {
				t.Fatalf("%s, %s: %v", name, c.name, err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%s, %s: %s", name, c.name, d)
			}
			if got.ID == peerwire.Piece && name != "half" {
				p := make([]byte, got.Length)
				if n, err := r.Payload(p); n != 3 || err != nil || string(p) != "abc" {
					t.Errorf("%s: payload %q, %d, %v", name, p, n, err)
				}
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: end: %v, want EOF", name, err)
		}
	}
}

// TestTruncated cuts every message at every byte.
func TestTruncated(t *testing.T) {
	for _, c := range messages {
		for n := range len(c.enc) {
			r := peerwire.NewReader(bytes.NewReader(c.enc[:n]), 2)
			m, err := r.Next()
			if err == nil && m.ID == peerwire.Piece {
				_, err = r.Payload(make([]byte, m.Length))
			}
			want := io.ErrUnexpectedEOF
			if n < 4 {
				want = io.EOF // between frames, or in a length: the peer has gone
			}
			if !errors.Is(err, want) {
				t.Errorf("%s cut at %d: %v, want %v", c.name, n, err, want)
			}
		}
	}
}

// TestMalformed gives frames that break a BEP or a limit.
func TestMalformed(t *testing.T) {
	long := func(id peerwire.ID, n int) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(1+n)), append([]byte{byte(id)}, make([]byte, n)...)...)
	}
	for name, frame := range map[string][]byte{
		"choke with body":      long(peerwire.Choke, 1),
		"short have":           long(peerwire.Have, 3),
		"long have":            long(peerwire.Have, 5),
		"short request":        long(peerwire.Request, 11),
		"request of nothing":   peerwire.AppendRequest(nil, 0, 0, 0),
		"request of too much":  peerwire.AppendRequest(nil, 0, 0, peerwire.MaxBlock+1),
		"piece without begin":  long(peerwire.Piece, 7),
		"piece too long":       peerwire.AppendPieceHeader(nil, 0, 0, peerwire.MaxBlock+1),
		"huge frame":           {0xff, 0xff, 0xff, 0xff, byte(peerwire.Bitfield)},
		"huge unknown frame":   {0x00, 0x10, 0x00, 0x00, 99},
		"empty extended":       long(peerwire.Extended, 0),
		"no hashes asked":      peerwire.AppendHashRequest(nil, peerwire.HashRange{}),
		"3 hashes asked":       peerwire.AppendHashRequest(nil, peerwire.HashRange{Length: 3}),
		"1024 hashes asked":    peerwire.AppendHashRequest(nil, peerwire.HashRange{Length: 1024}),
		"unaligned hashes":     peerwire.AppendHashRequest(nil, peerwire.HashRange{Index: 1, Length: 2}),
		"too high":             peerwire.AppendHashRequest(nil, peerwire.HashRange{Base: 40, Length: 2}),
		"too long a proof":     peerwire.AppendHashRequest(nil, peerwire.HashRange{Length: 2, Proof: 1 << 31}),
		"too few hashes":       peerwire.AppendHashes(nil, peerwire.HashRange{Length: 4}, hashes(3), nil),
		"too many hashes":      peerwire.AppendHashes(nil, peerwire.HashRange{Length: 4, Proof: 3}, hashes(4), hashes(3)),
		"uncles without proof": peerwire.AppendHashes(nil, peerwire.HashRange{Length: 4}, hashes(4), hashes(1)),
		"half a hash":          long(peerwire.Hashes, 48+33),
	} {
		r := peerwire.NewReader(bytes.NewReader(frame), 2)
		if m, err := r.Next(); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want ErrInvalid", name, m, err)
		}
	}
}

// TestUnknown passes over frames with an id that nobody knows, as BEP 3 clients do.
func TestUnknown(t *testing.T) {
	b := []byte{0, 0, 0, 3, 77, 1, 2}
	r := peerwire.NewReader(bytes.NewReader(peerwire.AppendHave(b, 9)), 2)
	if m, err := r.Next(); err != nil || m.ID != 77 {
		t.Fatalf("%+v, %v", m, err)
	}
	if m, err := r.Next(); err != nil || m.ID != peerwire.Have || m.Piece != 9 {
		t.Errorf("after it: %+v, %v", m, err)
	}
}

// TestPayloadLeft reads a part of a payload, or none: the next frame is found all the same.
func TestPayloadLeft(t *testing.T) {
	body := make([]byte, peerwire.MaxBlock)
	stream := append(peerwire.AppendPieceHeader(nil, 1, 0, uint32(len(body))), body...)
	stream = append(stream, stream...)
	stream = peerwire.AppendHave(stream, 3)
	r := peerwire.NewReader(iotest.HalfReader(bytes.NewReader(stream)), 1)
	for _, take := range []int{0, 1000} {
		m, err := r.Next()
		if err != nil || m.Length != peerwire.MaxBlock {
			t.Fatalf("%+v, %v", m, err)
		}
		if _, err := r.Payload(make([]byte, take)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Payload(make([]byte, peerwire.MaxBlock)); !errors.Is(err, blob.ErrInvalid) {
		t.Errorf("more payload than there is: %v", err)
	}
	if m, err := r.Next(); err != nil || m.Piece != 3 {
		t.Errorf("after the pieces: %+v, %v", m, err)
	}
}

// interrupted fails every other Read, as a deadline does.
type interrupted struct {
	src io.Reader
	n   int
}

var errDeadline = errors.New("deadline")

func (i *interrupted) Read(p []byte) (int, error) {
	if i.n++; i.n%2 == 0 {
		return 0, errDeadline
	}
	return i.src.Read(p[:min(len(p), 5)])
}

// TestInterrupted resumes after errors that pass, in the middle of frames and payloads.
func TestInterrupted(t *testing.T) {
	stream := append(peerwire.AppendPieceHeader(nil, 1, 0, 100), bytes.Repeat([]byte{7}, 100)...)
	stream = peerwire.AppendRequest(stream, 1, 2, 3)
	r := peerwire.NewReader(&interrupted{src: bytes.NewReader(stream)}, 1)
	next := func() peerwire.Message {
		for {
			m, err := r.Next()
			if err == nil {
				return m
			}
			if !errors.Is(err, errDeadline) {
				t.Fatal(err)
			}
		}
	}
	m := next()
	p := make([]byte, m.Length)
	for got := 0; got < len(p); {
		n, err := r.Payload(p[got:])
		got += n
		if err != nil && !errors.Is(err, errDeadline) {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(p, bytes.Repeat([]byte{7}, 100)) {
		t.Errorf("payload %v", p)
	}
	if m := next(); m.ID != peerwire.Request || m.Length != 3 {
		t.Errorf("after it: %+v", m)
	}
}

func TestHandshake(t *testing.T) {
	h := peerwire.Handshake{Reserved: peerwire.Abilities, InfoHash: [20]byte{1}, PeerID: [20]byte{2}}
	b := peerwire.AppendHandshake(nil, h)
	want := "13" + hex.EncodeToString([]byte("BitTorrent protocol")) + "0000000000100014" + "01" + strings.Repeat("00", 19) + "02" + strings.Repeat("00", 19)
	if got := hex.EncodeToString(b); got != want || len(b) != peerwire.HandshakeLen {
		t.Errorf("encoded\n %s, want\n %s", got, want)
	}
	got, err := peerwire.ReadHandshake(iotest.OneByteReader(bytes.NewReader(b)))
	if err != nil || got != h {
		t.Errorf("read %+v, %v", got, err)
	}
	if r := got.Reserved; !r.Extended() || !r.Fast() || !r.V2() {
		t.Errorf("abilities %v", r)
	}
	if r := (peerwire.Reserved{}); r.Extended() || r.Fast() || r.V2() {
		t.Error("abilities out of nothing")
	}
	for n := range len(b) {
		if _, err := peerwire.ReadHandshake(bytes.NewReader(b[:n])); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
	for _, bad := range []int{0, 1, 19} {
		c := bytes.Clone(b)
		c[bad] ^= 1
		if _, err := peerwire.ReadHandshake(bytes.NewReader(c)); !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("byte %d changed: %v", bad, err)
		}
	}
}

func TestExtendedHandshake(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want peerwire.ExtendedHandshake
		bad  bool
	}{
		"ours":     {in: "d1:md1:xi1ee1:pi6881e4:reqqi512e1:v7:pantalae", want: peerwire.ExtendedHandshake{Messages: map[string]uint8{"x": 1}, Port: 6881, Queue: 512, Client: "pantala"}},
		"foreign":  {in: "d12:complete_agoi-1e1:md11:lt_donthavei7e6:ut_pexi1ee4:reqqi2000e11:upload_onlyi3e1:v18:libtorrent/2.0.8.06:yourip4:aaaae", want: peerwire.ExtendedHandshake{Messages: map[string]uint8{"lt_donthave": 7, "ut_pex": 1}, Queue: 2000, Client: "libtorrent/2.0.8.0"}},
		"too big":  {in: "d1:md1:ai-3e1:bi300ee1:pi70000e4:reqqi-1ee", want: peerwire.ExtendedHandshake{Messages: map[string]uint8{}}},
		"trailing": {in: "deXYZ", want: peerwire.ExtendedHandshake{Messages: map[string]uint8{}}},
		"not dict": {in: "i3e", bad: true},
		"cut":      {in: "d1:m", bad: true},
		"empty":    {in: "", bad: true},
		"endless":  {in: strings.Repeat("l", 20<<10), bad: true},
	} {
		got, err := peerwire.ParseExtendedHandshake([]byte(c.in))
		if c.bad {
			if !errors.Is(err, blob.ErrInvalid) {
				t.Errorf("%s: %+v, %v, want ErrInvalid", name, got, err)
			}
			continue
		}
		if d := cmp.Diff(c.want, got); err != nil || d != "" {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

// TestBitfield checks the wire form of sets against a naive one.
func TestBitfield(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint32Range(1, 300).Draw(t, "pieces")
		words := make([]uint64, (n+63)/64)
		naive := make([]byte, (n+7)/8)
		for _, p := range rapid.SliceOf(rapid.Uint32Range(0, n-1)).Draw(t, "set") {
			words[p/64] |= 1 << (p % 64)
			naive[p/8] |= 0x80 >> (p % 8)
		}
		enc := peerwire.AppendBitfield(nil, words, n)
		if !bytes.Equal(enc[5:], naive) {
			t.Fatalf("encoded %x, want %x", enc[5:], naive)
		}
		got := make([]uint64, len(words))
		if err := peerwire.ParseBitfield(got, n, enc[5:]); err != nil || !cmp.Equal(got, words) {
			t.Fatalf("parsed %x, %v, want %x", got, err, words)
		}
		if err := peerwire.ParseBitfield(got, n, append(enc[5:], 0)); !errors.Is(err, blob.ErrInvalid) {
			t.Fatalf("one byte too many: %v", err)
		}
		if n%8 != 0 {
			naive[len(naive)-1] |= 1
			if err := peerwire.ParseBitfield(got, n, naive); !errors.Is(err, blob.ErrInvalid) {
				t.Fatalf("spare bit: %v", err)
			}
		}
	})
}

// TestUncles compares with what a libtorrent 2.0.8 seeder was measured to send: hashes for length and proof.
func TestUncles(t *testing.T) {
	for _, c := range []struct {
		length, proof uint32
		hashes        int
	}{
		{64, 15, 74}, {2, 15, 17}, {512, 15, 519}, {64, 0, 64}, {64, 5, 64}, {64, 6, 65}, {2, 1, 3},
	} {
		r := peerwire.HashRange{Length: c.length, Proof: c.proof}
		if got := int(c.length) + r.Uncles(); got != c.hashes {
			t.Errorf("%d hashes with proof %d: %d, want %d", c.length, c.proof, got, c.hashes)
		}
	}
}

// loop serves the same bytes for ever.
type loop struct {
	b  []byte
	at int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p, l.b[l.at:])
	l.at = (l.at + n) % len(l.b)
	return n, nil
}

// TestAllocations proves that reading and encoding allocate nothing.
func TestAllocations(t *testing.T) {
	var stream []byte
	for _, c := range messages {
		stream = append(stream, c.enc...)
	}
	r := peerwire.NewReader(&loop{b: stream}, 2)
	payload := make([]byte, 3)
	if n := testing.AllocsPerRun(1000, func() {
		m, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.ID == peerwire.Piece {
			if _, err := r.Payload(payload); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("reading allocates %v times", n)
	}
	buf := make([]byte, 0, 4096)
	leaves, uncles := hashes(2), hashes(1)
	if n := testing.AllocsPerRun(1000, func() {
		b := peerwire.AppendRequest(buf, 1, 2, 3)
		b = peerwire.AppendPieceHeader(b, 1, 2, 3)
		b = peerwire.AppendHave(b, 4)
		b = peerwire.AppendHashRequest(b, peerwire.HashRange{Length: 2})
		b = peerwire.AppendHashes(b, peerwire.HashRange{Length: 2, Proof: 1}, leaves, uncles)
		_ = peerwire.AppendBitfield(b, []uint64{3}, 64)
	}); n != 0 {
		t.Errorf("encoding allocates %v times", n)
	}
}

// FuzzReader reads arbitrary streams: no panic, no frame beyond its limits, and the same messages whether
// the bytes come whole or one by one.
func FuzzReader(f *testing.F) {
	for _, c := range messages {
		f.Add(c.enc)
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 7})
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := peerwire.NewReader(bytes.NewReader(in), 2)
		slow := peerwire.NewReader(iotest.OneByteReader(bytes.NewReader(in)), 2)
		for range len(in) + 1 {
			a, errA := whole.Next()
			b, errB := slow.Next()
			if (errA == nil) != (errB == nil) || !cmp.Equal(a, b) {
				t.Fatalf("whole: %+v, %v; bytewise: %+v, %v", a, errA, b, errB)
			}
			if errA != nil {
				return
			}
			if len(a.Data) > peerwire.MaxFrame || a.ID == peerwire.Piece && a.Length > peerwire.MaxBlock || a.Length > peerwire.MaxRun && a.Run.Op == peerwire.OpData {
				t.Fatalf("beyond the limits: %+v", a)
			}
			if a.ID == peerwire.Extended && a.Ext == 0 {
				h, err := peerwire.ParseExtendedHandshake(a.Data)
				if err == nil && (len(h.Client) > 64 || h.Queue < 0) {
					t.Fatalf("extended handshake %+v", h)
				}
			}
		}
		t.Fatal("more messages than bytes")
	})
}

func BenchmarkReadRequests(b *testing.B) {
	stream := peerwire.AppendRequest(nil, 1, 0, peerwire.MaxBlock)
	r := peerwire.NewReader(&loop{b: bytes.Repeat(stream, 240)}, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadPieces(b *testing.B) {
	body := make([]byte, peerwire.MaxBlock)
	rand.NewChaCha8([32]byte{}).Read(body)
	r := peerwire.NewReader(&loop{b: append(peerwire.AppendPieceHeader(nil, 1, 0, peerwire.MaxBlock), body...)}, 1)
	dst := make([]byte, peerwire.MaxBlock)
	b.SetBytes(peerwire.MaxBlock)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
		if _, err := r.Payload(dst); err != nil {
			b.Fatal(err)
		}
	}
}

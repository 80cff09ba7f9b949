package peerwire_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/pantala/pantala/peerwire"
)

// pair is a TCP connection over loopback, both ends.
func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// memory is a Body that writes from a slice.
type memory []byte

func (m memory) SendTo(c syscall.Conn, off int64, n int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	p := m[off : off+int64(n)]
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for len(p) > 0 {
			n, err := syscall.Write(int(fd), p)
			if err == syscall.EAGAIN {
				return false
			}
			if failed = err; err != nil {
				return true
			}
			p = p[n:]
		}
		return true
	})
	return errors.Join(err, failed)
}

// TestWriter sends more than the socket holds, so that writes meet a full buffer, and reads it back.
func TestWriter(t *testing.T) {
	a, b := pair(t)
	w, err := peerwire.NewWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	body := memory(bytes.Repeat([]byte("0123456789abcdef"), 64<<10))
	blocks := len(body) / peerwire.MaxBlock
	const rounds = 8
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			for range rounds {
				for i := range blocks {
					head := peerwire.AppendHave(nil, uint32(i))
					head = peerwire.AppendPieceHeader(head, 0, uint32(i*peerwire.MaxBlock), peerwire.MaxBlock)
					if err := w.Piece(head, body, int64(i*peerwire.MaxBlock), peerwire.MaxBlock); err != nil {
						return err
					}
				}
				if err := w.Send(peerwire.AppendKeepAlive(nil)); err != nil {
					return err
				}
			}
			return errors.Join(w.Send(nil), a.CloseWrite())
		}()
	}()
	r := peerwire.NewReader(b, 1)
	got := make([]byte, len(body))
	for range rounds {
		for i := range blocks {
			if m, err := r.Next(); err != nil || m.ID != peerwire.Have || m.Piece != uint32(i) {
				t.Fatalf("%+v, %v", m, err)
			}
			m, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Payload(got[m.Begin : m.Begin+m.Length]); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := r.Next(); err != nil || m.ID != peerwire.KeepAlive {
			t.Fatalf("%+v, %v", m, err)
		}
		if !bytes.Equal(got, body) {
			t.Fatal("bytes differ")
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

// TestWriterClosed reports a connection that is gone.
func TestWriterClosed(t *testing.T) {
	a, _ := pair(t)
	w, err := peerwire.NewWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := w.Piece(peerwire.AppendPieceHeader(nil, 0, 0, 1), memory("x"), 0, 1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("piece: %v", err)
	}
	if err := w.Send(peerwire.AppendKeepAlive(nil)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send: %v", err)
	}
}

// still is a Body that allocates nothing.
type still func(fd uintptr) bool

func (s still) SendTo(c syscall.Conn, _ int64, _ int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Write(s)
}

// TestWriterAllocations proves that a piece is sent without allocating.
func TestWriterAllocations(t *testing.T) {
	a, b := pair(t)
	w, err := peerwire.NewWriter(a)
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(io.Discard, b)
	}()
	head := peerwire.AppendPieceHeader(nil, 0, 0, 1024)
	payload := make([]byte, 1024)
	var body peerwire.Body = still(func(fd uintptr) bool {
		_, err := syscall.Write(int(fd), payload)
		return err != syscall.EAGAIN // the socket takes a small write whole, or not at all
	})
	if n := testing.AllocsPerRun(200, func() {
		if err := w.Piece(head, body, 0, 1024); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a piece allocates %v times", n)
	}
	a.Close()
	<-drained
}

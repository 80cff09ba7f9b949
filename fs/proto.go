package fs

import (
	"bytes"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// protocol is the only place that knows go-fuse's ProtocolServer, which its authors call experimental: it
// decodes every request but READ and INTERRUPT, calls the raw file system and encodes the answer. It is safe
// for concurrent use once INIT has been answered.
type protocol struct {
	ps    *fuse.ProtocolServer
	async bool // direct reads need not wait for each other; who makes one by himself can then not be interrupted
}

// maxBackground bounds the READ requests that the kernel has out at the same time for readahead. A parked read
// occupies a slot, and when all are occupied even bytes that are present wait. Each sequential reader holds at
// most two windows (the one it waits for and the next): 512 lets 256 readers stall without stalling others.
const maxBackground = 512

func newProtocol(raw fuse.RawFileSystem, passthrough bool, panicked func(any), log *slog.Logger) *protocol {
	o := &fuse.MountOptions{
		MaxWrite:      maxRead, // go-fuse derives max_pages, and with it the largest READ, from it
		MaxBackground: maxBackground,
		MaxStackDepth: 1, // the backing file must not itself lie on a stacked file system
		Name:          fsSubtype,
		// Bytes of a blob never change, so no attribute of it may drop its page cache.
		ExplicitDataCacheControl: true,
		Logger:                   slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) fuse.Status {
			panicked(v)
			return fuse.EIO
		},
	}
	if !passthrough {
		o.DisabledCapabilities |= fuse.CAP_PASSTHROUGH
	}
	return &protocol{ps: fuse.NewProtocolServer(raw, o)}
}

// handle answers request in into out and returns how many bytes of out are to be written; 0: none.
func (p *protocol) handle(in, out []byte) int {
	h := header(in)
	switch h.opcode() {
	case opLookup:
		// go-fuse makes up a file of this name in every root directory, to find out about poll(2).
		if string(bytes.TrimRight(in[inHeaderSize:], "\x00")) == ".go-fuse-epoll-hack" {
			putOutHeader(out, h.unique(), 0, syscall.ENOENT)
			return outHeaderSize
		}
	case opBmap, opPoll, opLseek, opStatx:
		// The kernel has its own answer to these when told ENOSYS, and does not ask again.
		putOutHeader(out, h.unique(), 0, syscall.ENOSYS)
		return outHeaderSize
	}
	n, status := p.ps.HandleRequest([][]byte{in}, [][]byte{out})
	if status != fuse.OK && h.opcode() != opForget && h.opcode() != opBatchForget {
		// go-fuse could not make sense of the request and wrote nothing. The caller must not wait for ever.
		putOutHeader(out, h.unique(), 0, syscall.EIO)
		return outHeaderSize
	}
	return n
}

// init answers INIT and reports whether the kernel and we agreed on passthrough.
func (p *protocol) init(in, out []byte) (n int, passthrough bool, err error) {
	if op := header(in).opcode(); op != opInit {
		return 0, false, fmt.Errorf("%w: the kernel opened with opcode %d instead of INIT", ErrPrerequisite, op)
	}
	n = p.handle(in, out)
	if n >= outHeaderSize+64 && p.async && host.Uint32(in[inHeaderSize+12:])&fuse.CAP_ASYNC_DIO != 0 {
		// The library never agrees to it.
		host.PutUint32(out[outHeaderSize+12:], host.Uint32(out[outHeaderSize+12:])|fuse.CAP_ASYNC_DIO)
	}
	if n < outHeaderSize+64 {
		major, minor := host.Uint32(in[inHeaderSize:]), host.Uint32(in[inHeaderSize+4:])
		return n, false, fmt.Errorf("%w: the kernel speaks FUSE %d.%d, which is too old; Linux 4.20 or later is needed", ErrPrerequisite, major, minor)
	}
	// struct fuse_init_out: flags at byte 12, flags2 at byte 32.
	flags := uint64(host.Uint32(out[outHeaderSize+12:])) | uint64(host.Uint32(out[outHeaderSize+32:]))<<32
	return n, flags&fuse.CAP_PASSTHROUGH != 0, nil
}

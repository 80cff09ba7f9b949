package peerwire

import (
	"encoding/binary"

	"github.com/pantala/pantala/blob"
)

// Our one extension (BEP 10): runs of blocks. docs/wire.md says what each byte is for.

// RunsName names the extension in the "m" dictionary of the extended handshake.
const RunsName = "pantala"

// RunsID is the extended message id under which this package wants to receive the extension: [Reader] parses
// frames with this id as such.
const RunsID = 17

// MaxRun is the longest payload of one data message, in bytes: what one transfer buffer holds.
const MaxRun = blob.MaxBuffer * blob.BlockSize

// MaxRunBlocks is how many blocks one run request may name: 16 MiB.
const MaxRunBlocks = 1024

// MaxRanges is how many ranges one have message may carry: with them it is no longer than the longest message
// of BEP 52.
const MaxRanges = 2048

// Op says what a message of the extension is. Unknown ones are skipped.
type Op uint8

const (
	OpRun    Op = 0 // asks for blocks
	OpData   Op = 1 // brings some of them
	OpCancel Op = 2 // takes a request back
	OpReject Op = 3 // what is missing of a request will not come
	OpHave   Op = 4 // which blocks the sender holds of pieces that it does not hold completely
)

// Flags of a run request.
const (
	// RunWait: blocks that the asked does not hold yet are to be sent as soon as it does.
	RunWait uint8 = 1 << 0
	// RunSpare: the asker can do without; it is to be served only out of what the uplink has left over, or refused
	// at once ([ReasonBusy]).
	RunSpare uint8 = 1 << 1
	// RunLZ4 is kept for another compression; nobody sets it yet.
	RunLZ4 uint8 = 1 << 4
	// RunZstd: payload may come compressed.
	RunZstd uint8 = 1 << 5
)

// DataLast marks the data message after which nothing more will come for its request.
const DataLast uint8 = 1 << 0

// DataZstd says that the payload is one frame of Zstandard (RFC 8878) that holds Bytes bytes of the blob, and is
// shorter. It is set only where the request had [RunZstd].
const DataZstd uint8 = 1 << 5

// Reason says why a run, or the rest of it, is not served.
type Reason uint8

const (
	ReasonAbsent    Reason = 1 // the blocks are not held, and waiting was not asked for
	ReasonBusy      Reason = 2 // too much is asked already
	ReasonChoked    Reason = 3 // the asker is choked, and the request is not urgent
	ReasonDeadline  Reason = 4 // the blocks did not come in time
	ReasonCancelled Reason = 5 // the asker took it back
	ReasonInvalid   Reason = 6 // no such blocks
)

// Run is a message of the extension, decoded. Which fields mean something depends on Op.
type Run struct {
	Op     Op
	Class  uint8  // run: urgency, as blob.Class
	Flags  uint8  // run, data
	Tag    uint32 // all but have: the request
	Block  uint32 // run, data: the first block
	Count  uint32 // run: blocks
	Bytes  uint32 // data: bytes of the blob that the payload stands for
	Millis uint32 // run: how long the asker wants to wait; reject: when asking again makes sense
	Reason Reason // reject
	Whole  bool   // have: replaces what was said before
}

// Lengths of what follows the op byte.
const (
	runLen    = 18
	dataLen   = 13
	cancelLen = 4
	rejectLen = 9
)

// DataHeader is the length in bytes of everything in a data frame that is not payload: length prefix, id,
// extended id, op and the fields.
const DataHeader = 4 + 3 + dataLen

// frameRun appends what comes before the fields of a message of n bytes after the op.
func frameRun(b []byte, ext uint8, op Op, n int) []byte {
	return append(frame(b, Extended, 2+n), ext, byte(op))
}

// AppendRun appends a run request, to be received under the id ext.
func AppendRun(b []byte, ext uint8, r Run) []byte {
	b = append(frameRun(b, ext, OpRun, runLen), r.Class, r.Flags)
	return appendU32(b, r.Tag, r.Block, r.Count, r.Millis)
}

// AppendDataHeader appends the [DataHeader] bytes that come before n bytes of payload.
func AppendDataHeader(b []byte, ext uint8, r Run, n int) []byte {
	b = append(frameRun(b, ext, OpData, dataLen+n), r.Flags)
	return appendU32(b, r.Tag, r.Block, r.Bytes)
}

// AppendRunCancel appends the cancel of a run request.
func AppendRunCancel(b []byte, ext uint8, tag uint32) []byte {
	return appendU32(frameRun(b, ext, OpCancel, cancelLen), tag)
}

// AppendRunReject appends the reject of a run request, or of its rest; millis is when to ask again.
func AppendRunReject(b []byte, ext uint8, tag uint32, why Reason, millis uint32) []byte {
	return appendU32(append(frameRun(b, ext, OpReject, rejectLen), byte(why)), tag, millis)
}

// AppendRanges appends a have message; at most [MaxRanges] runs of blocks.
func AppendRanges(b []byte, ext uint8, whole bool, runs []blob.Run) []byte {
	kind := byte(1)
	if whole {
		kind = 0
	}
	b = append(frameRun(b, ext, OpHave, 1+8*len(runs)), kind)
	for _, r := range runs {
		b = appendU32(b, r.First, r.Count)
	}
	return b
}

func appendU32(b []byte, vs ...uint32) []byte {
	for _, v := range vs {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// decodeRun parses the body of a message of the extension, from the op on. Of an unknown op only that is set.
func decodeRun(m Message, b []byte) (Message, error) {
	if len(b) == 0 {
		return m, malformed(Extended, "no op")
	}
	m.Run.Op = Op(b[0])
	b = b[1:]
	want := -1
	switch m.Run.Op {
	case OpRun:
		want = runLen
	case OpCancel:
		want = cancelLen
	case OpReject:
		want = rejectLen
	case OpData:
		return m, malformed(Extended, "data message of %d bytes", len(b))
	}
	if want >= 0 && len(b) != want {
		return m, malformed(Extended, "op %d with %d bytes instead of %d", m.Run.Op, len(b), want)
	}
	u := func(off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }
	switch m.Run.Op {
	case OpRun:
		m.Run.Class, m.Run.Flags = b[0], b[1]
		m.Run.Tag, m.Run.Block, m.Run.Count, m.Run.Millis = u(2), u(6), u(10), u(14)
		if n := m.Run.Count; n == 0 || n > MaxRunBlocks || m.Run.Block+n < n {
			return m, malformed(Extended, "run of %d blocks from %d, 1..%d are allowed", n, m.Run.Block, MaxRunBlocks)
		}
	case OpCancel:
		m.Run.Tag = u(0)
	case OpReject:
		m.Run.Reason, m.Run.Tag, m.Run.Millis = Reason(b[0]), u(1), u(5)
	case OpHave:
		if len(b) == 0 || b[0] > 1 || (len(b)-1)%8 != 0 || (len(b)-1)/8 > MaxRanges {
			return m, malformed(Extended, "have message of %d bytes", len(b))
		}
		m.Run.Whole, m.Data = b[0] == 0, b[1:]
	}
	return m, nil
}

// decodeData parses the header of a data frame of n bytes (the length prefix not counted): b is what follows
// the op. All of the payload is in the frame.
func decodeData(n int, b []byte) (Message, error) {
	m := Message{ID: Extended, Ext: RunsID, Length: uint32(n - 3 - dataLen)}
	m.Run = Run{Op: OpData, Flags: b[0]}
	u := func(off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }
	m.Run.Tag, m.Run.Block, m.Run.Bytes = u(1), u(5), u(9)
	if m.Run.Bytes == 0 || m.Run.Bytes > MaxRun || m.Length == 0 || m.Length > m.Run.Bytes {
		return m, malformed(Extended, "payload of %d bytes for %d of the blob, 1..%d are allowed", m.Length, m.Run.Bytes, MaxRun)
	}
	return m, nil
}

// Ranges is how many ranges the body of a have message holds, and Range the i-th of them.
func Ranges(data []byte) int { return len(data) / 8 }

// Range is the i-th range of the body of a have message. It may be empty, overflow or lie outside the blob.
func Range(data []byte, i int) blob.Run {
	return blob.Run{First: binary.BigEndian.Uint32(data[8*i:]), Count: binary.BigEndian.Uint32(data[8*i+4:])}
}

package peerwire

import (
	"bytes"
	"fmt"

	"github.com/anacrolix/torrent/bencode"

	"github.com/pantala/pantala/blob"
)

// ExtendedHandshake is the dictionary of extended message 0 (BEP 10), as far as we use it. All are optional.
type ExtendedHandshake struct {
	// Messages maps the name of an extension to the id under which its sender wants to receive it; 0 turns
	// it off.
	Messages map[string]uint8 `bencode:"m"`
	// Client is the name and version for people.
	Client string `bencode:"v,omitempty"`
	// Port is where the sender listens.
	Port uint16 `bencode:"p,omitempty"`
	// Queue is how many requests the sender takes without dropping any.
	Queue int `bencode:"reqq,omitempty"`
	// MetadataSize is the length in bytes of the info dictionary that the sender has (BEP 9); 0: it has none.
	MetadataSize int `bencode:"metadata_size,omitempty"`
}

// maxExtendedHandshake bounds what is given to the bencode parser, in bytes. libtorrent's is under 400.
const maxExtendedHandshake = 16 << 10

// AppendExtended appends an extended message with a body that is already encoded (BEP 10).
func AppendExtended(b []byte, ext uint8, body []byte) []byte {
	return append(append(frame(b, Extended, 1+len(body)), ext), body...)
}

// AppendExtendedHandshake appends extended message 0.
func AppendExtendedHandshake(b []byte, h ExtendedHandshake) []byte {
	if h.Messages == nil {
		h.Messages = map[string]uint8{} // "m" is required, if only as an empty dictionary
	}
	return AppendExtended(b, 0, bencode.MustMarshal(h))
}

// ParseExtendedHandshake reads the body of extended message 0. Keys we do not know are skipped.
func ParseExtendedHandshake(body []byte) (h ExtendedHandshake, err error) {
	if len(body) > maxExtendedHandshake {
		return h, malformed(Extended, "handshake of %d bytes, at most %d are read", len(body), maxExtendedHandshake)
	}
	// Other clients put values outside these types into keys we read (negative ids, long names), so they
	// are read widely and narrowed here.
	var wide struct {
		M map[string]int64 `bencode:"m"`
		V string           `bencode:"v"`
		P int64            `bencode:"p"`
		Q int64            `bencode:"reqq"`
		S int64            `bencode:"metadata_size"`
	}
	if err := unmarshal(body, &wide); err != nil {
		return h, malformed(Extended, "handshake: %v", err)
	}
	h.Messages = make(map[string]uint8, len(wide.M))
	for name, id := range wide.M {
		if id > 0 && id < 256 {
			h.Messages[name] = uint8(id)
		}
	}
	if wide.P > 0 && wide.P < 1<<16 {
		h.Port = uint16(wide.P)
	}
	h.Client = wide.V[:min(len(wide.V), 64)]
	if wide.S > 0 && wide.S <= MaxMetadata {
		h.MetadataSize = int(wide.S)
	}
	h.Queue = int(max(0, min(wide.Q, 1<<16)))
	return h, nil
}

// unmarshal turns a panic of the parser into an error: the input is a stranger's. Bytes after the
// dictionary are left alone, as BEP 9 puts payload there.
func unmarshal(b []byte, v any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: bencode: %v", blob.ErrInvalid, p)
		}
	}()
	d := bencode.NewDecoder(bytes.NewReader(b))
	d.MaxStrLen = bencode.MaxStrLen(len(b)) // it allocates what a string says it has before it looks whether it has
	return d.Decode(v)
}

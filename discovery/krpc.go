package discovery

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/pantala/pantala/bencode"
	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/peerwire"
)

// KRPC is the protocol of the DHT: one bencoded dictionary per UDP packet (BEP 5; BEP 32 for IPv6, BEP 43 for "ro").

const (
	// maxKRPC is the longest packet that is read, in bytes: what an Ethernet frame holds.
	maxKRPC = 1500
	// krpcDepth is how deep values may nest: a message holds arguments, which hold a list of peers. The rest is for
	// extensions that put values of their own there (BEP 44).
	krpcDepth = 8
	// maxKRPCNodes and maxKRPCValues bound what is taken out of one reply. Replies name 8 nodes; 100 peers of 8
	// bytes are what fits in a packet besides.
	maxKRPCNodes  = 16
	maxKRPCValues = 100
	// maxToken bounds a token that we keep and send back; libtorrent's has 4 bytes, others up to 20.
	maxToken = 64
)

// The queries of BEP 5.
const (
	qPing     = "ping"
	qFind     = "find_node"
	qGet      = "get_peers"
	qAnnounce = "announce_peer"
)

// Error codes of BEP 5.
const (
	errProtocol = 203
	errMethod   = 204
)

// contact is a node of the DHT.
type contact struct {
	id   nodeID
	addr netip.AddrPort
}

// krpc is one message. Which fields mean something depends on kind and method.
type krpc struct {
	kind     byte // 'q' query, 'r' response, 'e' error
	tx       string
	method   string // of a query
	id       nodeID // of the sender
	target   nodeID // of find_node, and the key of get_peers and announce_peer
	readOnly bool   // the sender answers nothing: it must not enter the table (BEP 43)

	port    uint16 // of announce_peer; 0: where the packet came from (implied_port)
	token   []byte
	nodes   []contact
	values  []netip.AddrPort
	code    int64
	text    string // of an error
	unknown bool   // a query of a kind that is not above
}

// appendKRPC writes a message. Keys of a dictionary are sorted, as BEP 3 asks.
func appendKRPC(b []byte, m krpc) []byte {
	b = append(b, 'd')
	switch m.kind {
	case 'q':
		b = append(bencode.AppendString(b, "a"), 'd')
		b = bencode.AppendString(bencode.AppendString(b, "id"), m.id[:])
		switch m.method {
		case qFind:
			b = bencode.AppendString(bencode.AppendString(b, "target"), m.target[:])
		case qGet:
			b = bencode.AppendString(bencode.AppendString(b, "info_hash"), m.target[:])
		case qAnnounce:
			if m.port == 0 {
				b = bencode.AppendPair(b, "implied_port", 1)
			}
			b = bencode.AppendString(bencode.AppendString(b, "info_hash"), m.target[:])
			b = bencode.AppendInt(bencode.AppendString(b, "port"), int64(m.port))
			b = bencode.AppendString(bencode.AppendString(b, "token"), m.token)
		}
		b = append(b, 'e')
		b = bencode.AppendString(bencode.AppendString(b, "q"), m.method)
	case 'r':
		b = append(bencode.AppendString(b, "r"), 'd')
		b = bencode.AppendString(bencode.AppendString(b, "id"), m.id[:])
		var four, six []byte
		for _, c := range m.nodes {
			if c.addr.Addr().Is4() {
				four = peerwire.AppendCompact(append(four, c.id[:]...), c.addr)
			} else {
				six = peerwire.AppendCompact(append(six, c.id[:]...), c.addr)
			}
		}
		b = bencode.AppendText(b, "nodes", four)
		b = bencode.AppendText(b, "nodes6", six)
		b = bencode.AppendText(b, "token", m.token)
		if len(m.values) > 0 {
			b = append(bencode.AppendString(b, "values"), 'l')
			for _, v := range m.values {
				b = bencode.AppendString(b, peerwire.AppendCompact(nil, v))
			}
			b = append(b, 'e')
		}
		b = append(b, 'e')
	case 'e':
		b = append(bencode.AppendString(b, "e"), 'l')
		b = append(bencode.AppendString(bencode.AppendInt(b, m.code), m.text), 'e')
	}
	if m.readOnly {
		b = bencode.AppendPair(b, "ro", 1)
	}
	b = bencode.AppendString(bencode.AppendString(b, "t"), m.tx)
	return append(bencode.AppendString(bencode.AppendString(b, "y"), string(m.kind)), 'e')
}

// parseKRPC reads a message. Errors are of class blob.ErrInvalid. A query of an unknown kind is none: it is
// answered with an error of BEP 5.
func parseKRPC(b []byte) (m krpc, err error) {
	if len(b) > maxKRPC {
		return m, fmt.Errorf("%w: packet of %d bytes, at most %d are read", blob.ErrInvalid, len(b), maxKRPC)
	}
	var args, reply, failure []byte
	err = bencode.EachPair(b, krpcDepth, func(key string, raw []byte) error {
		switch key {
		case "t", "q", "y":
			s, err := bencode.String(raw)
			switch {
			case err != nil:
				return err
			case key == "t" && len(s) <= 32:
				m.tx = string(s)
			case key == "q" && len(s) <= 32:
				m.method = string(s)
			case key == "y" && len(s) == 1:
				m.kind = s[0]
			default:
				return fmt.Errorf("%w: %q of %d bytes", blob.ErrInvalid, key, len(s))
			}
		case "a":
			args = raw
		case "r":
			reply = raw
		case "e":
			failure = raw
		case "ro":
			n, err := bencode.Int(raw, 1)
			m.readOnly = err == nil && n == 1
		}
		return nil
	})
	if err != nil {
		return krpc{}, err
	}
	switch {
	case m.kind == 'q' && args != nil:
		err = m.readArgs(args)
	case m.kind == 'r' && reply != nil:
		err = m.readReply(reply)
	case m.kind == 'e' && failure != nil:
		err = m.readError(failure)
	default:
		err = fmt.Errorf("%w: neither query, response nor error", blob.ErrInvalid)
	}
	if err != nil {
		return krpc{}, err
	}
	return m, nil
}

// cutID reads 20 bytes.
func cutID(to *nodeID, raw []byte) error {
	s, err := bencode.String(raw)
	if err == nil && len(s) != len(to) {
		err = fmt.Errorf("%w: id of %d bytes", blob.ErrInvalid, len(s))
	}
	if err == nil {
		copy(to[:], s)
	}
	return err
}

func (m *krpc) readArgs(raw []byte) error {
	var id, target, implied bool
	err := bencode.EachPair(raw, krpcDepth, func(key string, raw []byte) (err error) {
		switch key {
		case "id":
			id = true
			err = cutID(&m.id, raw)
		case "target", "info_hash":
			if (key == "target") == (m.method == qFind) {
				target = true
				err = cutID(&m.target, raw)
			}
		case "implied_port":
			n, e := bencode.Int(raw, 1<<31)
			implied = e == nil && n != 0
		case "port":
			var n int64
			n, err = bencode.Int(raw, 65535)
			m.port = uint16(n)
		case "token":
			m.token, err = bencode.String(raw)
			m.token = bytes.Clone(m.token) // raw is the buffer of the socket
			if err == nil && len(m.token) > maxToken {
				err = fmt.Errorf("%w: token of %d bytes", blob.ErrInvalid, len(m.token))
			}
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case !id:
		return fmt.Errorf("%w: query without an id", blob.ErrInvalid)
	case implied:
		m.port = 0
	case m.port == 0 && m.method == qAnnounce:
		return fmt.Errorf("%w: announce_peer without a port", blob.ErrInvalid)
	}
	switch m.method {
	case qPing:
	case qFind, qGet, qAnnounce:
		if !target {
			return fmt.Errorf("%w: %s without a target", blob.ErrInvalid, m.method)
		}
	default:
		m.unknown = true
	}
	return nil
}

func (m *krpc) readReply(raw []byte) error {
	id := false
	err := bencode.EachPair(raw, krpcDepth, func(key string, raw []byte) (err error) {
		switch key {
		case "id":
			id = true
			return cutID(&m.id, raw)
		case "nodes", "nodes6":
			size := 26
			if key == "nodes6" {
				size = 38
			}
			s, err := bencode.String(raw)
			if err != nil || len(s)%size != 0 {
				return fmt.Errorf("%w: %q are not nodes of %d bytes", blob.ErrInvalid, key, size)
			}
			for ; len(s) > 0 && len(m.nodes) < maxKRPCNodes; s = s[size:] {
				if a := peerwire.ParseCompact(s[20:size]); a.IsValid() {
					m.nodes = append(m.nodes, contact{nodeID(s[:20]), a})
				}
			}
		case "values":
			return bencode.EachItem(raw, krpcDepth, func(raw []byte) error {
				s, err := bencode.String(raw)
				if a := peerwire.ParseCompact(s); err == nil && a.IsValid() && len(m.values) < maxKRPCValues {
					m.values = append(m.values, a)
				}
				return err
			})
		case "token":
			m.token, err = bencode.String(raw)
			m.token = bytes.Clone(m.token) // raw is the buffer of the socket
			if err == nil && len(m.token) > maxToken {
				err = fmt.Errorf("%w: token of %d bytes", blob.ErrInvalid, len(m.token))
			}
		}
		return err
	})
	if err == nil && !id {
		err = fmt.Errorf("%w: response without an id", blob.ErrInvalid)
	}
	return err
}

func (m *krpc) readError(raw []byte) error {
	i := 0
	return bencode.EachItem(raw, krpcDepth, func(raw []byte) (err error) {
		switch i++; i {
		case 1:
			m.code, err = bencode.Int(raw, 1<<31)
		case 2:
			var s []byte
			s, err = bencode.String(raw)
			m.text = string(s[:min(len(s), 100)])
		}
		return err
	})
}

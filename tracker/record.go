package tracker

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/pantala/pantala/blob"
)

func as20(raw []byte, to *[20]byte) error {
	s, err := asString(raw)
	if err == nil && len(s) != len(to) {
		err = malformed("20 bytes expected", raw)
	}
	copy(to[:], s)
	return err
}

func appendRuns(b []byte, k string, runs []blob.Run) []byte {
	if len(runs) == 0 {
		return b
	}
	b = appendString(b, k)
	b = fmt.Appendf(b, "%d:", len(runs)*runLen)
	for _, r := range runs {
		b = binary.BigEndian.AppendUint32(b, r.First)
		b = binary.BigEndian.AppendUint32(b, r.Count)
	}
	return b
}

// parseRuns reads runs of pieces, none empty, all below n.
func parseRuns(k string, s []byte, n uint32, limit int) ([]blob.Run, error) {
	if len(s)%runLen != 0 || len(s)/runLen > limit {
		return nil, fmt.Errorf("%w: %s: %d bytes are not at most %d runs of %d bytes", blob.ErrInvalid, k, len(s), limit, runLen)
	}
	if len(s) == 0 {
		return nil, nil
	}
	runs := make([]blob.Run, 0, len(s)/runLen)
	for ; len(s) > 0; s = s[runLen:] {
		r := blob.Run{First: binary.BigEndian.Uint32(s), Count: binary.BigEndian.Uint32(s[4:])}
		if r.Count == 0 || r.First >= n || r.Count > n-r.First {
			return nil, fmt.Errorf("%w: %s: run of %d at %d in a blob of %d pieces", blob.ErrInvalid, k, r.Count, r.First, n)
		}
		runs = append(runs, r)
	}
	return runs, nil
}

func appendRoots(b []byte, roots []pieceRoot) []byte {
	if len(roots) == 0 {
		return b
	}
	b = appendString(b, "roots")
	b = fmt.Appendf(b, "%d:", len(roots)*rootLen)
	for i := range roots {
		b = binary.BigEndian.AppendUint32(b, roots[i].piece)
		b = append(b, roots[i].root[:]...)
	}
	return b
}

func parseRoots(s []byte, n uint32, limit int) ([]pieceRoot, error) {
	if len(s)%rootLen != 0 || len(s)/rootLen > limit {
		return nil, fmt.Errorf("%w: roots: %d bytes are not at most %d records of %d bytes", blob.ErrInvalid, len(s), limit, rootLen)
	}
	if len(s) == 0 {
		return nil, nil
	}
	roots := make([]pieceRoot, 0, len(s)/rootLen)
	for ; len(s) > 0; s = s[rootLen:] {
		r := pieceRoot{piece: binary.BigEndian.Uint32(s), root: blob.Hash(s[4:rootLen])}
		if r.piece >= n || r.root.IsZero() {
			return nil, fmt.Errorf("%w: roots: root %.8s… of piece %d in a blob of %d pieces", blob.ErrInvalid, r.root, r.piece, n)
		}
		roots = append(roots, r)
	}
	return roots, nil
}

func parsePeers(s []byte) ([]planPeer, error) {
	if len(s)%peerLen != 0 {
		return nil, fmt.Errorf("%w: peers: %d bytes are not records of %d bytes", blob.ErrInvalid, len(s), peerLen)
	}
	peers := make([]planPeer, 0, len(s)/peerLen)
	for ; len(s) > 0; s = s[peerLen:] {
		ip := netip.AddrFrom16([16]byte(s[:16])).Unmap()
		peers = append(peers, planPeer{netip.AddrPortFrom(ip, binary.BigEndian.Uint16(s[16:])), peerID(s[18:peerLen])})
	}
	return peers, nil
}

func appendPeers(b []byte, peers []planPeer) []byte {
	if len(peers) == 0 {
		return b
	}
	b = appendString(b, "peers")
	b = fmt.Appendf(b, "%d:", len(peers)*peerLen)
	for _, p := range peers {
		b = appendPeer(b, p)
	}
	return b
}

// appendPeer writes peerLen bytes.
func appendPeer(b []byte, p planPeer) []byte {
	ip := p.addr.Addr().As16()
	b = binary.BigEndian.AppendUint16(append(b, ip[:]...), p.addr.Port())
	return append(b, p.id[:]...)
}

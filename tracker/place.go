package tracker

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

// place is an assignment as it travels: with a number, and with the addresses of the parents.
type place struct {
	number int64
	relay.Assignment
	addrs []netip.AddrPort // of all parents, stripe by stripe
}

const (
	blameLen  = 30
	parentLen = 46
	// maxParents is how many parents one stripe of one node may have: the first, and some for when it fails.
	maxParents = 8
)

// newPlace is what n has to be told about its place in the trees; nil: nothing.
func (s *swarm) newPlace(n *node) *place {
	if n.number == n.toldTree {
		return nil
	}
	p := &place{number: n.number, Assignment: n.assigned}
	p.Parents = make([][]relay.Parent, n.assigned.Stripes)
	for k := range p.Parents {
		if k >= len(n.assigned.Parents) {
			break
		}
		for _, parent := range n.assigned.Parents[k] {
			m := s.parent(peerID(parent.ID))
			if m != nil && m.addr.Port() != 0 && len(p.Parents[k]) < maxParents {
				p.Parents[k] = append(p.Parents[k], parent)
				p.addrs = append(p.addrs, m.addr)
			}
		}
	}
	return p
}

func appendPlace(b []byte, p *place) []byte {
	if p == nil {
		return b
	}
	s := binary.BigEndian.AppendUint64(make([]byte, 0, 18+len(p.Parents)+len(p.addrs)*parentLen), uint64(p.number))
	s = binary.BigEndian.AppendUint64(s, uint64(p.Gen))
	s = append(s, uint8(p.Stripes), p.Head)
	at := 0
	for _, parents := range p.Parents {
		s = append(s, uint8(len(parents)))
		for _, one := range parents {
			s = append(s, one.ID[:]...)
			ip := p.addrs[at].Addr().As16()
			s = append(s, ip[:]...)
			s = binary.BigEndian.AppendUint16(s, p.addrs[at].Port())
			s = binary.BigEndian.AppendUint64(s, uint64(max(one.Rate, 0)))
			at++
		}
	}
	return appendString(appendString(b, "plan"), s)
}

// parsePlace reads an assignment.
func parsePlace(s []byte) (*place, error) {
	bad := func(what string) (*place, error) { return nil, fmt.Errorf("%w: %s", blob.ErrInvalid, what) }
	if len(s) < 18 {
		return bad("assignment is cut off")
	}
	p := &place{number: int64(binary.BigEndian.Uint64(s))}
	p.Gen, p.Stripes, p.Head = int64(binary.BigEndian.Uint64(s[8:])), int(s[16]), s[17]
	if p.number < 0 || p.Gen < 0 || p.Stripes > relay.MaxStripes {
		return bad("assignment with numbers that cannot be")
	}
	s = s[18:]
	for range p.Stripes {
		if len(s) == 0 || int(s[0]) > maxParents || len(s) < 1+int(s[0])*parentLen {
			return bad("parents of a stripe are cut off, or too many")
		}
		parents := make([]relay.Parent, s[0])
		s = s[1:]
		for i := range parents {
			ip := netip.AddrFrom16([16]byte(s[20:36])).Unmap()
			rate := binary.BigEndian.Uint64(s[38:])
			if rate > maxInt {
				return bad("parent with a rate that cannot be")
			}
			parents[i] = relay.Parent{ID: relay.NodeID(s[:20]), Rate: int64(rate)}
			p.addrs = append(p.addrs, netip.AddrPortFrom(ip, binary.BigEndian.Uint16(s[36:])))
			s = s[parentLen:]
		}
		p.Parents = append(p.Parents, parents)
	}
	if len(s) > 0 {
		return bad("assignment is longer than it says")
	}
	return p, nil
}

func appendBlame(b []byte, list []relay.Complaint) []byte {
	if len(list) == 0 {
		return b
	}
	s := make([]byte, 0, len(list)*blameLen)
	for _, c := range list {
		s = append(s, c.Parent[:]...)
		s = append(s, uint8(c.Stripe), uint8(c.Reason))
		s = binary.BigEndian.AppendUint64(s, uint64(max(c.Rate, 0)))
	}
	return appendString(appendString(b, "blame"), s)
}

func parseBlame(s []byte) ([]relay.Complaint, error) {
	if len(s)%blameLen != 0 || len(s)/blameLen > maxBlame {
		return nil, fmt.Errorf("%w: blame: %d bytes are not at most %d complaints of %d bytes", blob.ErrInvalid, len(s), maxBlame, blameLen)
	}
	var list []relay.Complaint
	for ; len(s) > 0; s = s[blameLen:] {
		c := relay.Complaint{Parent: relay.NodeID(s[:20]), Stripe: int(s[20]), Reason: relay.Reason(s[21])}
		rate := binary.BigEndian.Uint64(s[22:])
		if c.Stripe >= relay.MaxStripes || c.Reason < relay.Lost || c.Reason > relay.Liar || rate > maxInt {
			return nil, fmt.Errorf("%w: blame: complaint %d about stripe %d", blob.ErrInvalid, c.Reason, c.Stripe)
		}
		c.Rate = int64(rate)
		list = append(list, c)
	}
	return list, nil
}

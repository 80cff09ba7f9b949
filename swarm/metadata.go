package swarm

import (
	"github.com/pantala/pantala/peerwire"
)

// metadataTurns is how often a peer may ask for the whole info dictionary over one connection: once, again because
// what somebody else sent was wrong, and once more.
const metadataTurns = 3

// metadataPeer is what the reader of a peer knows of its part in the metadata exchange.
type metadataPeer struct {
	ext    uint8 // its id for it; 0: it does not speak BEP 9
	served int   // pieces sent
}

// metadata is the info dictionary as far as it is given away. That of a private torrent is had from its tracker's
// site, and from nobody else: libtorrent does not hand it out either.
func (t *Torrent) metadata() []byte {
	if t.cfg.Private || len(t.cfg.Info) > peerwire.MaxMetadata {
		return nil
	}
	return t.cfg.Info
}

// metadataCame answers a request for a piece of the info dictionary (BEP 9). We have it, and ask for none.
func (p *peer) metadataCame(body []byte) error {
	m, err := peerwire.ParseMetadata(body)
	if err != nil {
		return err
	}
	info := p.t.metadata()
	if m.Type != peerwire.MetadataRequest || p.metadata.ext == 0 || info == nil {
		return nil
	}
	answer := peerwire.Metadata{Type: peerwire.MetadataReject, Piece: m.Piece}
	pieces := peerwire.MetadataPieces(len(info))
	// Answers are small messages, which overtake blocks; who asks for many at once must not lose the connection.
	if int(m.Piece) < pieces && p.metadata.served < metadataTurns*pieces && p.out.roomy() {
		p.metadata.served++
		at := int(m.Piece) * peerwire.MetadataPiece
		answer = peerwire.Metadata{
			Type: peerwire.MetadataData, Piece: m.Piece, Size: len(info),
			Data: info[at:min(at+peerwire.MetadataPiece, len(info))],
		}
	}
	p.out.send(func(b []byte) []byte { return peerwire.AppendMetadata(b, p.metadata.ext, answer) })
	return nil
}

// roomy reports whether less than half of what may wait for a peer does.
func (o *outbox) roomy() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.control) < maxControl/2
}

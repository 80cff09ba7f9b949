package swarm

import (
	"maps"

	"github.com/pantala/pantala/peerwire"
)

// The ids under which we want to receive extended messages (BEP 10). Each side chooses its own; one extension,
// one number.
const (
	extPEX      uint8 = 1               // ut_pex, BEP 11
	extMetadata uint8 = 2               // ut_metadata, BEP 9
	extIndex    uint8 = 3               // pantala_index, docs/wire.md
	extRuns     uint8 = peerwire.RunsID // pantala, docs/wire.md
)

// extensions maps the name of an extension to our id of it: what the extended handshake of a torrent offers.
func (t *Torrent) extensions() map[string]uint8 {
	m := make(map[string]uint8)
	maps.Copy(m, t.pexOffer())
	if t.metadata() != nil {
		m[peerwire.MetadataName] = extMetadata
	}
	maps.Copy(m, t.indexOffer())
	maps.Copy(m, t.runsOffer())
	return m
}

// extended hands an extended message other than the handshake to the extension whose id it carries. It runs on
// the reader's goroutine. An error ends the connection; ids that we did not offer are ignored, as BEP 10 asks.
func (p *peer) extended(m peerwire.Message) error {
	switch m.Ext {
	case extPEX:
		return p.pexCame(m.Data)
	case extMetadata:
		return p.metadataCame(m.Data)
	case extIndex:
		return p.indexCame(m.Data)
	}
	return nil
}

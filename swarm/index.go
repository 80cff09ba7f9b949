package swarm

import (
	"github.com/pantala/pantala/peerwire"
)

// Claims about the index of a layer, between its peers (docs/wire.md): where no tracker keeps them, the nodes that have
// the layer are those that may have its index.

// indexTurns bounds what one connection is listened to for: a peer asks once, and answers once and again when it has
// come to know.
const indexTurns = 8

// indexPeer is what the reader of a peer knows of its part in the exchange.
type indexPeer struct{ asks, says int } // messages that were read

// indexTold is the loop's part.
type indexTold struct {
	ext   uint8 // its id for the exchange; 0: it does not speak it
	asked bool  // by us
	wants bool  // it has asked us
}

// indexOffer is the entry of the extended handshake.
func (t *Torrent) indexOffer() map[string]uint8 {
	if t.cfg.Index == nil || t.cfg.Private {
		return nil
	}
	return map[string]uint8{peerwire.IndexName: extIndex}
}

// AskIndex asks all peers, and those that come later, which index the layer has, until [Torrent.TellIndex]. What they
// say goes to Config.OnIndex. It does not wait.
func (t *Torrent) AskIndex() { t.post(indexAsked{}) }

// TellIndex says that Config.Index has something else to tell: peers that asked before are told, and none is asked any
// more. It does not wait.
func (t *Torrent) TellIndex() { t.post(indexKnown{}) }

type (
	indexAsked struct{}
	indexKnown struct{}
	// indexWanted: a peer asks us.
	indexWanted struct{ p *peer }
	// indexSaid: a peer says what it knows.
	indexSaid struct {
		p      *peer
		claims []peerwire.IndexClaim
	}
)

func (indexAsked) apply(l *loop) {
	l.asksIndex = true
	for p := range l.peers {
		l.askIndex(p)
	}
}

func (indexKnown) apply(l *loop) {
	l.asksIndex = false
	for p := range l.peers {
		if p.index.asked = false; p.index.wants {
			l.sayIndex(p)
		}
	}
}

// indexMet notes whether a peer speaks the exchange, and asks it.
func (l *loop) indexMet(p *peer, h peerwire.ExtendedHandshake) {
	if l.t.indexOffer() == nil || p.closing {
		return
	}
	p.index.ext = h.Messages[peerwire.IndexName]
	if l.asksIndex {
		l.askIndex(p)
	}
}

func (l *loop) askIndex(p *peer) {
	if p.index.ext != 0 && !p.index.asked {
		p.index.asked = true
		p.out.send(func(b []byte) []byte { return peerwire.AppendIndexAsk(b, p.index.ext) })
	}
}

// sayIndex tells a peer what is here, if only that nothing is.
func (l *loop) sayIndex(p *peer) {
	claims := l.t.cfg.Index()
	claims = claims[:min(len(claims), peerwire.MaxIndexClaims)]
	p.out.send(func(b []byte) []byte { return peerwire.AppendIndexClaims(b, p.index.ext, claims) })
}

func (e indexWanted) apply(l *loop) {
	if e.p.index.ext != 0 && !e.p.closing {
		e.p.index.wants = true
		l.sayIndex(e.p)
	}
}

func (e indexSaid) apply(l *loop) {
	if f := l.t.cfg.OnIndex; f != nil && l.asksIndex {
		f(e.p.reachable(), e.claims)
	}
}

// indexCame reads a message, on the reader's goroutine.
func (p *peer) indexCame(body []byte) error {
	ask, claims, err := peerwire.ParseIndex(body)
	if err != nil || p.t.indexOffer() == nil {
		return err
	}
	switch {
	case ask && p.indexHeard.asks < indexTurns:
		p.indexHeard.asks++
		p.t.post(indexWanted{p})
	case len(claims) > 0 && p.indexHeard.says < indexTurns:
		p.indexHeard.says++
		p.t.post(indexSaid{p, claims})
	}
	return nil
}

package swarm

import (
	"fmt"
	"net/netip"

	"github.com/pantala/pantala/blob"
)

const (
	// maxStrikes is how many runs that do not verify a peer may send: one can be a flipped bit in its
	// memory, three are not.
	maxStrikes = 3
	// maxFouls is how many peer ids are banned from one address (not loopback) before the address is.
	maxFouls = 3
	// maxJail bounds the banned peers that are remembered for people.
	maxJail = 64
)

// strike counts a run that did not verify against who sent it.
func (l *loop) strike(p *peer, run blob.Run) {
	p.strikes++
	l.lied(p)
	l.t.log.Warn("peer sent corrupt blocks", "addr", p.addr, "blocks", run.String(), "strikes", p.strikes)
	if p.strikes >= maxStrikes {
		l.ban(p, fmt.Sprintf("%d runs of blocks did not match their hashes", p.strikes))
	}
}

// ban disconnects a peer and keeps it out as long as the torrent lives: its id, the address that was
// dialled and the one it says it listens on.
func (l *loop) ban(p *peer, why string) {
	if l.book.banned[p.id] {
		return
	}
	l.t.log.Warn("peer banned", "addr", p.addr, "why", why)
	info := p.info()
	info.Banned = true
	if len(l.jail) < maxJail {
		l.jail = append(l.jail, info)
	}
	l.book.banned[p.id] = true
	l.fouls[p.addr.Addr()]++
	l.book.ban(p.dialed)
	// Where it claims to listen is believed only for its own address, so it can keep us from nobody else
	// but a neighbour behind the same one; that is why p.addr is not banned whole at once.
	if p.listens != (netip.AddrPort{}) {
		l.book.ban(p.listens)
	}
	p.close("banned: %s", why)
	l.remove(p)
}

// suspect is a peer whose leaves fold to something else than a claimed root: either it lies, or the claim is
// wrong.
type suspect struct {
	p      *peer
	folded blob.Hash
}

// judge decides about leaves that did not lead to the root of their piece. A proven or own root is right, so
// the peer lies. A claimed root may itself be the lie: it is dropped when two peers fold to the same other
// root, and the suspects are banned when somebody's leaves fit.
func (l *loop) judge(job *leafJob, try *leafTry, folded blob.Hash) {
	_, trust := l.t.cfg.Store.Root(try.piece)
	if trust > blob.Claimed && l.t.wholesome(try.piece) {
		// anacrolix/torrent answers a request for leaves with the piece layer. It is not asked for hashes again, and
		// what it says of the bytes is checked with others' leaves, or by the whole piece.
		l.t.log.Debug("hashes of a piece do not lead to its root", "addr", try.p.addr, "piece", try.piece)
		try.p.rejects, l.stingy = maxDeaf, true
		return
	}
	if trust != blob.Claimed || !l.t.fileOf(try.piece).root.IsZero() {
		l.ban(try.p, fmt.Sprintf("hashes of piece %d do not lead to its root", try.piece))
		return
	}
	for _, s := range job.suspects {
		if s.folded == folded && s.p.id != try.p.id {
			l.t.log.Warn("claimed root contradicts two peers, dropped", "piece", try.piece)
			if d, ok := l.t.cfg.Store.(interface{ DropClaim(piece uint32) }); ok {
				d.DropClaim(try.piece)
			}
			job.disputed = true
			l.t.avail.trust(try.piece, false)
			return
		}
	}
	job.suspects = append(job.suspects, suspect{try.p, folded})
	if try.p.lies++; try.p.lies >= maxStrikes {
		l.ban(try.p, fmt.Sprintf("its hashes contradict the roots of %d pieces", try.p.lies))
	}
}

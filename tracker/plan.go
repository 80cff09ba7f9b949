package tracker

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/pantala/pantala/blob"
	"github.com/pantala/pantala/relay"
)

/*
The plan exchange, byte by byte.

A node POSTs one bencoded dictionary (BEP 3: keys sorted, unknown keys ignored) to /plan beside the tracker's
/announce, and gets one back. All integers inside strings are big endian. A key that is absent means 0, or the
empty string. Two kinds of request share the layout:

  - a report (wait 0) says what this node has and wants; it is answered at once;
  - a poll (wait > 0) says nothing; it is answered when something for this node changed, else after wait ms.

A node keeps one poll outstanding and sends reports beside it, one at a time.

Request, at most 4 MiB:

	ahead   string, n × 8: runs of pieces wanted soon, best first: first u32 | count u32; n ≤ 256
	blame   string, n × 30: complaints about parents: peer id [20] | stripe u8 | reason u8 (1 lost, 2 slow, 3 sent
	        wrong bytes) | bytes per second that came from it lately u64; n ≤ 64. Those about a node that is no
	        parent of this one (any more) are ignored
	bulk    int: 1 = this node wants all of the blob and passes it on to others
	epoch   int: epoch of the last reply, 0 at first
	full    int: 1 = forget what was reported before: "have" starts anew (it may go on in further reports, each
	        of which adds). A node that reconnects sends one with gen 0 and log 0
	gen     int: gen of the last reply that was applied
	have    string, n × 8: runs of pieces this node has completed since the last report; n ≤ 32768
	ip      string: address the node wants to be reached at, as text; believed from private networks only
	key     string, 20: the swarm, as in info_hash
	log     int: "log" of the last reply that was applied
	origin  int: 1 = this node can read the blob from an origin
	peer    string, 20: peer id, as in the handshake
	piece   int: piece length in bytes, a power of two
	plan    int: number of the newest assignment that was applied, 0 = none
	port    int: TCP port of the peer wire, 0 = cannot be reached
	read    int: bytes that this node has read from the origin so far, of pieces that are not complete too
	reading string, n × 8: runs of pieces this node is reading from the origin now, with or without a lease, and
	        has not completed; n ≤ 256
	role    int: 1 = seed: prefers to read from the origin for others
	roots   string, n × 36: piece u32 | piece root [32] that this node computed, or verified its bytes against;
	        n ≤ 32768
	seq     int: grows with every request of one node; "want", "full" and "blame" of an older one are ignored
	size    int: size of the blob in bytes
	stop    int: 1 = this node leaves; its leases are free at once
	up      int: bytes per second that this node can send, 0 = not known
	urgent  string, n × 8: runs of pieces somebody is waiting for; n ≤ 64
	v       int: 1
	wait    int: ms to hold the request, ≤ 60000
	want    int: 1 = "reading", "urgent" and "ahead" replace the previous wish, and "bulk", "origin", "role", "up"
	        and "zone" what it said of itself. A node that learns from a reply
	        that it is no longer solo sends one at once: until it does, for at most 30 ms, others are leased only
	        what they say they are reading
	zone    string, at most 128 bytes: where this node stands, most significant part first: region/zone/rack/host

Reply, 200:

	alone    int: 1 = this tracker shares its state with others, but cannot reach it now
	disputed string, n × 8: runs of pieces whose roots contradict one another: drop what was claimed about them,
	         read them from the origin
	epoch    int: a number drawn when the tracker first heard of the swarm. A change means that the tracker
	         has forgotten: send everything again
	gen      int: grows with every change of the swarm. A reply with a smaller gen than one already applied has
	         been overtaken: use only "roots" and "peers" of it, which are told once
	held     string, n × 8: runs of pieces, within what this node wants, that are leased to others, or, when it has
	         a place in the relay trees, on their way to it; n ≤ 4096
	interval int: ms after which a BEP 3 client should announce again
	lease    string, n × 8: all runs of pieces that are leased to this node now
	log      int: send this back; the claims below follow those of the log that was sent
	nodes    int: live nodes that plan, this one included
	pace     int: ms to leave between two reports that nobody waits for
	peers    string, n × 38: ip [16] (v4 mapped, RFC 4291 2.5.5.2) | port u16 | peer id [20]; those that joined
	         since the gen that was sent
	plan     string: this node's place in the relay trees, when it is not the one whose number was sent: number u64
	         | generation u64 | stripes u8, 0 = there is no plan | heads u8, bit s = reads stripe s from the source;
	         then for each stripe: n u8, n × 46: peer id [20] | ip [16] | port u16 | granted bytes per second u64,
	         0 = whatever there is; best first; n ≤ 8
	resync   int: 1 = the tracker does not know this node (any more): send a full report now. Only epoch
	         comes with it
	roots    string, n × 36: piece u32 | piece root [32], as claimed by the node that held the lease; n ≤ 65536,
	         more follow in the next reply
	solo     int: 1 = this is the only live node
	ttl      int: ms that a lease lasts without progress

Reply, 400 (what was sent is malformed), 403 (the operator has blocked this node or torrent), 409 (another size or piece length than the rest of the swarm), 503
(the tracker is full, or closing): a dictionary with one key, "failure reason", a text.
*/

// Bounds of the plan exchange; derivations beside each.
const (
	planVersion  = 1
	maxBody      = 4 << 20 // 32768 have runs (256 KiB) and 32768 roots (1.2 MiB), with room to grow
	maxReply     = 8 << 20 // 65536 roots are 2.4 MiB, the runs and peers far below 1 MiB
	maxUrgent    = 64      // readers blocked at once on different places of one blob
	maxAhead     = 256     // windows of as many readers
	maxReading   = 256     // 64 transfers for blocked readers and some ahead, in two runs each, twice over
	maxHave      = 32768   // a fully fragmented bitfield of 64 Ki pieces in one message
	maxRoots     = 32768   // the piece layer of 32 GiB (at 1 MiB) in one message
	maxReplyRoot = 65536   // and of 64 GiB in one reply
	maxHeld      = 4096    // runs; a node that wants more sees the nearest
	maxBlame     = 64      // complaints: every parent of every stripe, twice over
	maxZone      = 128     // bytes
	maxWait      = 60 * time.Second
	maxPieces    = 1 << 22       // 16 TiB in pieces of 4 MiB: the scheduler's bitmaps stay below 1 MiB a swarm
	maxInt       = math.MaxInt64 // counters
	runLen       = 8
	rootLen      = 36
	peerLen      = 38
)

// peerID is the 20 bytes by which a peer names itself (BEP 3); key is the 20 bytes that name a swarm.
type (
	peerID [20]byte
	key    [20]byte
)

// pieceRoot is one claim.
type pieceRoot struct {
	piece uint32
	root  blob.Hash
}

// planPeer is one other member of the swarm.
type planPeer struct {
	addr netip.AddrPort
	id   peerID
}

type planRequest struct {
	key           key
	peer          peerID
	port          uint16
	ip            string
	geometry      blob.Geometry
	epoch         int64
	seq, gen, log int64
	tree          int64 // number of the assignment
	read          int64 // bytes from the origin
	full, stop    bool
	want          bool
	wait          time.Duration
	about
	wish
	have  []blob.Run
	roots []pieceRoot
	blame []relay.Complaint
}

// wish is what a node would read from the origin, as runs of pieces in no certain order, which may overlap.
type wish struct {
	reading, urgent, ahead []blob.Run // is being read, somebody is blocked on, would be read next
}

// idle reports whether nothing is wished.
func (w *wish) idle() bool { return len(w.reading) == 0 && len(w.urgent) == 0 && len(w.ahead) == 0 }

// names reports whether piece i is in the wish.
func (w *wish) names(i uint32) bool {
	return inRuns(w.reading, i) || inRuns(w.urgent, i) || inRuns(w.ahead, i)
}

// meets reports whether a piece of runs is in the wish.
func (w *wish) meets(runs []blob.Run) bool {
	return meets(w.reading, runs) || meets(w.urgent, runs) || meets(w.ahead, runs)
}

// lists are the three lists, for loops over all of them.
func (w *wish) lists() [3][]blob.Run { return [3][]blob.Run{w.reading, w.urgent, w.ahead} }

func flag(on bool) int64 {
	if on {
		return 1
	}
	return 0
}

// append writes the request behind b.
func (r *planRequest) append(b []byte) []byte {
	b = append(b, 'd')
	b = appendRuns(b, "ahead", r.ahead)
	b = appendBlame(b, r.blame)
	b = appendPair(b, "bulk", flag(r.bulk))
	b = appendPair(b, "epoch", r.epoch)
	b = appendPair(b, "full", flag(r.full))
	b = appendPair(b, "gen", r.gen)
	b = appendRuns(b, "have", r.have)
	b = appendText(b, "ip", r.ip)
	b = appendText(b, "key", r.key[:])
	b = appendPair(b, "log", r.log)
	b = appendPair(b, "origin", flag(r.origin))
	b = appendText(b, "peer", r.peer[:])
	b = appendPair(b, "piece", r.geometry.PieceLength)
	b = appendPair(b, "plan", r.tree)
	b = appendPair(b, "port", int64(r.port))
	b = appendPair(b, "read", r.read)
	b = appendRuns(b, "reading", r.reading)
	b = appendPair(b, "role", flag(r.prefer))
	b = appendRoots(b, r.roots)
	b = appendPair(b, "seq", r.seq)
	b = appendPair(b, "size", r.geometry.Size)
	b = appendPair(b, "stop", flag(r.stop))
	b = appendPair(b, "up", r.up)
	b = appendRuns(b, "urgent", r.urgent)
	b = appendPair(b, "v", planVersion)
	b = appendPair(b, "wait", r.wait.Milliseconds())
	b = appendPair(b, "want", flag(r.want))
	b = appendText(b, "zone", []byte(r.zone))
	return append(b, 'e')
}

// parsePlanRequest reads a request and checks everything that does not depend on the swarm.
func parsePlanRequest(body []byte) (*planRequest, error) {
	r := new(planRequest)
	var v, port, full, stop, want, wait, bulk, origin, role int64
	var haveRuns, reading, urgent, ahead, roots, blame []byte
	var keyed, named bool
	err := eachPair(body, func(k string, raw []byte) (err error) {
		switch k {
		case "ahead":
			ahead, err = asString(raw)
		case "blame":
			blame, err = asString(raw)
		case "bulk":
			bulk, err = asInt(raw, 1)
		case "epoch":
			r.epoch, err = asInt(raw, maxInt)
		case "full":
			full, err = asInt(raw, 1)
		case "gen":
			r.gen, err = asInt(raw, maxInt)
		case "have":
			haveRuns, err = asString(raw)
		case "ip":
			var s []byte
			if s, err = asString(raw); len(s) > 64 {
				err = malformed("address too long", raw)
			}
			r.ip = string(s)
		case "key":
			keyed, err = true, as20(raw, (*[20]byte)(&r.key))
		case "log":
			r.log, err = asInt(raw, maxInt)
		case "origin":
			origin, err = asInt(raw, 1)
		case "peer":
			named, err = true, as20(raw, (*[20]byte)(&r.peer))
		case "piece":
			r.geometry.PieceLength, err = asInt(raw, 1<<30)
		case "plan":
			r.tree, err = asInt(raw, maxInt)
		case "port":
			port, err = asInt(raw, 65535)
		case "read":
			r.read, err = asInt(raw, maxInt)
		case "reading":
			reading, err = asString(raw)
		case "role":
			role, err = asInt(raw, 1)
		case "roots":
			roots, err = asString(raw)
		case "seq":
			r.seq, err = asInt(raw, maxInt)
		case "size":
			r.geometry.Size, err = asInt(raw, blob.MaxSize)
		case "stop":
			stop, err = asInt(raw, 1)
		case "up":
			r.up, err = asInt(raw, maxInt)
		case "urgent":
			urgent, err = asString(raw)
		case "v":
			v, err = asInt(raw, 255)
		case "wait":
			wait, err = asInt(raw, maxWait.Milliseconds())
		case "want":
			want, err = asInt(raw, 1)
		case "zone":
			var s []byte
			if s, err = asString(raw); err == nil {
				r.zone, err = ParseZone(string(s))
			}
		}
		if err != nil {
			err = fmt.Errorf("plan request: %s: %w", k, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	switch {
	case v != planVersion:
		return nil, fmt.Errorf("%w: plan request of version %d, this tracker speaks %d: run the same release on all machines", blob.ErrInvalid, v, planVersion)
	case !keyed || !named:
		return nil, fmt.Errorf("%w: plan request without key or peer", blob.ErrInvalid)
	}
	if err := r.geometry.Check(); err != nil {
		return nil, fmt.Errorf("plan request: %w", err)
	}
	if (r.geometry.Size+r.geometry.PieceLength-1)/r.geometry.PieceLength > maxPieces {
		return nil, fmt.Errorf("%w: plan request: %d bytes in pieces of %d are more than %d pieces", blob.ErrInvalid, r.geometry.Size, r.geometry.PieceLength, maxPieces)
	}
	r.port, r.full, r.stop, r.want = uint16(port), full == 1, stop == 1, want == 1
	r.bulk, r.origin, r.prefer = bulk == 1, origin == 1, role == 1
	r.wait = time.Duration(wait) * time.Millisecond
	n := r.geometry.Pieces()
	if r.reading, err = parseRuns("reading", reading, n, maxReading); err != nil {
		return nil, err
	}
	if r.urgent, err = parseRuns("urgent", urgent, n, maxUrgent); err != nil {
		return nil, err
	}
	if r.ahead, err = parseRuns("ahead", ahead, n, maxAhead); err != nil {
		return nil, err
	}
	if r.have, err = parseRuns("have", haveRuns, n, maxHave); err != nil {
		return nil, err
	}
	if r.blame, err = parseBlame(blame); err != nil {
		return nil, err
	}
	r.roots, err = parseRoots(roots, n, maxRoots)
	return r, err
}

type planReply struct {
	epoch, gen, log int64
	interval, ttl   time.Duration
	pace            time.Duration
	nodes           int64
	solo, resync    bool
	alone           bool
	lease, held     []blob.Run
	disputed        []blob.Run
	roots           []pieceRoot
	peers           []planPeer
	place           *place // nil: as before
}

// append writes the reply behind b.
func (r *planReply) append(b []byte) []byte {
	b = append(b, 'd')
	b = appendPair(b, "alone", flag(r.alone))
	b = appendRuns(b, "disputed", r.disputed)
	b = appendPair(b, "epoch", r.epoch)
	b = appendPair(b, "gen", r.gen)
	b = appendRuns(b, "held", r.held)
	b = appendPair(b, "interval", r.interval.Milliseconds())
	b = appendRuns(b, "lease", r.lease)
	b = appendPair(b, "log", r.log)
	b = appendPair(b, "nodes", r.nodes)
	b = appendPair(b, "pace", r.pace.Milliseconds())
	b = appendPeers(b, r.peers)
	b = appendPlace(b, r.place)
	b = appendPair(b, "resync", flag(r.resync))
	b = appendRoots(b, r.roots)
	b = appendPair(b, "solo", flag(r.solo))
	b = appendPair(b, "ttl", r.ttl.Milliseconds())
	return append(b, 'e')
}

// parsePlanReply reads a reply about a blob of n pieces.
func parsePlanReply(body []byte, n uint32) (*planReply, error) {
	r := new(planReply)
	var interval, ttl, pace, solo, resync, alone int64
	err := eachPair(body, func(k string, raw []byte) (err error) {
		var s []byte
		switch k {
		case "alone":
			alone, err = asInt(raw, 1)
		case "disputed":
			if s, err = asString(raw); err == nil {
				r.disputed, err = parseRuns(k, s, n, maxHeld)
			}
		case "epoch":
			r.epoch, err = asInt(raw, maxInt)
		case "gen":
			r.gen, err = asInt(raw, maxInt)
		case "held":
			if s, err = asString(raw); err == nil {
				r.held, err = parseRuns(k, s, n, maxHeld)
			}
		case "interval":
			interval, err = asInt(raw, 1<<31)
		case "lease":
			if s, err = asString(raw); err == nil {
				r.lease, err = parseRuns(k, s, n, maxHave)
			}
		case "log":
			r.log, err = asInt(raw, maxInt)
		case "nodes":
			r.nodes, err = asInt(raw, 1<<31)
		case "peers":
			if s, err = asString(raw); err == nil {
				r.peers, err = parsePeers(s)
			}
		case "pace":
			pace, err = asInt(raw, 1<<31)
		case "plan":
			if s, err = asString(raw); err == nil {
				r.place, err = parsePlace(s)
			}
		case "resync":
			resync, err = asInt(raw, 1)
		case "roots":
			if s, err = asString(raw); err == nil {
				r.roots, err = parseRoots(s, n, maxReplyRoot)
			}
		case "solo":
			solo, err = asInt(raw, 1)
		case "ttl":
			ttl, err = asInt(raw, 1<<31)
		}
		if err != nil {
			err = fmt.Errorf("plan reply: %s: %w", k, err)
		}
		return err
	})
	if err == nil && r.epoch == 0 {
		err = fmt.Errorf("%w: plan reply without epoch", blob.ErrInvalid)
	}
	r.interval, r.ttl = time.Duration(interval)*time.Millisecond, time.Duration(ttl)*time.Millisecond
	r.pace, r.alone = time.Duration(pace)*time.Millisecond, alone == 1
	r.solo, r.resync = solo == 1, resync == 1
	return r, err
}

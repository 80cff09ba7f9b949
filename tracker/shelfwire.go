package tracker

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/pantala/pantala/blob"
)

/*
Records, byte by byte: what nodes tell each other about images, through the tracker. A layer's digest leads to claims
about its index file, an image's to the order in which it is read (a profile, which the tracker merges).

A node POSTs one bencoded dictionary to /records beside /announce, and is answered at once. Conventions are those of
the plan exchange (plan.go). A tracker that is older answers 404: it keeps no records.

Request, at most 512 KiB:

	ask    string, n × 32: digests of layers, claims about whose indexes are wanted; n ≤ 1024
	claims string, n × 105: layer [32] | claim [73]: indexes that this node has, and vouches for; n ≤ 1024. To be
	       repeated within 30 minutes
	drop   string, n × 32: layers whose indexes this node does not have any more; n ≤ 1024
	image  string, 32: digest of an image's manifest, for report and want
	ip     string: as in a plan request
	peer   string, 20: likewise
	port   int: likewise
	report string, at most 65536: a profile of image, recorded here
	v      int: 1
	want   int: 1 = the profile of image is wanted

A claim is root [32], the BEP 52 root of the index file, | SHA-256 [32] | length in bytes u64 | trust u8, as the node
that vouches has it (decision 0002).

Reply, 200:

	claims  string: for each claim: layer [32] | claim [73] | vouchers u8: how many hosts say so that do not only believe it | n u8 | n × 38: ip [16] |
	        port u16 | peer id [20] of some that do, the newest first; n ≤ 4. Of one layer, the one that most hosts
	        vouch for first, and of those the oldest; at most 4
	epoch   int: a number drawn when the tracker started. A change means that it has forgotten: claim everything again
	profile string: the merged profile of image

Reply, 400, 403, 503: as to a plan request; 429: this address has sent too much, try again in a second.

A host is an address of IPv4, or 64 bits of one of IPv6: it has one word about a layer, its last, and one profile of an
image, however many nodes it runs.
*/

// Bounds of the records exchange.
const (
	maxRecordsBody  = 512 << 10 // 1024 × (32 + 105 + 32) bytes and a profile are 240 KiB
	maxRecordsReply = 2 << 20   // 1024 × 4 × 259 bytes and a profile are 1.1 MiB
	maxLayers       = 1024      // of one request: eight times what an image may have
	maxProfile      = 64 << 10  // bytes: image/profile writes at most 48 KiB
	maxClaims       = 4         // about one layer: one is right; the others are mistakes, lies, other versions of the format
	maxClaimPeers   = 4
	claimLen        = 32 + 32 + 8 + 1
)

// IndexClaim says which file is the index of a layer.
type IndexClaim struct {
	Root   blob.Hash  // BEP 52 root of the file
	Digest blob.Hash  // its SHA-256
	Size   int64      // its length in bytes
	Trust  blob.Trust // as whoever vouched first has it. For whoever reads it here it is Claimed, and no more
	// Vouchers is how many hosts say so whose trust is higher than Claimed, 32 at most; Peers are some of those that have
	// the file. They are not part of what is claimed.
	Vouchers int
	Peers    []netip.AddrPort
}

// same reports whether both name the same file.
func (c *IndexClaim) same(o *IndexClaim) bool {
	return c.Root == o.Root && c.Digest == o.Digest && c.Size == o.Size
}

// check says what is wrong with a claim.
func (c *IndexClaim) check() error {
	if c.Size <= 0 || c.Size > blob.MaxSize || c.Root.IsZero() || c.Digest.IsZero() || c.Trust == blob.Unknown || c.Trust > blob.Built {
		return fmt.Errorf("%w: claim: an index of %d bytes, trust %d: it has bytes, a root, a digest, and somebody who vouches", blob.ErrInvalid, c.Size, c.Trust)
	}
	return nil
}

func (c *IndexClaim) append(b []byte) []byte {
	b = append(append(b, c.Root[:]...), c.Digest[:]...)
	return append(binary.BigEndian.AppendUint64(b, uint64(c.Size)), byte(c.Trust))
}

// parseClaim reads claimLen bytes.
func parseClaim(b []byte) (c IndexClaim, err error) {
	copy(c.Root[:], b)
	copy(c.Digest[:], b[32:])
	c.Size, c.Trust = int64(binary.BigEndian.Uint64(b[64:])), blob.Trust(b[72])
	return c, c.check()
}

// layerClaim is a claim and what it is about.
type layerClaim struct {
	layer blob.Hash
	IndexClaim
	peers []planPeer // of a reply
}

type recordsRequest struct {
	peer   peerID
	port   uint16
	ip     string
	ask    []blob.Hash
	claims []layerClaim
	drop   []blob.Hash
	image  blob.Hash
	report []byte
	want   bool
}

func appendHashes(b []byte, key string, list []blob.Hash) []byte {
	all := make([]byte, 0, len(list)*32)
	for i := range list {
		all = append(all, list[i][:]...)
	}
	return appendText(b, key, all)
}

func parseHashes(b []byte) ([]blob.Hash, error) {
	if len(b)%32 != 0 || len(b)/32 > maxLayers {
		return nil, fmt.Errorf("%w: %d bytes are not up to %d digests", blob.ErrInvalid, len(b), maxLayers)
	}
	list := make([]blob.Hash, len(b)/32)
	for i := range list {
		list[i] = blob.Hash(b[32*i:])
	}
	return list, nil
}

// append writes the request behind b.
func (r *recordsRequest) append(b []byte) []byte {
	b = append(b, 'd')
	b = appendHashes(b, "ask", r.ask)
	var claims []byte
	for i := range r.claims {
		claims = r.claims[i].IndexClaim.append(append(claims, r.claims[i].layer[:]...))
	}
	b = appendText(b, "claims", claims)
	b = appendHashes(b, "drop", r.drop)
	if !r.image.IsZero() {
		b = appendText(b, "image", r.image[:])
	}
	b = appendText(b, "ip", r.ip)
	b = appendText(b, "peer", r.peer[:])
	b = appendPair(b, "port", int64(r.port))
	b = appendText(b, "report", r.report)
	b = appendPair(b, "v", planVersion)
	b = appendPair(b, "want", flag(r.want))
	return append(b, 'e')
}

// parseRecordsRequest reads a request; it points into body.
func parseRecordsRequest(body []byte) (*recordsRequest, error) {
	r := new(recordsRequest)
	var v, port, want int64
	named := false
	err := eachPair(body, func(k string, raw []byte) (err error) {
		var s []byte
		switch k {
		case "ask":
			if s, err = asString(raw); err == nil {
				r.ask, err = parseHashes(s)
			}
		case "claims":
			if s, err = asString(raw); err == nil {
				r.claims, err = parseClaims(s)
			}
		case "drop":
			if s, err = asString(raw); err == nil {
				r.drop, err = parseHashes(s)
			}
		case "image":
			if s, err = asString(raw); err == nil && len(s) != 32 {
				err = malformed("not a digest of 32 bytes", raw)
			} else if err == nil {
				r.image = blob.Hash(s)
			}
		case "ip":
			if s, err = asString(raw); len(s) > 64 {
				err = malformed("address too long", raw)
			}
			r.ip = string(s)
		case "peer":
			named, err = true, as20(raw, (*[20]byte)(&r.peer))
		case "port":
			port, err = asInt(raw, 65535)
		case "report":
			if r.report, err = asString(raw); len(r.report) > maxProfile {
				err = malformed("profile too long", raw)
			}
		case "v":
			v, err = asInt(raw, 255)
		case "want":
			want, err = asInt(raw, 1)
		}
		if err != nil {
			err = fmt.Errorf("records request: %s: %w", k, err)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case v != planVersion:
		return nil, fmt.Errorf("%w: records request of version %d, this tracker speaks %d: run the same release on all machines", blob.ErrInvalid, v, planVersion)
	case !named:
		return nil, fmt.Errorf("%w: records request without peer", blob.ErrInvalid)
	case r.image.IsZero() && (want == 1 || len(r.report) > 0):
		return nil, fmt.Errorf("%w: records request: a profile without an image", blob.ErrInvalid)
	}
	r.port, r.want = uint16(port), want == 1
	return r, nil
}

func parseClaims(b []byte) ([]layerClaim, error) {
	const one = 32 + claimLen
	if len(b)%one != 0 || len(b)/one > maxLayers {
		return nil, fmt.Errorf("%w: %d bytes are not up to %d claims", blob.ErrInvalid, len(b), maxLayers)
	}
	list := make([]layerClaim, len(b)/one)
	for i := range list {
		var err error
		at := b[i*one:]
		list[i].layer = blob.Hash(at)
		if list[i].IndexClaim, err = parseClaim(at[32:one]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

type recordsReply struct {
	epoch   int64
	claims  []layerClaim
	profile []byte
}

// append writes the reply behind b.
func (r *recordsReply) append(b []byte) []byte {
	b = append(b, 'd')
	var claims []byte
	for i := range r.claims {
		c := &r.claims[i]
		claims = c.IndexClaim.append(append(claims, c.layer[:]...))
		claims = append(claims, byte(c.Vouchers), byte(len(c.peers)))
		for _, p := range c.peers {
			claims = appendPeer(claims, p)
		}
	}
	b = appendText(b, "claims", claims)
	b = appendPair(b, "epoch", r.epoch)
	b = appendText(b, "profile", r.profile)
	return append(b, 'e')
}

// parseRecordsReply reads a reply; it points into body.
func parseRecordsReply(body []byte) (*recordsReply, error) {
	r := new(recordsReply)
	err := eachPair(body, func(k string, raw []byte) (err error) {
		var s []byte
		switch k {
		case "claims":
			if s, err = asString(raw); err == nil {
				r.claims, err = parseReplyClaims(s)
			}
		case "epoch":
			r.epoch, err = asInt(raw, maxInt)
		case "profile":
			if r.profile, err = asString(raw); len(r.profile) > maxProfile {
				err = malformed("profile too long", raw)
			}
		}
		if err != nil {
			err = fmt.Errorf("records reply: %s: %w", k, err)
		}
		return err
	})
	if err == nil && r.epoch == 0 {
		err = fmt.Errorf("%w: records reply without epoch", blob.ErrInvalid)
	}
	return r, err
}

func parseReplyClaims(b []byte) (list []layerClaim, err error) {
	const head = 32 + claimLen + 2
	for len(b) > 0 {
		n := 0
		if len(b) >= head {
			n = int(b[head-1])
		}
		if len(b) < head+n*peerLen || n > maxClaimPeers || len(list) == maxLayers*maxClaims {
			return nil, fmt.Errorf("%w: %d bytes are no claims", blob.ErrInvalid, len(b))
		}
		c := layerClaim{layer: blob.Hash(b)}
		if c.IndexClaim, err = parseClaim(b[32 : head-2]); err != nil {
			return nil, err
		}
		c.Vouchers = int(b[head-2])
		if c.peers, err = parsePeers(b[head : head+n*peerLen]); err != nil {
			return nil, err
		}
		list, b = append(list, c), b[head+n*peerLen:]
	}
	return list, nil
}

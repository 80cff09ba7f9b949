package discovery

import (
	"crypto/hmac"
	crand "crypto/rand"
	"crypto/sha256"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Bounds of what others announce to us: 20 000 peers of about 100 bytes are 2 MiB. A node of a large network is
// among the 8 nearest of some hundred keys.
const (
	maxStoreKeys  = 2000
	maxStoreEach  = 200
	maxStorePeers = 20_000
	// storeFor is how long an announce holds; clients repeat it every 15 minutes or more often.
	storeFor = 30 * time.Minute
	// maxReply is how many peers a reply names: 50 of 21 bytes (IPv6) fit in a packet beside 8 nodes.
	maxReply = 40
	// tokenFor is how long a secret makes tokens; those of the one before are accepted too, as BEP 5 proposes.
	tokenFor = 5 * time.Minute
)

// store are the peers that others have announced, and the tokens that show that they can be reached where they
// say. It is not safe for concurrent use.
type store struct {
	peers   map[nodeID]map[netip.AddrPort]time.Time
	count   int
	secrets [2][32]byte // now, and before
	turned  time.Time
}

func newStore(at time.Time) *store {
	s := &store{peers: map[nodeID]map[netip.AddrPort]time.Time{}, turned: at}
	crand.Read(s.secrets[0][:])
	crand.Read(s.secrets[1][:])
	return s
}

// token is what an address has to show when it announces.
func (s *store) token(a netip.Addr, at time.Time) []byte {
	if at.Sub(s.turned) > tokenFor {
		s.secrets[1] = s.secrets[0]
		if at.Sub(s.turned) > 2*tokenFor {
			crand.Read(s.secrets[1][:])
		}
		crand.Read(s.secrets[0][:])
		s.turned = at
	}
	return mac(&s.secrets[0], a)
}

// valid reports whether we gave this token to this address in the last 5 to 10 minutes.
func (s *store) valid(token []byte, a netip.Addr, at time.Time) bool {
	return hmac.Equal(token, s.token(a, at)) || hmac.Equal(token, mac(&s.secrets[1], a))
}

func mac(secret *[32]byte, a netip.Addr) []byte {
	h := hmac.New(sha256.New, secret[:])
	h.Write(a.AsSlice())
	return h.Sum(nil)[:8]
}

// put keeps a peer, when there is room.
func (s *store) put(key nodeID, a netip.AddrPort, at time.Time) {
	m := s.peers[key]
	if _, there := m[a]; there {
		m[a] = at
		return
	}
	if len(m) >= maxStoreEach || s.count >= maxStorePeers || m == nil && len(s.peers) >= maxStoreKeys {
		return
	}
	if m == nil {
		m = map[netip.AddrPort]time.Time{}
		s.peers[key] = m
	}
	m[a] = at
	s.count++
}

// get are some of the peers of a key.
func (s *store) get(key nodeID, at time.Time) (all []netip.AddrPort) {
	for a, since := range s.peers[key] {
		if at.Sub(since) <= storeFor {
			all = append(all, a)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), maxReply)]
}

// sweep forgets what is too old.
func (s *store) sweep(at time.Time) {
	for key, m := range s.peers {
		for a, since := range m {
			if at.Sub(since) > storeFor {
				delete(m, a)
				s.count--
			}
		}
		if len(m) == 0 {
			delete(s.peers, key)
		}
	}
}

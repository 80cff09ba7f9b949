package discovery

import (
	"net/netip"
	"time"
)

// quota bounds the packets that are looked at, per sender and in all, in windows of a second. It is not safe for
// concurrent use.
type quota struct {
	each, all int
	second    int64
	total     int
	from      map[netip.Addr]int
}

func newQuota(each, all int) *quota { return &quota{each: each, all: all, from: map[netip.Addr]int{}} }

// take reports whether a packet of a sender may be looked at now.
func (q *quota) take(a netip.Addr, at time.Time) bool {
	if s := at.Unix(); s != q.second {
		q.second, q.total = s, 0
		clear(q.from)
	}
	// The map grows with what is let through, and that is at most all.
	if q.total >= q.all || q.from[a] >= q.each {
		return false
	}
	q.total++
	q.from[a]++
	return true
}

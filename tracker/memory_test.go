package tracker

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/pantala/pantala/blob"
)

// TestHostileReplies: the longest replies of a tracker that means harm, and requests of a node that does, cost less than
// 64 MiB, all that is allocated on the way counted.
func TestHostileReplies(t *testing.T) {
	long := func(key, unit string) []byte {
		s := bytes.Repeat([]byte(unit), (maxReply-100)/len(unit))
		return fmt.Appendf(nil, "d%d:%s%d:%se", len(key), key, len(s), s)
	}
	many := func(key, unit string) []byte {
		return fmt.Appendf(nil, "d%d:%sl%see", len(key), key, bytes.Repeat([]byte(unit), (maxReply-100)/len(unit)))
	}
	announce := func(b []byte) error { _, err := parseAnnounceReply(b); return err }
	plan := func(b []byte) error { _, err := parsePlanReply(b, 1<<31); return err }
	request := func(b []byte) error { _, err := parsePlanRequest(b); return err }
	for name, c := range map[string]struct {
		parse func([]byte) error
		body  []byte
		ok    bool
	}{
		"compact":       {announce, long("peers", "\x0a\x00\x00\x01\x1a\xe1"), true},
		"compact, six":  {announce, long("peers6", "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x1a\xe1"), true},
		"dictionaries":  {announce, many("peers", "d2:ip3:::14:porti1ee"), true},
		"depth":         {announce, bytes.Repeat([]byte("l"), maxReply), false},
		"failure":       {announce, long("failure reason", "\xff"), true},
		"uneven":        {announce, long("peers", "1234567"), false},
		"runs":          {plan, long("held", "\x00\x01"), false},
		"lease":         {plan, long("lease", "\x01\x01"), false},
		"roots":         {plan, long("roots", "\x01"), false},
		"peers":         {plan, long("peers", "\xff"), false},
		"place":         {plan, long("plan", "\xff"), false},
		"depth of plan": {plan, bytes.Repeat([]byte("d1:a"), maxReply/4), false},
		"have":          {request, long("have", "\x00\x01"), false},
		"request":       {request, bytes.Repeat([]byte("d1:a"), maxReply/4), false},
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		err := c.parse(c.body)
		runtime.ReadMemStats(&after)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, blob.ErrInvalid) {
			t.Errorf("%s: %.200v", name, err)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
			t.Errorf("%s: %d MiB allocated for a reply of 8 MiB", name, got>>20)
		}
	}
}

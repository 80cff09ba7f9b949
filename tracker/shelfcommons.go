package tracker

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/pantala/pantala/blob"
)

// Records in the shared state (commons.go): what a node tells one tracker all can answer with. A tracker writes what it
// is told, and before it answers reads what is there into its shelf; when the store does not answer in time it goes on
// with what the shelf has.

// recordsLimit is how long a node waits for the store: it gives up on the tracker itself after 250 ms.
const recordsLimit = 100 * time.Millisecond

// vouchLen is the value of one host's word in the store.
const vouchLen = claimLen + peerLen + 8 + 8

func recordKey(digest blob.Hash, rest string) string {
	return commonsPrefix + "{" + hex.EncodeToString(digest[:]) + "}:" + rest
}

func appendVouch(b []byte, c *IndexClaim, v *vouch) []byte {
	b = appendPeer(c.append(b), v.peer)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(v.since)), uint64(v.at))
}

// parseVouch reads what another tracker has written.
func parseVouch(host, value string) (c IndexClaim, v vouch, err error) {
	if len(host) != len(hostID{}) || len(value) != vouchLen {
		return c, v, fmt.Errorf("%w: a record of %d bytes", blob.ErrInvalid, len(value))
	}
	b := []byte(value)
	if c, err = parseClaim(b); err != nil {
		return c, v, err
	}
	peers, err := parsePeers(b[claimLen : claimLen+peerLen])
	if err != nil {
		return c, v, err
	}
	b = b[claimLen+peerLen:]
	v = vouch{host: hostID([]byte(host)), peer: peers[0]}
	v.since, v.at = int64(binary.BigEndian.Uint64(b)&maxInt), int64(binary.BigEndian.Uint64(b[8:])&maxInt)
	return c, v, nil
}

// vouchScript writes the word of one host about one layer. It keeps since when when it says the same, and forgets what
// has expired when there is no room.
var vouchScript = rueidis.NewLuaScriptNoSha(`
local k, host, v = KEYS[1], ARGV[1], ARGV[2]
local was = redis.call('HGET', k, host)
if was and #was == #v and string.sub(was, 1, 72) == string.sub(v, 1, 72) then
  v = string.sub(v, 1, -17) .. string.sub(was, -16, -9) .. string.sub(v, -8)
elseif not was and redis.call('HLEN', k) >= tonumber(ARGV[3]) then
  local all = redis.call('HGETALL', k)
  for i = 1, #all, 2 do
    if #all[i + 1] < 8 or struct.unpack('>I8', string.sub(all[i + 1], -8)) < tonumber(ARGV[4]) then
      redis.call('HDEL', k, all[i])
    end
  end
  if redis.call('HLEN', k) >= tonumber(ARGV[3]) then
    return 0
  end
end
redis.call('HSET', k, host, v)
redis.call('PEXPIRE', k, ARGV[5])
return 1`)

// unsayScript takes back the word of a host.
var unsayScript = rueidis.NewLuaScriptNoSha(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], '')
end
return 0`)

// reportScript writes the profile of one host, and removes the oldest when there are too many.
var reportScript = rueidis.NewLuaScriptNoSha(`
local k = KEYS[1]
redis.call('HSET', k, ARGV[1], ARGV[2])
redis.call('PEXPIRE', k, ARGV[4])
if redis.call('HLEN', k) > tonumber(ARGV[3]) then
  local all, oldest, at = redis.call('HGETALL', k), nil, nil
  for i = 1, #all, 2 do
    local t = struct.unpack('>I8', string.sub(all[i + 1], 1, 8))
    if not at or t < at then
      oldest, at = all[i], t
    end
  end
  redis.call('HDEL', k, oldest)
end
return 0`)

// shareRecords writes what a node has said and reads what it asks for.
func (c *commons) shareRecords(ctx context.Context, now time.Time, q *recordsRequest, v vouch, one report) {
	live := c.live.Load()
	if live == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, recordsLimit)
	defer cancel()
	if err := c.exchangeRecords(ctx, *live, now, q, v, one); err != nil {
		c.server.log.Debug("records are answered from memory", "state", c.state.shown, "err", err)
	}
}

func (c *commons) exchangeRecords(ctx context.Context, store rueidis.Client, now time.Time, q *recordsRequest, v vouch, one report) error {
	host := string(v.host[:])
	if len(q.drop) > 0 {
		scripts := make([]rueidis.LuaExec, len(q.drop))
		for i := range q.drop {
			scripts[i] = rueidis.LuaExec{Keys: []string{recordKey(q.drop[i], "index")}, Args: []string{host}}
		}
		for _, r := range unsayScript.ExecMulti(ctx, store, scripts...) {
			if err := r.Error(); err != nil {
				return err
			}
		}
	}
	if len(q.claims) > 0 {
		cutoff, px := strconv.FormatInt(now.Add(-claimKept).Unix(), 10), strconv.FormatInt(claimKept.Milliseconds(), 10)
		scripts := make([]rueidis.LuaExec, len(q.claims))
		for i := range q.claims {
			l := &q.claims[i]
			scripts[i] = rueidis.LuaExec{
				Keys: []string{recordKey(l.layer, "index")},
				Args: []string{host, string(appendVouch(nil, &l.IndexClaim, &v)), strconv.Itoa(maxVouches), cutoff, px},
			}
		}
		for _, r := range vouchScript.ExecMulti(ctx, store, scripts...) {
			if err := r.Error(); err != nil {
				return err
			}
		}
	}
	if len(one.profile) > 0 {
		value := append(binary.BigEndian.AppendUint64(nil, uint64(one.at)), one.profile...)
		args := []string{host, string(value), strconv.Itoa(maxProfiles), strconv.FormatInt(profileKept.Milliseconds(), 10)}
		if err := reportScript.Exec(ctx, store, []string{recordKey(q.image, "profiles")}, args).Error(); err != nil {
			return err
		}
	}
	b := store.B()
	var cmds []rueidis.Completed
	for _, layer := range q.ask {
		cmds = append(cmds, b.Hgetall().Key(recordKey(layer, "index")).Build())
	}
	if q.want {
		cmds = append(cmds, b.Hgetall().Key(recordKey(q.image, "profiles")).Build())
	}
	if len(cmds) == 0 {
		return nil
	}
	results := store.DoMulti(ctx, cmds...)
	for i, layer := range q.ask {
		said, err := results[i].AsStrMap()
		if err != nil {
			return err
		}
		for host, value := range said {
			if claim, v, err := parseVouch(host, value); err == nil {
				c.server.shelf.vouch(now, layer, claim, v)
			} else if len(host) == len(hostID{}) && value == "" {
				c.server.shelf.drop(layer, hostID([]byte(host)), anyPort)
			}
		}
	}
	if q.want {
		said, err := results[len(q.ask)].AsStrMap()
		if err != nil {
			return err
		}
		for host, value := range said {
			if len(host) == len(hostID{}) && len(value) > 8 && len(value) <= 8+maxProfile {
				at := int64(binary.BigEndian.Uint64([]byte(value[:8])) & maxInt)
				c.server.shelf.report(now, q.image, report{hostID([]byte(host)), at, []byte(value[8:])})
			}
		}
	}
	return nil
}

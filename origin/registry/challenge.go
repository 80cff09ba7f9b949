package registry

import (
	"strings"
)

// challenge is what a registry wants to see (RFC 9110 section 11.6.1, and the distribution project's "Token
// Authentication Specification").
type challenge struct {
	scheme                string // "basic" or "bearer"
	realm, service, scope string // of bearer
}

// maxChallenges bounds how many challenges of one answer are looked at.
const maxChallenges = 16

// parseChallenges finds the challenge to answer among the values of WWW-Authenticate: bearer before basic. false:
// none that is known here.
func parseChallenges(values []string) (best challenge, ok bool) {
	n := 0
	for _, v := range values {
		for v != "" && n < maxChallenges {
			var c challenge
			c, v = nextChallenge(v)
			n++
			if c.scheme == "bearer" && c.realm != "" {
				return c, true
			}
			if c.scheme == "basic" {
				best, ok = c, true
			}
		}
	}
	return best, ok
}

// nextChallenge reads one challenge from the start of s, and returns what follows.
func nextChallenge(s string) (c challenge, rest string) {
	s = strings.TrimLeft(s, " \t,")
	scheme, s := token(s)
	if scheme == "" {
		return c, ""
	}
	c.scheme = strings.ToLower(scheme)
	for {
		at := strings.TrimLeft(s, " \t,")
		name, after := token(at)
		after = strings.TrimLeft(after, " \t")
		if name == "" || !strings.HasPrefix(after, "=") {
			return c, at // the next challenge, or the end
		}
		value, after := quoted(strings.TrimLeft(after[1:], " \t"))
		switch strings.ToLower(name) {
		case "realm":
			c.realm = value
		case "service":
			c.service = value
		case "scope":
			c.scope = value
		}
		s = after
	}
}

// token is a token of RFC 9110 section 5.6.2 from the start of s.
func token(s string) (t, rest string) {
	i := 0
	for i < len(s) && (s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}

// quoted is a quoted string, or what some servers write without quotes, up to the next comma or space.
func quoted(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, ", \t")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
			fallthrough
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

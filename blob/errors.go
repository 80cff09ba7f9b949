package blob

import "errors"

// The error classes. Everybody wraps one of them (or a context error) with %w and says what, where and from
// whom; nobody compares texts.
var (
	ErrNotFound    = errors.New("not found")                   // the origin says there is no such thing
	ErrUnavailable = errors.New("unavailable")                 // nobody could deliver in time; asking again may help
	ErrCorrupt     = errors.New("corrupt")                     // bytes do not match their hash
	ErrDenied      = errors.New("permission denied")           // 401, 403, EACCES
	ErrChanged     = errors.New("changed at the origin")       // the object is no longer the one that was opened
	ErrNoSpace     = errors.New("no space in the cache")       // verified but not kept
	ErrInvalid     = errors.New("invalid")                     // malformed input: a URL, a message, a file of ours
	ErrAbsent      = errors.New("not present on this machine") // a store was asked for blocks it does not hold
	ErrClosed      = errors.New("closed")                      // the part that was asked has been stopped
)

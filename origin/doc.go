// Package origin reads a blob from where it comes from: an HTTP or HTTPS server, or a local file.
//
// [Client.Open] sends one request, "GET, Range: bytes=0-131071", and from its answer learns everything: the
// size, the validator that names this version of the object, whether ranges work, a name, and the first
// bytes, so that nothing else stands between a mount and its first byte. [Object.Fetch] then is one request
// for one run of blocks, whose body goes from the socket straight into the receiver's buffers.
//
// What is named by its digest needs less: [Client.Known] is an object whose size is known, at one or several [Site]s,
// each with certificates and a login ([Authorizer]) of its own; it is asked for nothing before its bytes are, and needs
// no validator, because the receiver checks them. [Client.Read] reads a short document in the same way. Package
// origin/registry is made of these.
//
// # Terms
//
// An endpoint is one URL under which the object can be had: the one that was asked for, or a mirror. The
// validator (RFC 9110 section 8.8) is a strong ETag, else Last-Modified, with a weak ETag beside it when
// there is one. An answer is believed only if its status, its Content-Range, its length and its validator
// all say that these are the bytes that were asked for, of the object that was opened; HTTP gives no more.
// A byte that is wrong inside a right answer is found by the receiver, when it has a hash to compare with.
//
// # Place
//
// Below fetch, which sees an [Object] as a blob.Source, beside swarm; imports blob only.
//
// # Goroutines
//
// None of its own that live on: a Fetch runs on the goroutine of its caller, and one timer per Client looks
// for stalled requests while there are any. The HTTP transports keep two goroutines per connection;
// [Client.Close] ends every call that is under way, waits for it, and closes the connections.
//
// # Locks
//
// Client.mu guards the table of transports and the closed flag, watches.mu the requests under way,
// endpoint.mu the health of one endpoint. None is held across I/O or while another one is; what an Object
// learns later is atomic.
//
// # Errors
//
// [blob.ErrNotFound]: 404, 410, no such file. [blob.ErrDenied]: 401, 403, 407, 451, EACCES.
// [blob.ErrInvalid]: a URL or header that cannot be used. [blob.ErrUnavailable]: no answer in time, an answer
// that cannot be believed, 429 and 5xx after all retries. [blob.ErrChanged]: another validator or size than
// at Open; this verdict is final for the Object. [blob.ErrCorrupt]: the receiver refused the bytes of every
// endpoint. [blob.ErrClosed]: the Client was closed. Context errors when the caller's context ended. Texts
// never contain headers, passwords or query strings.
package origin

package origintest

import "net/http"

// Faults are what a server does wrong. The zero value is a good server: ranges, a strong ETag, If-Range,
// Last-Modified of long ago.
type Faults struct {
	IgnoreRange bool  // 200 and the whole object, whatever the range
	ShiftRange  int64 // answers with a range that lies so many bytes further, and says so
	LieRange    int64 // sends bytes from so many bytes further, and does not say so
	Shorten     int64 // > 0: a correct 206 for only the first so many bytes of the range
	WrongTotal  int64 // added to the size in Content-Range
	StarTotal   bool  // "*" for the size in Content-Range
	NoRangeLine bool  // 206 without Content-Range

	ShortBody int64 // > 0: the connection ends in order after so many bytes of body
	Reset     int64 // > 0: it is reset after so many bytes of body
	Stall     int64 // > 0: nothing more comes after so many bytes; < 0: not even a header
	Rate      int64 // > 0: bytes per second

	Corrupt []int64 // the bytes at these offsets are flipped

	NoETag         bool
	WeakETag       bool
	NoLastModified bool
	Fresh          bool // Last-Modified is now
	BadIfRange     bool // every If-Range is taken for a mismatch
	IgnoreIfRange  bool // every If-Range is taken for a match
	Chunked        bool // no Content-Length, and no ranges

	Status     int    // answered in place of the object, 0: none
	RetryAfter string // beside Status
	RedirectTo string // 302 to this URL
	Header     http.Header

	// Times is for how many requests these faults hold; 0: for ever. Afterwards the server is good.
	Times int
}

package origin

import (
	"fmt"
	"math"
	"strings"

	"github.com/pantala/pantala/blob"
)

// ContentRange is a Content-Range header in bytes (RFC 9110 section 14.4).
type ContentRange struct {
	// First and Last are the positions of the first and the last byte; both -1 in the form of a 416 answer,
	// "bytes */SIZE".
	First, Last int64
	// Size is the length of the whole object, -1 where the server wrote "*".
	Size int64
}

// Len is the number of bytes in the range.
func (c ContentRange) Len() int64 {
	if c.First < 0 {
		return 0
	}
	return c.Last - c.First + 1
}

// String is the value of the header.
func (c ContentRange) String() string {
	size := "*"
	if c.Size >= 0 {
		size = fmt.Sprint(c.Size)
	}
	if c.First < 0 {
		return "bytes */" + size
	}
	return fmt.Sprintf("bytes %d-%d/%s", c.First, c.Last, size)
}

// ParseContentRange reads the value of a Content-Range header and accepts nothing but the grammar of RFC
// 9110: a unit of bytes, one space, decimal digits, first ≤ last < size. Otherwise ErrInvalid.
func ParseContentRange(s string) (ContentRange, error) {
	bad := func() (ContentRange, error) {
		return ContentRange{}, fmt.Errorf("%w: Content-Range %.64q", blob.ErrInvalid, s)
	}
	unit, rest, ok := strings.Cut(s, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return bad()
	}
	span, total, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	c := ContentRange{First: -1, Last: -1, Size: -1}
	if total != "*" {
		if c.Size, ok = decimal(total); !ok {
			return bad()
		}
	}
	if span == "*" {
		if c.Size < 0 {
			return bad()
		}
		return c, nil
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return bad()
	}
	var okFirst, okLast bool
	c.First, okFirst = decimal(first)
	c.Last, okLast = decimal(last)
	if !okFirst || !okLast || c.Last < c.First || c.Last == math.MaxInt64 || c.Size >= 0 && c.Last >= c.Size {
		return bad()
	}
	return c, nil
}

// decimal reads 1*DIGIT that fits an int64, without sign or space.
func decimal(s string) (n int64, ok bool) {
	for i := range len(s) {
		d := int64(s[i]) - '0'
		if d < 0 || d > 9 || n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, s != ""
}

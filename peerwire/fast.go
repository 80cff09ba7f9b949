package peerwire

// AppendReject appends reject request (BEP 6): the request of exactly this extent will not be answered.
func AppendReject(b []byte, piece, begin, length uint32) []byte {
	return appendExtent(b, Reject, piece, begin, length)
}

// AppendSuggest appends suggest piece (BEP 6).
func AppendSuggest(b []byte, piece uint32) []byte { return appendIndex(b, Suggest, piece) }

// AppendAllowedFast appends allowed fast (BEP 6): the piece may be requested while choked.
func AppendAllowedFast(b []byte, piece uint32) []byte { return appendIndex(b, AllowedFast, piece) }

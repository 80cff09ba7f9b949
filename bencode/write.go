package bencode

import "strconv"

// AppendString writes a string.
func AppendString[T string | []byte](b []byte, s T) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

// AppendInt writes an integer.
func AppendInt(b []byte, n int64) []byte {
	b = append(b, 'i')
	b = strconv.AppendInt(b, n, 10)
	return append(b, 'e')
}

// AppendPair writes a key and an integer; zero is left out, it is what an absent key means.
func AppendPair(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	return AppendInt(AppendString(b, key), n)
}

// AppendText writes a key and a string; the empty string is left out.
func AppendText[T string | []byte](b []byte, key string, s T) []byte {
	if len(s) == 0 {
		return b
	}
	return AppendString(AppendString(b, key), s)
}

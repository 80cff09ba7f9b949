package inflate

// Pack returns the packed form of a window of which all bytes are known: raw is what lies before a point, 32 KiB at
// most, its last byte next to it. Other formats keep windows whole.
func Pack(raw []byte) []byte {
	var w window
	raw = raw[max(0, len(raw)-winSize):]
	copy(w.bytes[winSize-len(raw):], raw)
	w.have.set(winSize-len(raw), winSize)
	var scratch []byte
	return w.pack(nil, &scratch)
}

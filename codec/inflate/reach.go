package inflate

// reach handles a match of n bytes at out[o] that begins before out[floor]. copied: it has written the match, which
// fits into out; otherwise its source lies in out and the caller goes on. Not ok: there is no such source.
func (d *decoder) reach(out []byte, o, back, n int) (copied, ok bool) {
	from := o - back
	switch {
	case d.past != nil:
		lost := -from // how far before out[0]
		if k := min(lost, n); !d.past.have.all(winSize-lost, winSize-lost+k) {
			d.fail("the window lacks what a match refers to")
			return false, false
		} else {
			copy(out[o:o+k], d.past.bytes[winSize-lost:])
			for i := o + k; i < o+n; i++ {
				out[i] = out[i-back]
			}
		}
		return true, true
	case from < d.member:
		d.fail("a match refers to what is before the beginning")
		return false, false
	case d.used != nil:
		start := d.floor - winSize // out[start:floor] is the window
		d.used.set(from-start, min(from+n, d.floor)-start)
	}
	return false, true
}

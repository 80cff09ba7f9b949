package profile

import (
	"cmp"
	"slices"
)

// Keep is of how many starts of an image the profiles are kept to be merged: enough that one odd start among them
// does not count, and few enough that what a new version of the surroundings reads is learnt within a day.
const Keep = 16

// often is the share of starts, in hundredths, that must have read a span for it to be fetched ahead: what fewer read
// was a different command, an argument, chance.
const often = 30

// Merge makes one profile of those of several starts: the spans that at least 30 % of them have read, not counting those
// that would not have seen it, in the order of the median of their places. It does not depend on the order of its
// arguments. Each counts as one start, whatever it says of itself: that is what somebody claims. Without arguments the
// profile is empty.
func Merge(all ...*Profile) *Profile {
	if len(all) > MaxStarts {
		all = all[len(all)-MaxStarts:]
	}
	merged := &Profile{Starts: max(len(all), 1)}
	places, blind := map[Touch][]int{}, map[uint16]int{}
	seen := map[Touch]int{} // by starts that are blind to the layer
	for _, p := range all {
		for _, l := range p.Blind {
			blind[l]++
		}
		for i, t := range p.Touches {
			places[t] = append(places[t], i)
			if _, ok := slices.BinarySearch(p.Blind, t.Layer); ok {
				seen[t]++
			}
		}
	}
	for l, n := range blind {
		if n == len(all) {
			merged.Blind = append(merged.Blind, l)
		}
	}
	slices.Sort(merged.Blind)
	type one struct {
		Touch
		median, sum int
	}
	var list []one
	for t, at := range places {
		if could := len(all) - blind[t.Layer] + seen[t]; 100*len(at) < often*could {
			continue
		}
		// What comes first in all starts that have both comes first in the merged one: the lower median of numbers
		// that are each smaller is smaller.
		slices.Sort(at)
		o := one{Touch: t, median: at[(len(at)-1)/2]}
		for _, i := range at {
			o.sum += i
		}
		o.sum = o.sum * MaxStarts / len(at) // the mean, finer
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b one) int {
		return cmp.Or(cmp.Compare(a.median, b.median), cmp.Compare(a.sum, b.sum), cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Span, b.Span))
	})
	for _, o := range list[:min(len(list), MaxTouches)] {
		merged.Touches = append(merged.Touches, o.Touch)
	}
	return merged
}

// MergeBytes merges profiles as they are written. What cannot be read is left out; nil: nothing is left.
func MergeBytes(all [][]byte) []byte {
	var list []*Profile
	for _, b := range all {
		if p, err := Parse(b); err == nil {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return Merge(list...).Append(nil)
}

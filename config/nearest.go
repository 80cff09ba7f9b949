package config

// Nearest is the word of words that is the fewest insertions, deletions, replacements and swaps of
// neighbouring letters away from s, and whether it is near enough to be what was meant: at most a third of
// the longer one's letters differ, and at least one is allowed to.
func Nearest(s string, words []string) (string, bool) {
	best, least := "", 0
	for _, w := range words {
		if d := distance(s, w); best == "" || d < least {
			best, least = w, d
		}
	}
	return best, best != "" && least <= max(1, max(len(s), len(best))/3)
}

// distance is the optimal string alignment distance in bytes. Three rows of the table are kept. Only the
// first 64 bytes count: no word of ours is longer.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

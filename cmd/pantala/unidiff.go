package main

import (
	"fmt"
	"strings"
)

// unifiedDiff shows what becomes of a text, as diff -u does; "" when nothing does. It compares every line with every
// other, which for a configuration of a thousand lines is a million comparisons.
func unifiedDiff(name, before, after string) string {
	a, b := splitLines(before), splitLines(after)
	// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	type line struct {
		mark byte
		text string
		i, j int // lines of a and b before it
	}
	var all []line
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			all = append(all, line{' ', a[i], i, j})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			all = append(all, line{'-', a[i], i, j})
			i++
		default:
			all = append(all, line{'+', b[j], i, j})
			j++
		}
	}
	const context = 3
	var out strings.Builder
	for at := 0; at < len(all); {
		if all[at].mark == ' ' {
			at++
			continue
		}
		// A hunk ends when more than twice the context is unchanged.
		first, last := max(0, at-context), at
		for n := at; n < len(all) && n-last <= 2*context; n++ {
			if all[n].mark != ' ' {
				last = n
			}
		}
		end := min(len(all), last+1+context)
		olds, news := 0, 0
		for _, l := range all[first:end] {
			if l.mark != '+' {
				olds++
			}
			if l.mark != '-' {
				news++
			}
		}
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", name, name)
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n", hunk(all[first].i, olds), hunk(all[first].j, news))
		for _, l := range all[first:end] {
			fmt.Fprintf(&out, "%c%s", l.mark, l.text)
			if !strings.HasSuffix(l.text, "\n") {
				out.WriteString("\n\\ No newline at end of file\n")
			}
		}
		at = end
	}
	return out.String()
}

// hunk is a range of lines as diff -u writes it: of none it names the line before.
func hunk(before, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", before)
	case 1:
		return fmt.Sprint(before + 1)
	}
	return fmt.Sprintf("%d,%d", before+1, n)
}

// splitLines keeps the ends of lines.
func splitLines(s string) []string {
	var lines []string
	for l := range strings.Lines(s) {
		lines = append(lines, l)
	}
	return lines
}

package routes

import "strings"

// Nearest returns the candidate that the word resembles most, or "" when none
// is near: at most a third of the letters may differ (two in a short word),
// where swapped neighbours count as one difference.
func Nearest(word string, candidates []string) string {
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	best, bestDistance := "", max(2, len([]rune(word))/3)+1
	for _, c := range candidates {
		d := distance(word, strings.ToLower(strings.ReplaceAll(c, "-", "_")))
		// Two letters of three differ: no resemblance.
		if d < bestDistance && d < len([]rune(c)) && d < len([]rune(word)) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the optimal string alignment distance: insertions, deletions,
// substitutions and swaps of neighbours.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, above, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(y)]
}

package site

import "tarima/proxy/routes"

// Nearest returns the candidate that the word resembles most, or "" when none
// is near; see [routes.Nearest].
func Nearest(word string, candidates []string) string { return routes.Nearest(word, candidates) }

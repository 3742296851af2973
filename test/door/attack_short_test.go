//go:build e2e && !full

package door

// seconds that something lasts: here and in the full run.
func seconds(short, _ int) int { return short }

//go:build e2e && full

package door

// seconds that something lasts: in the short run and here.
func seconds(_, full int) int { return full }

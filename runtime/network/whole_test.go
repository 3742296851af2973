package network

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	interrupted := fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		answers []error // the last one again and again
		asked   int
		err     error
	}{
		"at once":             {[]error{nil}, 1, nil},
		"after two changes":   {[]error{interrupted, interrupted, nil}, 3, nil},
		"never":               {[]error{interrupted}, wholeTries, netlink.ErrDumpInterrupted},
		"another error":       {[]error{broken}, 1, broken},
		"a change, an error":  {[]error{interrupted, broken}, 2, broken},
		"changes to the last": {append(slices.Repeat([]error{interrupted}, wholeTries-1), nil), wholeTries, nil},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			list, err := whole(func() ([]int, error) {
				answer := c.answers[min(asked, len(c.answers)-1)]
				asked++
				return []int{asked}, answer
			})
			if asked != c.asked || !errors.Is(err, c.err) {
				t.Errorf("asked %d times, error %v; want %d and %v", asked, err, c.asked, c.err)
			}
			if !slices.Equal(list, []int{asked}) {
				t.Errorf("list %v is not that of the last answer", list)
			}
		})
	}
}

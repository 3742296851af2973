package proxy

import "strings"

// pathIndex finds the few rules that a path could match by its first element,
// so that a long list of rules costs a request nothing.
type pathIndex struct {
	first map[string][]int // rules that begin with this element, and those of rest, in their order
	rest  []int            // rules for any first element
}

// newPathIndex of the elements of each rule; nil is every path.
func newPathIndex(rules [][]string) pathIndex {
	i := pathIndex{first: map[string][]int{}}
	literal := func(elements []string) bool { return len(elements) > 0 && elements[0] != "*" }
	for _, elements := range rules {
		if literal(elements) {
			i.first[elements[0]] = nil
		}
	}
	for n, elements := range rules {
		if literal(elements) {
			i.first[elements[0]] = append(i.first[elements[0]], n)
			continue
		}
		i.rest = append(i.rest, n)
		for first, list := range i.first {
			i.first[first] = append(list, n)
		}
	}
	return i
}

// candidates are the rules to try, in their order.
func (i *pathIndex) candidates(path string) []int {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if list, ok := i.first[first]; ok {
		return list
	}
	return i.rest
}

// pathElements of a rule's path; nil for "", which is every path.
func pathElements(path string) []string {
	if path == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(path[1:], "/"), "/")
}

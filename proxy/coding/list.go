package coding

import "strings"

// Lists says whether the values of a header that is a comma-separated list
// (RFC 9110 section 5.6.1) have an element, whatever its case.
func Lists(values []string, element string) bool {
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(item), element) {
				return true
			}
		}
	}
	return false
}

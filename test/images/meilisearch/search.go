package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// query is a search request.
type query struct {
	IndexUID             string   `json:"indexUid"`
	Q                    string   `json:"q"`
	Offset               int      `json:"offset"`
	Limit                *int     `json:"limit"`
	Page                 *int     `json:"page"`
	HitsPerPage          *int     `json:"hitsPerPage"`
	Filter               any      `json:"filter"`
	Facets               []string `json:"facets"`
	Sort                 []string `json:"sort"`
	AttributesToRetrieve []string `json:"attributesToRetrieve"`
	AttributesToSearchOn []string `json:"attributesToSearchOn"`
}

func (s *service) search(r *http.Request) (int, any, *apiError) {
	q := query{}
	if r.Method == http.MethodGet {
		q.Q = r.URL.Query().Get("q")
		offset, limit := page(r, 20)
		q.Offset, q.Limit = offset, &limit
		if f := r.URL.Query().Get("filter"); f != "" {
			q.Filter = f
		}
	} else if err := readBody(r, &q); err != nil {
		return 0, nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	answer, err := i.search(q)
	return http.StatusOK, answer, err
}

func (s *service) multiSearch(r *http.Request) (int, any, *apiError) {
	var body struct{ Queries []query }
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	results := []any{}
	for _, q := range body.Queries {
		// The route could not check the indexes: they stand in the body.
		if err := s.allow(r, "search", q.IndexUID); err != nil {
			return 0, nil, err
		}
		s.mu.RLock()
		i, err := s.find(q.IndexUID)
		var answer map[string]any
		if err == nil {
			answer, err = i.search(q)
		}
		s.mu.RUnlock()
		if err != nil {
			return 0, nil, err
		}
		answer["indexUid"] = q.IndexUID
		results = append(results, answer)
	}
	return http.StatusOK, map[string]any{"results": results}, nil
}

func badFilter(err error) *apiError {
	return problem(http.StatusBadRequest, "invalid_request", "invalid_search_filter", err.Error())
}

// search answers a query; the service's lock is held.
func (i *index) search(q query) (map[string]any, *apiError) {
	wanted, err := parseFilter(q.Filter)
	if err != nil {
		return nil, badFilter(err)
	}
	words := tokens(q.Q)
	attributes := q.AttributesToSearchOn
	if len(attributes) == 0 {
		for _, a := range list(i.Settings["searchableAttributes"]) {
			attributes = append(attributes, fmt.Sprint(a))
		}
	}
	type hit struct {
		id    string
		score int
		d     document
	}
	var hits []hit
	for id, d := range i.Documents {
		if !wanted(d) {
			continue
		}
		if score, ok := match(d, words, attributes); ok {
			hits = append(hits, hit{id, score, d})
		}
	}
	sort.Slice(hits, func(a, b int) bool {
		for _, rule := range q.Sort {
			name, direction, _ := strings.Cut(rule, ":")
			if c := compare(attribute(hits[a].d, name), attribute(hits[b].d, name)); c != 0 {
				return (c < 0) != (direction == "desc")
			}
		}
		if hits[a].score != hits[b].score {
			return hits[a].score > hits[b].score
		}
		return hits[a].id < hits[b].id
	})

	answer := map[string]any{"processingTimeMs": 0, "query": q.Q}
	offset, limit := max(q.Offset, 0), 20
	if q.Limit != nil {
		limit = max(*q.Limit, 0)
	}
	if q.Page != nil || q.HitsPerPage != nil {
		per, number := 20, 1
		if q.HitsPerPage != nil {
			per = max(*q.HitsPerPage, 0)
		}
		if q.Page != nil {
			number = max(*q.Page, 1)
		}
		offset, limit = per*(number-1), per
		pages := 0
		if per > 0 {
			pages = (len(hits) + per - 1) / per
		}
		answer["page"], answer["hitsPerPage"], answer["totalHits"], answer["totalPages"] = number, per, len(hits), pages
	} else {
		answer["offset"], answer["limit"], answer["estimatedTotalHits"] = offset, limit, len(hits)
	}
	if len(q.Facets) > 0 {
		facets := map[string]map[string]int{}
		for _, name := range q.Facets {
			facets[name] = map[string]int{}
			for _, h := range hits {
				for _, v := range list(attribute(h.d, name)) {
					facets[name][fmt.Sprint(v)]++
				}
			}
		}
		answer["facetDistribution"] = facets
	}
	shown := []document{}
	for _, h := range cut(hits, offset, limit) {
		shown = append(shown, retrieve(h.d, q.AttributesToRetrieve))
	}
	answer["hits"] = shown
	return answer, nil
}

func retrieve(d document, names []string) document {
	if len(names) == 0 || slices.Contains(names, "*") {
		return d
	}
	part := document{}
	for _, n := range names {
		if v, ok := d[n]; ok {
			part[n] = v
		}
	}
	return part
}

// tokens splits a text into its words, without accents or capitals.
func tokens(text string) []string {
	var plain strings.Builder
	for _, r := range norm.NFD.String(text) {
		if !unicode.Is(unicode.Mn, r) {
			plain.WriteRune(unicode.ToLower(r))
		}
	}
	return strings.FieldsFunc(plain.String(), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })
}

// match says whether every word begins some word of the searched attributes,
// and how often they are whole words.
func match(d document, words, attributes []string) (int, bool) {
	if len(words) == 0 {
		return 0, true
	}
	var found []string
	for _, name := range attributes {
		if name == "*" {
			for _, n := range slices.Sorted(maps.Keys(d)) {
				found = append(found, textOf(d[n])...)
			}
			break
		}
		found = append(found, textOf(attribute(d, name))...)
	}
	score := 0
	for _, w := range words {
		ok := false
		for _, f := range found {
			if f == w {
				score++
			}
			ok = ok || strings.HasPrefix(f, w)
		}
		if !ok {
			return 0, false
		}
	}
	return score, true
}

func textOf(value any) []string {
	switch v := value.(type) {
	case string:
		return tokens(v)
	case float64:
		return []string{strconv.FormatFloat(v, 'f', -1, 64)}
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, textOf(e)...)
		}
		return all
	case map[string]any:
		var all []string
		for _, n := range slices.Sorted(maps.Keys(v)) {
			all = append(all, textOf(v[n])...)
		}
		return all
	}
	return nil
}

// attribute returns the value at a path of names joined by dots.
func attribute(d document, path string) any {
	if v, ok := d[path]; ok {
		return v
	}
	name, rest, ok := strings.Cut(path, ".")
	if !ok {
		return nil
	}
	switch inner := d[name].(type) {
	case map[string]any:
		return attribute(inner, rest)
	case []any:
		var all []any
		for _, e := range inner {
			if m, ok := e.(map[string]any); ok {
				all = append(all, list(attribute(m, rest))...)
			}
		}
		return all
	}
	return nil
}

// list makes a list of whatever stands in a document.
func list(value any) []any {
	switch v := value.(type) {
	case nil:
		return nil
	case []any:
		return v
	}
	return []any{value}
}

// compare orders numbers as numbers and the rest as text.
func compare(a, b any) int {
	x, okX := number(a)
	y, okY := number(b)
	if okX && okY {
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	return strings.Compare(strings.ToLower(fmt.Sprint(a)), strings.ToLower(fmt.Sprint(b)))
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case json.Number:
		f, err := n.Float64()
		return f, err == nil
	case string:
		f, err := strconv.ParseFloat(n, 64)
		return f, err == nil
	}
	return 0, false
}

// condition says whether a document passes a filter.
type condition func(document) bool

// parseFilter reads a filter: an expression, or a list of such of which all
// must hold, in which an inner list asks for one of its members.
func parseFilter(filter any) (condition, error) {
	switch f := filter.(type) {
	case nil:
		return func(document) bool { return true }, nil
	case string:
		if strings.TrimSpace(f) == "" {
			return func(document) bool { return true }, nil
		}
		return parseExpression(f)
	case []any:
		all := []condition{}
		for _, member := range f {
			inner, ok := member.([]any)
			if !ok {
				c, err := parseFilter(member)
				if err != nil {
					return nil, err
				}
				all = append(all, c)
				continue
			}
			some := []condition{}
			for _, m := range inner {
				c, err := parseFilter(m)
				if err != nil {
					return nil, err
				}
				some = append(some, c)
			}
			all = append(all, func(d document) bool {
				return slices.ContainsFunc(some, func(c condition) bool { return c(d) })
			})
		}
		return func(d document) bool {
			return !slices.ContainsFunc(all, func(c condition) bool { return !c(d) })
		}, nil
	}
	return nil, errors.New("invalid syntax for the filter parameter: expected a string or an array")
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

func (s *service) listDocuments(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	all := []document{}
	for _, id := range slices.Sorted(maps.Keys(i.Documents)) {
		all = append(all, i.Documents[id])
	}
	offset, limit := page(r, 20)
	return http.StatusOK, map[string]any{"results": cut(all, offset, limit), "offset": offset, "limit": limit, "total": len(all)}, nil
}

func (s *service) getDocument(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	d, ok := i.Documents[r.PathValue("id")]
	if !ok {
		return 0, nil, problem(http.StatusNotFound, "invalid_request", "document_not_found", fmt.Sprintf("Document `%s` not found.", r.PathValue("id")))
	}
	return http.StatusOK, d, nil
}

// addDocuments puts documents in place of (POST) or over (PUT) those with the
// same primary key.
func (s *service) addDocuments(r *http.Request) (int, any, *apiError) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, problem(http.StatusBadRequest, "invalid_request", "malformed_payload", err.Error())
	}
	var documents []document
	if json.Unmarshal(raw, &documents) != nil {
		one := document{}
		if err := json.Unmarshal(raw, &one); err != nil {
			return 0, nil, problem(http.StatusBadRequest, "invalid_request", "malformed_payload", "The json payload provided is malformed: "+err.Error())
		}
		documents = []document{one}
	}
	uid := r.PathValue("uid")
	if !safeUID.MatchString(uid) {
		return 0, nil, problem(http.StatusBadRequest, "invalid_request", "invalid_index_uid", fmt.Sprintf("`%s` is not a valid index uid.", uid))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.indexes[uid]; !ok {
		if err := s.newIndex(uid, r.URL.Query().Get("primaryKey")); err != nil {
			return 0, nil, internal(err)
		}
	}
	i := s.indexes[uid]
	if i.PrimaryKey == "" {
		i.PrimaryKey = r.URL.Query().Get("primaryKey")
	}
	if i.PrimaryKey == "" && len(documents) > 0 {
		i.PrimaryKey = guessPrimaryKey(documents[0])
	}
	details := map[string]any{"receivedDocuments": len(documents), "indexedDocuments": len(documents)}
	fresh := map[string]document{}
	for _, d := range documents {
		id := fmt.Sprint(d[i.PrimaryKey])
		if d[i.PrimaryKey] == nil || !safeUID.MatchString(id) {
			details["indexedDocuments"] = 0
			return enqueued(s.finish("documentAdditionOrUpdate", &uid, details, problem(http.StatusBadRequest, "invalid_request",
				"invalid_document_id", fmt.Sprintf("Document identifier `%s` of `%s` is invalid.", id, i.PrimaryKey))))
		}
		if r.Method == http.MethodPut {
			merged := document{}
			maps.Copy(merged, i.Documents[id])
			maps.Copy(merged, fresh[id])
			maps.Copy(merged, d)
			d = merged
		}
		fresh[id] = d
	}
	maps.Copy(i.Documents, fresh)
	if err := s.saveIndex(i); err != nil {
		return 0, nil, internal(err)
	}
	return enqueued(s.finish("documentAdditionOrUpdate", &uid, details, nil))
}

// guessPrimaryKey takes the one attribute whose name ends in id.
func guessPrimaryKey(d document) string {
	for _, name := range slices.Sorted(maps.Keys(d)) {
		if strings.HasSuffix(strings.ToLower(name), "id") {
			return name
		}
	}
	return ""
}

// deleteDocuments removes one (by its path), some (by a list of ids or a
// filter), or all.
func (s *service) deleteDocuments(r *http.Request) (int, any, *apiError) {
	keep := func(string, document) bool { return false }
	switch {
	case r.PathValue("id") != "":
		keep = func(id string, _ document) bool { return id != r.PathValue("id") }
	case strings.HasSuffix(r.URL.Path, "/delete-batch"):
		var ids []any
		if err := readBody(r, &ids); err != nil {
			return 0, nil, err
		}
		unwanted := map[string]bool{}
		for _, id := range ids {
			unwanted[fmt.Sprint(id)] = true
		}
		keep = func(id string, _ document) bool { return !unwanted[id] }
	case strings.HasSuffix(r.URL.Path, "/delete"):
		var body struct{ Filter any }
		if err := readBody(r, &body); err != nil {
			return 0, nil, err
		}
		wanted, err := parseFilter(body.Filter)
		if err != nil {
			return 0, nil, badFilter(err)
		}
		keep = func(_ string, d document) bool { return !wanted(d) }
	}
	uid := r.PathValue("uid")
	s.mu.Lock()
	defer s.mu.Unlock()
	i, missing := s.find(uid)
	if missing != nil {
		return enqueued(s.finish("documentDeletion", &uid, nil, missing))
	}
	before := len(i.Documents)
	maps.DeleteFunc(i.Documents, func(id string, d document) bool { return !keep(id, d) })
	if err := s.saveIndex(i); err != nil {
		return 0, nil, internal(err)
	}
	return enqueued(s.finish("documentDeletion", &uid, map[string]any{"deletedDocuments": before - len(i.Documents)}, nil))
}

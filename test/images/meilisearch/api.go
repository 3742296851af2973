package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// apiError is an error in the form that Meilisearch's clients expect.
type apiError struct {
	Message string `json:"message"`
	Code    string `json:"code"`
	Type    string `json:"type"`
	Link    string `json:"link"`
	status  int
}

func problem(status int, kind, code, message string) *apiError {
	return &apiError{Message: message, Code: code, Type: kind, Link: "https://docs.meilisearch.com/errors#" + code, status: status}
}

func internal(err error) *apiError {
	return problem(http.StatusInternalServerError, "internal", "internal", err.Error())
}

func readBody(r *http.Request, into any) *apiError {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		return problem(http.StatusBadRequest, "invalid_request", "malformed_payload", "The json payload provided is malformed: "+err.Error())
	}
	return nil
}

// call answers one kind of request: a status, a body, or a problem.
type call func(*http.Request) (int, any, *apiError)

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	// Browsers ask this service directly.
	withCORS := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions {
			w.Header().Set("Access-Control-Allow-Headers", "*")
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		mux.ServeHTTP(w, r)
	})
	route := func(pattern, action string, c call) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			err := s.allow(r, action, r.PathValue("uid"))
			var status int
			var body any
			if err == nil {
				status, body, err = c(r)
			}
			if err != nil {
				status, body = err.status, err
			}
			if body == nil {
				w.WriteHeader(status)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body) // the client is gone: nobody to tell
		})
	}
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"available"}`)) // as above
	})
	route("GET /version", "version", func(*http.Request) (int, any, *apiError) {
		return http.StatusOK, map[string]string{"pkgVersion": version, "commitSha": "unknown", "commitDate": "unknown"}, nil
	})
	route("GET /keys", "keys.get", s.listKeys)
	route("POST /keys", "keys.create", s.createKey)
	route("GET /keys/{key}", "keys.get", s.getKey)
	route("DELETE /keys/{key}", "keys.delete", s.deleteKey)
	route("GET /tasks", "tasks.get", s.listTasks)
	route("GET /tasks/{task}", "tasks.get", s.getTask)
	route("GET /stats", "stats.get", s.stats)
	route("GET /indexes", "indexes.get", s.listIndexes)
	route("POST /indexes", "indexes.create", s.createIndex)
	route("POST /swap-indexes", "indexes.swap", s.swapIndexes)
	route("GET /indexes/{uid}", "indexes.get", s.getIndex)
	route("DELETE /indexes/{uid}", "indexes.delete", s.deleteIndex)
	route("GET /indexes/{uid}/stats", "stats.get", s.indexStats)
	route("GET /indexes/{uid}/settings", "settings.get", s.getSettings)
	route("PATCH /indexes/{uid}/settings", "settings.update", s.updateSettings)
	route("GET /indexes/{uid}/settings/{name}", "settings.get", s.getSetting)
	route("PUT /indexes/{uid}/settings/{name}", "settings.update", s.updateSetting)
	route("PATCH /indexes/{uid}/settings/{name}", "settings.update", s.updateSetting)
	route("GET /indexes/{uid}/documents", "documents.get", s.listDocuments)
	route("POST /indexes/{uid}/documents", "documents.add", s.addDocuments)
	route("PUT /indexes/{uid}/documents", "documents.add", s.addDocuments)
	route("DELETE /indexes/{uid}/documents", "documents.delete", s.deleteDocuments)
	route("POST /indexes/{uid}/documents/delete", "documents.delete", s.deleteDocuments)
	route("POST /indexes/{uid}/documents/delete-batch", "documents.delete", s.deleteDocuments)
	route("GET /indexes/{uid}/documents/{id}", "documents.get", s.getDocument)
	route("DELETE /indexes/{uid}/documents/{id}", "documents.delete", s.deleteDocuments)
	route("POST /indexes/{uid}/search", "search", s.search)
	route("GET /indexes/{uid}/search", "search", s.search)
	route("POST /multi-search", "search", s.multiSearch)
	return withCORS
}

// enqueued is the answer to a change.
func enqueued(t *task, err error) (int, any, *apiError) {
	if err != nil {
		return 0, nil, internal(err)
	}
	return http.StatusAccepted, map[string]any{
		"taskUid": t.UID, "indexUid": t.IndexUID, "status": "enqueued", "type": t.Type, "enqueuedAt": t.Enqueued,
	}, nil
}

func page(r *http.Request, standard int) (offset, limit int) {
	number := func(name string, otherwise int) int {
		n, err := strconv.Atoi(r.URL.Query().Get(name))
		if err != nil || n < 0 {
			return otherwise
		}
		return n
	}
	return number("offset", 0), number("limit", standard)
}

// cut returns the part of list that a page shows.
func cut[T any](list []T, offset, limit int) []T {
	offset = min(offset, len(list))
	return list[offset:min(offset+limit, len(list))]
}

func (s *service) listTasks(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, limit := page(r, 20)
	newest := slices.Clone(s.tasks)
	slices.Reverse(newest)
	return http.StatusOK, map[string]any{"results": cut(newest, 0, limit), "total": len(newest), "limit": limit, "from": s.next - 1, "next": nil}, nil
}

func (s *service) getTask(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.tasks {
		if strconv.Itoa(t.UID) == r.PathValue("task") {
			return http.StatusOK, t, nil
		}
	}
	return 0, nil, problem(http.StatusNotFound, "invalid_request", "task_not_found", fmt.Sprintf("Task `%s` not found.", r.PathValue("task")))
}

// find returns an index; the lock is held.
func (s *service) find(uid string) (*index, *apiError) {
	i, ok := s.indexes[uid]
	if !ok {
		return nil, problem(http.StatusNotFound, "invalid_request", "index_not_found", fmt.Sprintf("Index `%s` not found.", uid))
	}
	return i, nil
}

func (i *index) answer() map[string]any {
	var primary any
	if i.PrimaryKey != "" {
		primary = i.PrimaryKey
	}
	return map[string]any{"uid": i.UID, "primaryKey": primary, "createdAt": i.Created, "updatedAt": i.Updated}
}

func (s *service) listIndexes(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := []map[string]any{}
	for _, uid := range slices.Sorted(maps.Keys(s.indexes)) {
		all = append(all, s.indexes[uid].answer())
	}
	offset, limit := page(r, 20)
	return http.StatusOK, map[string]any{"results": cut(all, offset, limit), "offset": offset, "limit": limit, "total": len(all)}, nil
}

func (s *service) createIndex(r *http.Request) (int, any, *apiError) {
	var body struct {
		UID        string
		PrimaryKey string
	}
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	if !safeUID.MatchString(body.UID) {
		return 0, nil, problem(http.StatusBadRequest, "invalid_request", "invalid_index_uid", fmt.Sprintf("`%s` is not a valid index uid.", body.UID))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	details := map[string]any{"primaryKey": body.PrimaryKey}
	if _, ok := s.indexes[body.UID]; ok {
		return enqueued(s.finish("indexCreation", &body.UID, details,
			problem(http.StatusConflict, "invalid_request", "index_already_exists", fmt.Sprintf("Index `%s` already exists.", body.UID))))
	}
	if err := s.newIndex(body.UID, body.PrimaryKey); err != nil {
		return 0, nil, internal(err)
	}
	return enqueued(s.finish("indexCreation", &body.UID, details, nil))
}

func (s *service) newIndex(uid, primary string) error {
	i := &index{UID: uid, PrimaryKey: primary, Created: time.Now().UTC(), Settings: defaultSettings(), Documents: map[string]document{}}
	if err := s.saveIndex(i); err != nil {
		return err
	}
	s.indexes[uid] = i
	return nil
}

func (s *service) getIndex(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, i.answer(), nil
}

func (s *service) deleteIndex(r *http.Request) (int, any, *apiError) {
	uid := r.PathValue("uid")
	s.mu.Lock()
	defer s.mu.Unlock()
	i, missing := s.find(uid)
	if missing != nil {
		return enqueued(s.finish("indexDeletion", &uid, nil, missing))
	}
	if err := os.Remove(s.indexPath(i.UID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, internal(err)
	}
	if err := syncFolder(filepath.Join(s.dir, "indexes")); err != nil {
		return 0, nil, internal(err)
	}
	delete(s.indexes, uid)
	return enqueued(s.finish("indexDeletion", &uid, map[string]any{"deletedDocuments": len(i.Documents)}, nil))
}

func (s *service) swapIndexes(r *http.Request) (int, any, *apiError) {
	var body []struct{ Indexes []string }
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, swap := range body {
		if len(swap.Indexes) != 2 {
			return 0, nil, problem(http.StatusBadRequest, "invalid_request", "invalid_swap_indexes", "Two indexes must be given for each swap.")
		}
		a, err := s.find(swap.Indexes[0])
		if err != nil {
			return enqueued(s.finish("indexSwap", nil, nil, err))
		}
		b, err := s.find(swap.Indexes[1])
		if err != nil {
			return enqueued(s.finish("indexSwap", nil, nil, err))
		}
		a.UID, b.UID = b.UID, a.UID
		s.indexes[a.UID], s.indexes[b.UID] = a, b
		if err := errors.Join(s.saveIndex(a), s.saveIndex(b)); err != nil {
			return 0, nil, internal(err)
		}
	}
	return enqueued(s.finish("indexSwap", nil, nil, nil))
}

func (s *service) stats(*http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	each := map[string]any{}
	for uid, i := range s.indexes {
		each[uid] = map[string]any{"numberOfDocuments": len(i.Documents), "isIndexing": false}
	}
	return http.StatusOK, map[string]any{"databaseSize": 0, "lastUpdate": nil, "indexes": each}, nil
}

func (s *service) indexStats(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"numberOfDocuments": len(i.Documents), "isIndexing": false, "fieldDistribution": map[string]int{}}, nil
}

func defaultSettings() map[string]any {
	return map[string]any{
		"displayedAttributes": []any{"*"}, "searchableAttributes": []any{"*"},
		"filterableAttributes": []any{}, "sortableAttributes": []any{},
		"rankingRules": []any{"words", "typo", "proximity", "attribute", "sort", "exactness"},
		"stopWords":    []any{}, "synonyms": map[string]any{}, "distinctAttribute": nil,
		"typoTolerance": map[string]any{"enabled": true}, "faceting": map[string]any{"maxValuesPerFacet": 100},
		"pagination": map[string]any{"maxTotalHits": 1000},
	}
}

func (s *service) getSettings(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, maps.Clone(i.Settings), nil
}

// settingName turns filterable-attributes into filterableAttributes.
func settingName(path string) string {
	words := strings.Split(path, "-")
	for i, w := range words[1:] {
		if w != "" {
			words[i+1] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, "")
}

func (s *service) getSetting(r *http.Request) (int, any, *apiError) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.find(r.PathValue("uid"))
	if err != nil {
		return 0, nil, err
	}
	value := i.Settings[settingName(r.PathValue("name"))]
	if value == nil {
		value = json.RawMessage("null")
	}
	return http.StatusOK, value, nil
}

func (s *service) updateSettings(r *http.Request) (int, any, *apiError) {
	body := map[string]any{}
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	return s.changeSettings(r.PathValue("uid"), body)
}

func (s *service) updateSetting(r *http.Request) (int, any, *apiError) {
	var body any
	if err := readBody(r, &body); err != nil {
		return 0, nil, err
	}
	return s.changeSettings(r.PathValue("uid"), map[string]any{settingName(r.PathValue("name")): body})
}

func (s *service) changeSettings(uid string, change map[string]any) (int, any, *apiError) {
	standard := defaultSettings()
	for name := range change {
		if _, ok := standard[name]; !ok {
			return 0, nil, problem(http.StatusBadRequest, "invalid_request", "bad_request", fmt.Sprintf("Unknown field `%s`", name))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, missing := s.find(uid)
	if missing != nil {
		if !safeUID.MatchString(uid) {
			return 0, nil, missing
		}
		if err := s.newIndex(uid, ""); err != nil {
			return 0, nil, internal(err)
		}
		i = s.indexes[uid]
	}
	for name, value := range change {
		if value == nil {
			value = standard[name]
		}
		i.Settings[name] = value
	}
	if err := s.saveIndex(i); err != nil {
		return 0, nil, internal(err)
	}
	return enqueued(s.finish("settingsUpdate", &uid, change, nil))
}

package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const masterKey = "a master key of the tests"

// ask sends a request with a key and returns status and answer.
func ask(t *testing.T, s *service, key, method, path string, body any) (int, map[string]any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader(raw))
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, r)
	answer := map[string]any{}
	if w.Body.Len() > 0 && json.Unmarshal(w.Body.Bytes(), &answer) != nil {
		answer["value"] = w.Body.String()
	}
	return w.Code, answer
}

func start(t *testing.T, dir string) *service {
	t.Helper()
	s, err := open(dir, masterKey)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeys(t *testing.T) {
	s := start(t, t.TempDir())
	if code, _ := ask(t, s, "", "GET", "/health", nil); code != http.StatusOK {
		t.Errorf("health without a key: %d", code)
	}
	for _, c := range []struct {
		key  string
		code int
		name string
	}{
		{"", http.StatusUnauthorized, "missing_authorization_header"},
		{"wrong", http.StatusForbidden, "invalid_api_key"},
		{masterKey, http.StatusNotFound, "api_key_not_found"},
	} {
		code, answer := ask(t, s, c.key, "GET", "/keys/6062abda-a5aa-4414-ac91-ecd7944c0f8d", nil)
		if code != c.code || answer["code"] != c.name {
			t.Errorf("key %q: %d %v", c.key, code, answer)
		}
	}

	uid := "6062abda-a5aa-4414-ac91-ecd7944c0f8d"
	body := map[string]any{"uid": uid, "name": "backend", "actions": []string{"*"}, "indexes": []string{"tutor_*"}, "expiresAt": nil}
	code, answer := ask(t, s, masterKey, "POST", "/keys", body)
	mac := hmac.New(sha256.New, []byte(masterKey))
	mac.Write([]byte(uid))
	derived := hex.EncodeToString(mac.Sum(nil))
	if code != http.StatusCreated || answer["key"] != derived {
		t.Fatalf("create: %d %v, want the key %s", code, answer, derived)
	}
	if code, _ := ask(t, s, masterKey, "POST", "/keys", body); code != http.StatusConflict {
		t.Errorf("the same key again: %d", code)
	}
	for path, want := range map[string]int{"/indexes/tutor_courses/documents": http.StatusAccepted, "/indexes/other/documents": http.StatusForbidden} {
		if code, answer := ask(t, s, derived, "POST", path, []document{{"id": "1"}}); code != want {
			t.Errorf("%s with a key for tutor_*: %d %v", path, code, answer)
		}
	}
}

func TestTenantToken(t *testing.T) {
	s := start(t, t.TempDir())
	if code, answer := ask(t, s, masterKey, "POST", "/indexes/a/documents", []document{{"id": "1"}}); code != http.StatusAccepted {
		t.Fatal(code, answer)
	}
	searchKey := s.keys[0]
	token := func(uid, secret, rules string) string {
		encode := base64.RawURLEncoding.EncodeToString
		text := encode([]byte(`{"alg":"HS256"}`)) + "." + encode([]byte(`{"apiKeyUid":"`+uid+`","searchRules":`+rules+`}`))
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(text))
		return text + "." + encode(mac.Sum(nil))
	}
	for name, c := range map[string]struct {
		token string
		code  int
	}{
		"good":          {token(searchKey.UID, s.secret(searchKey.UID), `{"a":{}}`), http.StatusOK},
		"as a list":     {token(searchKey.UID, s.secret(searchKey.UID), `["*"]`), http.StatusOK},
		"another index": {token(searchKey.UID, s.secret(searchKey.UID), `{"b":{}}`), http.StatusForbidden},
		"forged":        {token(searchKey.UID, "guess", `["*"]`), http.StatusForbidden},
		"unknown key":   {token("nobody", s.secret("nobody"), `["*"]`), http.StatusForbidden},
		"broken":        {"a.b", http.StatusForbidden},
	} {
		if code, answer := ask(t, s, c.token, "POST", "/indexes/a/search", map[string]any{}); code != c.code {
			t.Errorf("%s: %d %v", name, code, answer)
		}
	}
}

func TestSearch(t *testing.T) {
	s := start(t, t.TempDir())
	documents := []document{
		{"id": "1", "title": "Tejidos de los Andes", "org": "TelarX", "year": 2026, "tags": []string{"arte", "lana"}},
		{"id": "2", "title": "Clean Water", "org": "OpenCampus", "year": 2024, "tags": []string{}},
		{"id": "3", "title": "Música y números", "org": "OpenCampus", "year": 2025, "draft": nil},
	}
	if code, answer := ask(t, s, masterKey, "POST", "/indexes/courses/documents?primaryKey=id", documents); code != http.StatusAccepted {
		t.Fatal(code, answer)
	}
	for _, c := range []struct {
		body map[string]any
		want string
	}{
		{map[string]any{}, "1,2,3"},
		{map[string]any{"q": "musica"}, "3"},
		{map[string]any{"q": "clean wat"}, "2"},
		{map[string]any{"q": "water andes"}, ""},
		{map[string]any{"filter": `org = "OpenCampus"`}, "2,3"},
		{map[string]any{"filter": `org = OpenCampus AND NOT year > 2024`}, "2"},
		{map[string]any{"filter": `(year >= 2025 OR tags IN ["lana", x]) AND org != OpenCampus`}, "1"},
		{map[string]any{"filter": []any{"org = OpenCampus", []any{"year = 2024", "year = 2025"}}}, "2,3"},
		{map[string]any{"filter": `year 2025 TO 2026`}, "1,3"},
		{map[string]any{"filter": `draft IS NULL`}, "3"},
		{map[string]any{"filter": `draft NOT EXISTS`}, "1,2"},
		{map[string]any{"filter": `tags IS EMPTY`}, "2"},
		{map[string]any{"sort": []string{"year:desc"}}, "1,3,2"},
		{map[string]any{"limit": 1, "offset": 1}, "2"},
		{map[string]any{"page": 2, "hitsPerPage": 2}, "3"},
	} {
		code, answer := ask(t, s, masterKey, "POST", "/indexes/courses/search", c.body)
		if code != http.StatusOK {
			t.Errorf("%v: %d %v", c.body, code, answer)
			continue
		}
		var ids []string
		for _, h := range answer["hits"].([]any) {
			ids = append(ids, h.(map[string]any)["id"].(string))
		}
		if got := strings.Join(ids, ","); got != c.want {
			t.Errorf("%v: %s, want %s", c.body, got, c.want)
		}
	}
	if code, _ := ask(t, s, masterKey, "POST", "/indexes/courses/search", map[string]any{"filter": "org ="}); code != http.StatusBadRequest {
		t.Errorf("a filter without a value: %d", code)
	}
	if code, _ := ask(t, s, masterKey, "POST", "/indexes/none/search", map[string]any{}); code != http.StatusNotFound {
		t.Errorf("an index that is not there: %d", code)
	}
}

func TestDataOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir)
	ask(t, s, masterKey, "POST", "/indexes", map[string]any{"uid": "courses", "primaryKey": "id"})
	ask(t, s, masterKey, "PUT", "/indexes/courses/settings/filterable-attributes", []string{"org"})
	ask(t, s, masterKey, "POST", "/indexes/courses/documents", []document{{"id": "1", "org": "X"}, {"id": "2"}})
	_, task := ask(t, s, masterKey, "DELETE", "/indexes/courses/documents/2", nil)

	s = start(t, dir)
	code, answer := ask(t, s, masterKey, "GET", "/indexes/courses/documents/1", nil)
	if code != http.StatusOK || answer["org"] != "X" {
		t.Errorf("document: %d %v", code, answer)
	}
	if code, _ := ask(t, s, masterKey, "GET", "/indexes/courses/documents/2", nil); code != http.StatusNotFound {
		t.Errorf("a deleted document: %d", code)
	}
	if _, answer := ask(t, s, masterKey, "GET", "/indexes/courses/settings", nil); len(answer["filterableAttributes"].([]any)) != 1 {
		t.Errorf("settings: %v", answer)
	}
	if s.next != int(task["taskUid"].(float64))+1 {
		t.Errorf("tasks are numbered from %d after task %v", s.next, task["taskUid"])
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(dir, masterKey); err == nil {
		t.Error("a damaged database opens")
	}
}

func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	text := "env = \"production\"\nmaster_key = \"0123456789abcdef\"\nhttp_addr = \"0.0.0.0:7700\"\nmax_indexing_threads = 1\nno_analytics = true\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("masterkey = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := func(string) string { return "" }
	for name, c := range map[string]struct {
		args  []string
		env   map[string]string
		want  settings
		fails bool
	}{
		"file":                {args: []string{"--config-file-path", file}, want: settings{masterKey: "0123456789abcdef", addr: "0.0.0.0:7700", env: "production"}},
		"variable over file":  {args: []string{"--config-file-path", file}, env: map[string]string{"MEILI_HTTP_ADDR": "a:1"}, want: settings{masterKey: "0123456789abcdef", addr: "a:1", env: "production"}},
		"flag over variable":  {args: []string{"--http-addr", "b:2"}, env: map[string]string{"MEILI_HTTP_ADDR": "a:1"}, want: settings{addr: "b:2", env: "development"}},
		"short key":           {env: map[string]string{"MEILI_ENV": "production", "MEILI_MASTER_KEY": "short"}, fails: true},
		"unknown environment": {env: map[string]string{"MEILI_ENV": "test"}, fails: true},
		"unknown flag":        {args: []string{"--nonsense"}, fails: true},
		"unknown key":         {args: []string{"--config-file-path", bad}, fails: true},
		"no such file":        {args: []string{"--config-file-path", file + "x"}, fails: true},
	} {
		getenv := none
		if c.env != nil {
			getenv = func(name string) string { return c.env[name] }
		}
		got, err := readSettings(c.args, getenv)
		if (err != nil) != c.fails {
			t.Errorf("%s: error %v", name, err)
		}
		if err == nil && (got.masterKey != c.want.masterKey || got.addr != c.want.addr || got.env != c.want.env) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{`a = 1`, `a IN [1, "x"] AND NOT (b EXISTS OR c IS NULL)`, `a 1 TO 2`, `"a b" != 'c\'d'`, `((((`, `NOT (NOT a = 1)`, `a IN [`} {
		f.Add(seed)
	}
	d := document{"a": 1.0, "b": "x", "c": nil}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseFilter(text)
		if (c == nil) == (err == nil) {
			// A filter without a condition must say why.
			t.Fatalf("%q: condition %v, error %v", text, c != nil, err)
		}
		if err == nil {
			c(d)
		}
	})
}

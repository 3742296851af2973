package openedx

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tarima/supervisor/site"
)

func TestScripts(t *testing.T) {
	out, err := exec.Command("python3", "-B", "testdata/test_scripts.py", "assets").CombinedOutput()
	if err != nil {
		t.Fatalf("python3 (is it installed?): %v\n%s", err, out)
	}
}

// searchServer has the two requests of Meilisearch that the key job makes.
type searchServer struct {
	mu     sync.Mutex
	master string
	keys   map[string]map[string]any
	made   int
}

func (s *searchServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+s.master {
		http.Error(w, `{"code":"invalid_api_key"}`, http.StatusForbidden)
		return
	}
	reply := func(status int, v any) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch {
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/keys/"):
		key, ok := s.keys[strings.TrimPrefix(r.URL.Path, "/keys/")]
		if !ok {
			reply(http.StatusNotFound, map[string]any{"code": "api_key_not_found"})
			return
		}
		reply(http.StatusOK, key)
	case r.Method == http.MethodPost && r.URL.Path == "/keys":
		var key map[string]any
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&key); err != nil {
			reply(http.StatusBadRequest, nil)
			return
		}
		uid, _ := key["uid"].(string)
		key["key"] = deriveMeilisearchKey(s.master, uid)
		s.keys[uid] = key
		s.made++
		reply(http.StatusCreated, key)
	default:
		reply(http.StatusNotFound, nil)
	}
}

// TestSearchKeyJob runs the script against a server that derives keys as
// Meilisearch does: once it makes the key, then it leaves it alone.
func TestSearchKeyJob(t *testing.T) {
	in := testInput(t, nil)
	plan := mustBuild(t, in)
	s, err := loadSecrets(in.Secrets)
	if err != nil {
		t.Fatal(err)
	}
	server := &searchServer{master: s.meiliMaster, keys: map[string]map[string]any{}}
	web := httptest.NewServer(server)
	defer web.Close()
	dir := t.TempDir()
	for _, name := range []string{"site_values.py", "meilisearch_key.py", "values.json"} {
		data := fileOf(t, plan, "jobs/openedx/"+name)
		data = []byte(strings.ReplaceAll(string(data), "http://meilisearch:7700", web.URL))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func() (string, error) {
		out, err := exec.Command("python3", "-B", filepath.Join(dir, "meilisearch_key.py")).CombinedOutput()
		return string(out), err
	}
	for range 2 {
		if out, err := run(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	key := server.keys[s.meiliUID]
	if server.made != 1 || key["key"] != s.meiliKey || fmt.Sprint(key["indexes"]) != "[tutor_*]" {
		t.Errorf("made %d keys, the last %v", server.made, key)
	}
	server.mu.Lock()
	server.master = "another master key"
	server.mu.Unlock()
	out, err := run()
	if err == nil {
		t.Error("a refused master key is no error")
	}
	if strings.Contains(out, s.meiliMaster) || strings.Contains(out, s.meiliKey) {
		t.Errorf("the script tells a key: %s", out)
	}
}

// TestRedisTakesItsFile starts the real server with both rendered files.
func TestRedisTakesItsFile(t *testing.T) {
	plan := mustBuild(t, testInput(t, func(c *site.Config) { c.Site.Release = "ulmo" }))
	for name, policy := range map[string]string{"redis": "volatile-ttl", "redis-cache": "allkeys-lru"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addr := l.Addr().(*net.TCPAddr)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			conf := strings.NewReplacer(
				"port 6379", fmt.Sprintf("port %d", addr.Port), "bind * -::*", "bind 127.0.0.1",
				"/openedx/redis/data", dir,
			).Replace(string(fileOf(t, plan, name+"/redis.conf")))
			file := filepath.Join(dir, "redis.conf")
			if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			cmd := exec.Command("redis-server", file)
			cmd.Stdout, cmd.Stderr = &log, &log
			if err := cmd.Start(); err != nil {
				t.Fatalf("start redis-server (is it installed?): %v", err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			defer func() {
				_ = cmd.Process.Signal(os.Interrupt)
				<-ended
			}()
			password := string(fileOf(t, plan, name+"/password"))
			ask := func(with string, command ...string) string {
				args := append([]string{"-h", "127.0.0.1", "-p", fmt.Sprint(addr.Port), "--no-auth-warning"}, command...)
				cli := exec.Command("redis-cli", args...)
				cli.Env = append(os.Environ(), "REDISCLI_AUTH="+with)
				out, _ := cli.CombinedOutput()
				return string(out)
			}
			deadline := time.After(20 * time.Second)
			for !strings.Contains(ask(password, "ping"), "PONG") {
				select {
				case err := <-ended:
					ended <- err
					t.Fatalf("redis-server ended: %v\n%s", err, log.String())
				case <-deadline:
					t.Fatalf("redis-server does not answer:\n%s", log.String())
				case <-time.After(20 * time.Millisecond):
				}
			}
			if out := ask("", "ping"); !strings.Contains(out, "NOAUTH") {
				t.Errorf("without a password: %s", out)
			}
			if out := ask(password, "config", "get", "maxmemory-policy"); !strings.Contains(out, policy) {
				t.Errorf("policy: %s", out)
			}
			if out := ask(password, "config", "get", "maxmemory"); !strings.Contains(out, fmt.Sprint(sizeOf(plan, name))) {
				t.Errorf("memory: %s", out)
			}
		})
	}
}

func sizeOf(p Plan, name string) int64 {
	if name == "redis" {
		return p.Sizes.RedisMemory
	}
	return p.Sizes.CacheMemory
}

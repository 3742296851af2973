package openedx

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v2"

	"tarima/supervisor/site"
)

// loaded is what testdata/load_settings.py prints.
type loaded struct {
	Settings map[string]any            `json:"settings"`
	Flags    map[string]map[string]any `json:"flags"`
	Made     []string                  `json:"made"`
	Jail     map[string]any            `json:"jail"`
	Signals  []string                  `json:"signals"`
}

// loadSettings runs the rendered Python settings with the real interpreter.
func loadSettings(t *testing.T, p Plan, variant, features string) loaded {
	t.Helper()
	dir := t.TempDir()
	for _, f := range p.Files {
		if rest, ok := strings.CutPrefix(f.Path, variant+"/settings/"); ok {
			if err := os.WriteFile(filepath.Join(dir, rest), f.Content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	env, err := json.Marshal(readYAML(t, fileOf(t, p, variant+"/config/"+variant+".env.yml")))
	if err != nil {
		t.Fatal(err)
	}
	envFile := filepath.Join(t.TempDir(), "env.json")
	if err := os.WriteFile(envFile, env, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("python3", "-B", "-W", "error", "testdata/load_settings.py", variant, dir, envFile, features)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3 (is it installed?): %v\n%s", err, stderr.String())
	}
	var l loaded
	if err := json.Unmarshal(out, &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// readYAML reads as the platform does: by the rules of YAML 1.1.
func readYAML(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var v any
	if err := yaml.UnmarshalStrict(data, &v); err != nil {
		t.Fatalf("not YAML: %v\n%s", err, data)
	}
	return stringKeys(v).(map[string]any)
}

func stringKeys(v any) any {
	switch v := v.(type) {
	case map[any]any:
		out := map[string]any{}
		for k, e := range v {
			out[k.(string)] = stringKeys(e)
		}
		return out
	case []any:
		for i := range v {
			v[i] = stringKeys(v[i])
		}
	}
	return v
}

// checkSettings compares the named settings, values given as JSON.
func checkSettings(t *testing.T, got map[string]any, want map[string]string) {
	t.Helper()
	for key, text := range want {
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if diff := cmp.Diff(value, got[key]); diff != "" {
			t.Errorf("%s (-want +got)\n%s", key, diff)
		}
	}
}

// sharedSettings are those that LMS and Studio have alike.
var sharedSettings = map[string]string{
	"DOC_STORE_CONFIG": `{"db":"openedx","host":"mongodb","port":27017,"user":null,"password":null,
		"connect":false,"ssl":false,"authsource":"admin","replicaSet":null}`,
	"MODULESTORE": `{"default":{"OPTIONS":{"stores":[{"NAME":"split",
		"OPTIONS":{"fs_root":"/openedx/data/modulestore"},
		"DOC_STORE_CONFIG":{"db":"openedx","host":"mongodb","port":27017,"user":null,"password":null,
			"connect":false,"ssl":false,"authsource":"admin","replicaSet":null}}]}}}`,
	"DATA_DIR":                        `"/openedx/data/modulestore"`,
	"DJANGO_REDIS_IGNORE_EXCEPTIONS":  `true`,
	"MEILISEARCH_ENABLED":             `true`,
	"MEILISEARCH_URL":                 `"http://meilisearch:7700"`,
	"MEILISEARCH_PUBLIC_URL":          `"https://meilisearch.learn.example.org"`,
	"MEILISEARCH_INDEX_PREFIX":        `"tutor_"`,
	"SEARCH_ENGINE":                   `"search.meilisearch.MeilisearchEngine"`,
	"SITE_ID":                         `2`,
	"CONTACT_MAILING_ADDRESS":         `"Escuela de Música - https://learn.example.org"`,
	"DEFAULT_FROM_EMAIL":              `"contact@learn.example.org"`,
	"SERVER_EMAIL":                    `"contact@learn.example.org"`,
	"BULK_EMAIL_DEFAULT_FROM_EMAIL":   `"contact@learn.example.org"`,
	"API_ACCESS_FROM_EMAIL":           `"contact@learn.example.org"`,
	"TECH_SUPPORT_EMAIL":              `"contact@learn.example.org"`,
	"PAYMENT_SUPPORT_EMAIL":           `"contact@learn.example.org"`,
	"INSTALLED_APPS":                  `["a","b"]`,
	"DATABASE_ROUTERS":                `["other"]`,
	"MEDIA_ROOT":                      `"/openedx/media/"`,
	"VIDEO_IMAGE_SETTINGS":            `{"STORAGE_KWARGS":{"location":"/openedx/media/"}}`,
	"VIDEO_TRANSCRIPTS_SETTINGS":      `{"STORAGE_KWARGS":{"location":"/openedx/media/"}}`,
	"GRADES_DOWNLOAD":                 `{"STORAGE_TYPE":"","STORAGE_KWARGS":{"base_url":"/media/grades/","location":"/openedx/media/grades"}}`,
	"ORA2_FILEUPLOAD_BACKEND":         `"filesystem"`,
	"ORA2_FILEUPLOAD_ROOT":            `"/openedx/data/ora2"`,
	"ORA2_FILEUPLOAD_CACHE_NAME":      `"ora2-storage"`,
	"FILE_UPLOAD_STORAGE_BUCKET_NAME": `"openedxuploads"`,
	"OPENEDX_LEARNING":                `{"MEDIA":{"BACKEND":"django.core.files.storage.FileSystemStorage","OPTIONS":{"location":"/openedx/media-private/openedx-learning"}}}`,
	"EMAIL_USE_SSL":                   `false`,
	"ACE_ENABLED_CHANNELS":            `["django_email"]`,
	"ACE_CHANNEL_DEFAULT_EMAIL":       `"django_email"`,
	"ACE_CHANNEL_TRANSACTIONAL_EMAIL": `"django_email"`,
	"EMAIL_FILE_PATH":                 `"/tmp/openedx/emails"`,
	"LANGUAGE_COOKIE_NAME":            `"openedx-language-preference"`,
	"X_FRAME_OPTIONS":                 `"SAMEORIGIN"`,
	"CORS_ALLOW_CREDENTIALS":          `true`,
	"CORS_ORIGIN_ALLOW_ALL":           `false`,
	"CORS_ALLOW_INSECURE":             `false`,
	"CODE_JAIL":                       `{"python_bin":"nonexistingpythonbinary","user":null,"limits":{"CPU":1}}`,
	"EVENT_BUS_PRODUCER":              `"edx_event_bus_redis.create_producer"`,
	"EVENT_BUS_CONSUMER":              `"edx_event_bus_redis.RedisEventConsumer"`,
	"EVENT_BUS_TOPIC_PREFIX":          `"dev"`,
	"SESSION_ENGINE":                  `"django.contrib.sessions.backends.cache"`,
	"SESSION_CACHE_ALIAS":             `"sessions"`,
	"CSRF_TRUSTED_ORIGINS":            `["https://apps.learn.example.org"]`,
	"SESSION_COOKIE_SECURE":           `true`,
	"CSRF_COOKIE_SECURE":              `true`,
}

func TestLMSSettings(t *testing.T) {
	plan := mustBuild(t, testInput(t, func(c *site.Config) { c.Site.Release = "ulmo" }))
	for _, features := range []string{"proxy", "dict"} {
		t.Run(features, func(t *testing.T) {
			l := loadSettings(t, plan, "lms", features)
			checkSettings(t, l.Settings, sharedSettings)
			checkSettings(t, l.Settings, map[string]string{
				"LOGIN_REDIRECT_WHITELIST":                    `["studio.learn.example.org","apps.learn.example.org"]`,
				"REGISTRATION_EXTRA_FIELDS":                   `{"country":"required","terms_of_service":"hidden","honor_code":"hidden"}`,
				"PROFILE_IMAGE_BACKEND":                       `{"class":"storage","options":{"base_url":"/media/profile-images/","location":"/openedx/media/profile-images/"}}`,
				"COURSE_CATALOG_VISIBILITY_PERMISSION":        `"see_in_catalog"`,
				"COURSE_ABOUT_VISIBILITY_PERMISSION":          `"see_about_page"`,
				"OAUTH_ENFORCE_SECURE":                        `false`,
				"DEFAULT_EMAIL_LOGO_URL":                      `"https://learn.example.org/theming/asset/images/logo.png"`,
				"BULK_EMAIL_SEND_USING_EDX_ACE":               `true`,
				"MOBILE_STORE_ACE_URLS":                       `{}`,
				"SOCIAL_MEDIA_FOOTER_ACE_URLS":                `{}`,
				"SEARCH_SKIP_SHOW_IN_CATALOG_FILTERING":       `false`,
				"SEARCH_SKIP_ENROLLMENT_START_DATE_FILTERING": `true`,
				"ALLOWED_HOSTS":                               `["learn.example.org","lms"]`,
				"CORS_ORIGIN_WHITELIST":                       `["https://learn.example.org","https://apps.learn.example.org"]`,
				"SESSION_COOKIE_SAMESITE":                     `"None"`,
				"SESSION_COOKIE_DOMAIN":                       `"learn.example.org"`,
				"IDA_LOGOUT_URI_LIST":                         `["https://studio.learn.example.org/logout/"]`,
				"ENABLE_MFE_CONFIG_API":                       `true`,
				"MFE_CONFIG_API_CACHE_TIMEOUT":                `1`,
				"LEARNER_HOME_MFE_REDIRECT_PERCENTAGE":        `100`,
				"AUTHN_MICROFRONTEND_URL":                     `"https://apps.learn.example.org/authn"`,
				"AUTHN_MICROFRONTEND_DOMAIN":                  `"apps.learn.example.org/authn"`,
				"ACCOUNT_MICROFRONTEND_URL":                   `"https://apps.learn.example.org/account/"`,
				"COURSE_AUTHORING_MICROFRONTEND_URL":          `"https://apps.learn.example.org/authoring"`,
				"DISCUSSIONS_MICROFRONTEND_URL":               `"https://apps.learn.example.org/discussions"`,
				"DISCUSSIONS_MFE_FEEDBACK_URL":                `null`,
				"WRITABLE_GRADEBOOK_URL":                      `"https://apps.learn.example.org/gradebook"`,
				"LEARNER_HOME_MICROFRONTEND_URL":              `"https://apps.learn.example.org/learner-dashboard/"`,
				"LEARNING_MICROFRONTEND_URL":                  `"https://apps.learn.example.org/learning"`,
				"ORA_GRADING_MICROFRONTEND_URL":               `"https://apps.learn.example.org/ora-grading"`,
				"PROFILE_MICROFRONTEND_URL":                   `"https://apps.learn.example.org/profile/u/"`,
				"COMMUNICATIONS_MICROFRONTEND_URL":            `"https://apps.learn.example.org/communications"`,
				"ADMIN_CONSOLE_MICROFRONTEND_URL":             `"https://apps.learn.example.org/admin-console"`,
				"TEMPLATES":                                   `[{"DIRS":["/openedx/themes/indigo/lms/templates","/platform/templates"]}]`,
				"CELERY_IMPORTS":                              `["platform.tasks","lms.envs.tutor.scheduled"]`,
			})
			config := l.Settings["MFE_CONFIG"].(map[string]any)
			for key, want := range map[string]any{
				"BASE_URL": "apps.learn.example.org", "SITE_NAME": "Escuela de Música",
				"LOGO_URL": "https://learn.example.org/theming/asset/images/logo.png", "MEILISEARCH_ENABLED": "true",
				"STUDIO_BASE_URL": "https://studio.learn.example.org", "DISABLE_ENTERPRISE_LOGIN": true,
				"LANGUAGE_PREFERENCE_COOKIE_NAME": "openedx-language-preference",
			} {
				if config[key] != want {
					t.Errorf("MFE_CONFIG %s: %v, want %v", key, config[key], want)
				}
			}
			for _, kind := range []string{"flat", "dict"} {
				want := map[string]any{
					"ENABLE_DISCUSSION_SERVICE": false, "PREVENT_CONCURRENT_LOGINS": false, "ENABLE_CORS_HEADERS": true,
					"ENABLE_COURSE_DISCOVERY": true, "ENABLE_COURSEWARE_SEARCH": true, "ENABLE_DASHBOARD_SEARCH": true,
					"ENABLE_FOOTER_MOBILE_APP_LINKS": false, "ENABLE_AUTHN_MICROFRONTEND": true,
					"ENABLE_NEW_BULK_EMAIL_EXPERIENCE": true,
				}
				if features == "proxy" || kind == "dict" {
					want["MILESTONES_APP"] = true // from the YAML file, by the platform itself
				}
				if diff := cmp.Diff(want, l.Flags[kind]); diff != "" {
					t.Errorf("flags as the platform reads them, %s (-want +got)\n%s", kind, diff)
				}
			}
			if diff := cmp.Diff([]string{"tarima-health-beat", "tarima-health-ready"}, l.Signals); diff != "" {
				t.Error(diff)
			}
			checkCommon(t, l, "lms")
		})
	}
}

func TestStudioSettings(t *testing.T) {
	plan := mustBuild(t, testInput(t, func(c *site.Config) { c.Site.Release = "ulmo" }))
	for _, features := range []string{"proxy", "dict"} {
		t.Run(features, func(t *testing.T) {
			l := loadSettings(t, plan, "cms", features)
			checkSettings(t, l.Settings, sharedSettings)
			checkSettings(t, l.Settings, map[string]string{
				"STUDIO_NAME":                            `"Escuela de Música - Studio"`,
				"SOCIAL_AUTH_EDX_OAUTH2_KEY":             `"cms-sso"`,
				"SOCIAL_AUTH_EDX_OAUTH2_URL_ROOT":        `"http://lms:8000"`,
				"SOCIAL_AUTH_EDX_OAUTH2_PUBLIC_URL_ROOT": `"https://learn.example.org"`,
				"SOCIAL_AUTH_REDIRECT_IS_HTTPS":          `false`,
				"SESSION_COOKIE_NAME":                    `"studio_session_id"`,
				"SESSION_COOKIE_DOMAIN":                  `"studio.learn.example.org"`,
				"MAX_ASSET_UPLOAD_FILE_SIZE_IN_MB":       `100`,
				"FRONTEND_LOGIN_URL":                     `"https://learn.example.org/login"`,
				"FRONTEND_REGISTER_URL":                  `"https://learn.example.org/register"`,
				"ALLOWED_HOSTS":                          `["studio.learn.example.org","cms"]`,
				"CORS_ORIGIN_WHITELIST":                  `["https://studio.learn.example.org","https://apps.learn.example.org"]`,
				"LOGIN_REDIRECT_WHITELIST":               `["apps.learn.example.org"]`,
				"COURSE_AUTHORING_MICROFRONTEND_URL":     `"https://apps.learn.example.org/authoring"`,
				"CELERY_IMPORTS":                         `["platform.tasks","cms.envs.tutor.scheduled"]`,
			})
			for _, kind := range []string{"flat", "dict"} {
				if l.Flags[kind]["ENABLE_COURSEWARE_INDEX"] != true {
					t.Errorf("ENABLE_COURSEWARE_INDEX is not on (%s)", kind)
				}
			}
			// The LMS's secret for Studio is Studio's alone, and the LMS's job's.
			if got := l.Settings["SOCIAL_AUTH_EDX_OAUTH2_SECRET"]; got == "" || got == nil {
				t.Error("no OAuth secret")
			}
			checkCommon(t, l, "cms")
		})
	}
}

// checkCommon checks settings with secrets in them and what is not a setting.
func checkCommon(t *testing.T, l loaded, variant string) {
	t.Helper()
	get := testSecrets(t)
	secret := func(name string) string {
		s, err := get(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	caches := l.Settings["CACHES"].(map[string]any)
	for name, more := range map[string]map[string]any{
		"default": {"VERSION": "1", "KEY_PREFIX": "default"}, "general": {"KEY_PREFIX": "general"},
		"mongo_metadata_inheritance": {"TIMEOUT": 300.0}, "configuration": {}, "celery": {"TIMEOUT": 7200.0},
		"course_structure_cache": {"KEY_PREFIX": "course_structure", "TIMEOUT": 604800.0}, "ora2-storage": {},
		"sessions": {"KEY_PREFIX": "sessions"},
	} {
		cache, ok := caches[name].(map[string]any)
		if !ok {
			t.Errorf("no cache %s", name)
			continue
		}
		want := "redis://:" + secret(SecretRedisCache) + "@redis-cache:6379/1"
		if name == "sessions" {
			want = "redis://:" + secret(SecretRedis) + "@redis:6379/2"
		}
		if cache["LOCATION"] != want || cache["BACKEND"] != "django_redis.cache.RedisCache" {
			t.Errorf("cache %s: %v", name, cache)
		}
		for key, value := range more {
			if cache[key] != value {
				t.Errorf("cache %s: %s is %v, want %v", name, key, cache[key], value)
			}
		}
	}
	if got, want := l.Settings["EVENT_BUS_REDIS_CONNECTION_URL"], "redis://:"+secret(SecretRedis)+"@redis:6379/"; got != want {
		t.Errorf("event bus at %v", got)
	}
	if inside, ok := caches["loc_cache"].(map[string]any); !ok || inside["LOCATION"] != "edx_location_mem_cache" {
		t.Errorf("the platform's cache within a process: %v", caches["loc_cache"])
	}
	static := caches["staticfiles"].(map[string]any)
	if static["LOCATION"] != "staticfiles_"+variant {
		t.Errorf("staticfiles cache: %v", static)
	}
	handlers := l.Settings["LOGGING"].(map[string]any)["handlers"].(map[string]any)
	for name, file := range map[string]string{"local": "/openedx/data/logs/all.log", "tracking": "/openedx/data/logs/tracking.log"} {
		h := handlers[name].(map[string]any)
		if h["class"] != "logging.handlers.WatchedFileHandler" || h["filename"] != file {
			t.Errorf("log handler %s: %v", name, h)
		}
	}
	jwt := l.Settings["JWT_AUTH"].(map[string]any)
	if jwt["JWT_ISSUER"] != "https://learn.example.org/oauth2" || jwt["JWT_AUDIENCE"] != "openedx" || jwt["JWT_ALGORITHM"] != "HS256" {
		t.Errorf("JWT_AUTH: %v %v %v", jwt["JWT_ISSUER"], jwt["JWT_AUDIENCE"], jwt["JWT_ALGORITHM"])
	}
	var public struct{ Keys []map[string]string }
	if err := json.Unmarshal([]byte(jwt["JWT_PUBLIC_SIGNING_JWK_SET"].(string)), &public); err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi"} {
		if _, ok := public.Keys[0][private]; ok {
			t.Errorf("the public key set holds %s", private)
		}
	}
	if diff := cmp.Diff(map[string]any{"python": []any{"nonexistingpythonbinary", nil}}, l.Jail); diff != "" {
		t.Errorf("code jail: %s", diff)
	}
	if !strings.Contains(strings.Join(l.Made, " "), "/openedx/data/logs") {
		t.Errorf("folders made: %v", l.Made)
	}
}

// TestPassThrough: the site file has the last word, tables are merged.
func TestPassThrough(t *testing.T) {
	plan := mustBuild(t, testInput(t, func(c *site.Config) {
		c.Settings.LMS = site.Table{
			{Key: "PLATFORM_NAME", Value: "Otra"},
			{Key: "FEATURES", Value: site.Table{{Key: "FROM_THE_SITE_FILE", Value: true}, {Key: "MILESTONES_APP", Value: false}}},
			{Key: "GRADES_DOWNLOAD", Value: site.Table{{Key: "STORAGE_KWARGS", Value: site.Table{{Key: "base_url", Value: "/g/"}}}}},
			{Key: "NEW_LIST", Value: []any{int64(1), 2.5, "on", site.Table{{Key: "yes", Value: "=\n"}}}},
			{Key: "DEFAULT_FROM_EMAIL", Value: "no-reply@learn.example.org"},
		}
		c.MFE = site.Table{{Key: "LOGO_URL", Value: "https://learn.example.org/media/l.svg"}}
	}))
	for _, features := range []string{"proxy", "dict"} {
		l := loadSettings(t, plan, "lms", features)
		checkSettings(t, l.Settings, map[string]string{
			"PLATFORM_NAME":      `"Otra"`,
			"GRADES_DOWNLOAD":    `{"STORAGE_TYPE":"","STORAGE_KWARGS":{"base_url":"/g/","location":"/openedx/media/grades"}}`,
			"NEW_LIST":           `[1,2.5,"on",{"yes":"=\n"}]`,
			"DEFAULT_FROM_EMAIL": `"no-reply@learn.example.org"`,
		})
		for _, kind := range []string{"flat", "dict"} {
			if l.Flags[kind]["FROM_THE_SITE_FILE"] != true || l.Flags[kind]["MILESTONES_APP"] != false {
				t.Errorf("%s flags, %s: %v", features, kind, l.Flags[kind])
			}
		}
		if got := l.Settings["MFE_CONFIG"].(map[string]any)["LOGO_URL"]; got != "https://learn.example.org/media/l.svg" {
			t.Errorf("LOGO_URL %v", got)
		}
	}
	if strings.Contains(string(fileOf(t, plan, "cms/settings/site.json")), "FROM_THE_SITE_FILE") {
		t.Error("a setting for the LMS reached Studio")
	}
}

package openedx

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Where the platform's image has its things.
const (
	platformDir = "/openedx/edx-platform"
	configDir   = "/openedx/config"
	siteID      = 2 // SITE_ID, the row that the job site-rows names
)

// envYAML is the file that LMS_CFG or CMS_CFG names: the platform's own
// production settings read it, and every key becomes a setting.
func (m *model) envYAML(variant string) ([]byte, error) {
	host, other := m.lmsHost, "cms"
	if variant == "cms" {
		host, other = m.cmsHost, "lms"
	}
	s := m.config.Site
	features := map[string]any{
		"CERTIFICATES_HTML_VIEW":      true,
		"ENABLE_CSMH_EXTENDED":        false,
		"ENABLE_LEARNER_RECORDS":      false,
		"ENABLE_PREREQUISITE_COURSES": true,
		"MILESTONES_APP":              true,
	}
	env := map[string]any{
		"SITE_NAME":     host,
		"BOOK_URL":      "",
		"LOG_DIR":       "/openedx/data/logs",
		"LOGGING_ENV":   "sandbox",
		"PLATFORM_NAME": s.Name,
		"CONTACT_EMAIL": s.Contact,
		"LANGUAGE_CODE": s.Language,

		"OAUTH_OIDC_ISSUER": m.lmsURL + "/oauth2",
		"LMS_ROOT_URL":      m.lmsURL,
		"CMS_ROOT_URL":      m.cmsURL,
		"LMS_BASE":          m.base(m.lmsHost),
		"CMS_BASE":          m.base(m.cmsHost),
		"HTTPS":             "on",

		"CELERY_BROKER_TRANSPORT": "redis",
		"CELERY_BROKER_HOSTNAME":  "redis:6379",
		"CELERY_BROKER_VHOST":     "0",
		"CELERY_BROKER_USER":      "",
		"CELERY_BROKER_PASSWORD":  m.secrets.redis,
		"ALTERNATE_WORKER_QUEUES": other,

		"ENABLE_COMPREHENSIVE_THEMING": true,
		"EMAIL_BACKEND":                "django.core.mail.backends.smtp.EmailBackend",
		"EMAIL_HOST":                   m.mail.host,
		"EMAIL_PORT":                   m.mail.port,
		"EMAIL_USE_TLS":                m.mail.tls,
		"EMAIL_HOST_USER":              m.mail.user,
		"EMAIL_HOST_PASSWORD":          m.mail.password,

		"SESSION_COOKIE_DOMAIN": host,
		"SECRET_KEY":            m.secrets.platform,
		"AWS_ACCESS_KEY_ID":     "",
		"AWS_SECRET_ACCESS_KEY": "",
		"DOC_STORE_CONFIG":      nil, // set in Python
		"XQUEUE_INTERFACE":      map[string]any{"django_auth": nil, "url": nil},
		"DATABASES": map[string]any{"default": map[string]any{
			"ENGINE":          "django.db.backends.mysql",
			"HOST":            "mysql",
			"PORT":            3306,
			"NAME":            "openedx",
			"USER":            "openedx",
			"PASSWORD":        m.secrets.mysql,
			"ATOMIC_REQUESTS": true,
			"OPTIONS": map[string]any{
				"init_command": "SET sql_mode='STRICT_TRANS_TABLES'",
				"charset":      "utf8mb4",
			},
		}},
		"FEATURES": features,
	}
	if variant == "lms" {
		env["ACE_ROUTING_KEY"] = "edx.lms.core.default"
		for _, f := range []string{
			"ENABLE_COMBINED_LOGIN_REGISTRATION", "ENABLE_GRADE_DOWNLOADS", "ENABLE_MOBILE_REST_API",
			"ENABLE_OAUTH2_PROVIDER", "ENABLE_THIRD_PARTY_AUTH",
		} {
			features[f] = true
		}
	} else {
		features["ENABLE_LIBRARY_INDEX"] = true
	}
	if s.Timezone != "UTC" {
		// The platform takes its own time zone from Celery's.
		env["CELERY_TIMEZONE"] = s.Timezone
		env["TIME_ZONE"] = s.Timezone
	}
	out, err := encodeYAML(merge(env, m.overrides(variant)))
	if err != nil {
		return nil, fmt.Errorf("settings.%s: %w", variant, err)
	}
	return append([]byte("# Written by Tarima from the site file; changes here are lost.\n"), out...), nil
}

// merge lays above over below; tables within tables are merged the same way.
func merge(below, above map[string]any) map[string]any {
	out := make(map[string]any, len(below)+len(above))
	for k, v := range below {
		out[k] = v
	}
	for k, v := range above {
		if inner, ok := v.(map[string]any); ok {
			if had, ok := out[k].(map[string]any); ok {
				v = merge(had, inner)
			}
		}
		out[k] = v
	}
	return out
}

// siteJSON holds the values that the Python settings of a variant read.
func (m *model) siteJSON(variant string) ([]byte, error) {
	s := m.config.Site
	from := m.config.Mail.From
	host := m.lmsHost
	if variant == "cms" {
		host = m.cmsHost
	}
	origins := []any{m.lmsURL}
	trusted, redirects := []any{}, []any{m.base(m.cmsHost)}
	if variant == "cms" {
		origins = []any{m.cmsURL}
		redirects = []any{}
	}
	var mfe any
	if m.on("mfe") {
		origins = append(origins, m.mfeURL)
		trusted = append(trusted, m.mfeURL)
		redirects = append(redirects, m.base(m.mfeHost))
		settings := map[string]any{"settings": m.mfeSettings(variant)}
		if variant == lms {
			settings["config"] = m.mfeConfig()
		}
		mfe = settings
	}
	addresses := map[string]any{}
	for _, name := range []string{
		"DEFAULT_FEEDBACK_EMAIL", "TECH_SUPPORT_EMAIL", "CONTACT_EMAIL", "BUGS_EMAIL", "UNIVERSITY_EMAIL",
		"PRESS_EMAIL", "PAYMENT_SUPPORT_EMAIL", "API_ACCESS_MANAGER_EMAIL",
	} {
		addresses[name] = s.Contact
	}
	for _, name := range []string{
		"DEFAULT_FROM_EMAIL", "SERVER_EMAIL", "BULK_EMAIL_DEFAULT_FROM_EMAIL", "API_ACCESS_FROM_EMAIL",
	} {
		addresses[name] = from
	}
	templates := []any{}
	if t := m.release.OpenEdX.Theme; t != "" && variant == "lms" {
		templates = append(templates, "/openedx/themes/"+t+"/lms/templates")
	}
	issuer := m.lmsURL + "/oauth2"
	values := map[string]any{
		"lms_url":          m.lmsURL,
		"cms_url":          m.cmsURL,
		"studio_name":      s.Name + " - Studio",
		"site_id":          siteID,
		"allowed_hosts":    []any{host, variant},
		"cors_origins":     origins,
		"trusted_origins":  trusted,
		"login_redirects":  redirects,
		"mailing_address":  s.Name + " - " + m.lmsURL,
		"mail_ssl":         m.mail.ssl,
		"addresses":        addresses,
		"caches":           m.redisURL("redis-cache", m.secrets.redisCache, 1),
		"sessions":         m.redisURL("redis", m.secrets.redis, 2),
		"event_bus":        fmt.Sprintf("redis://:%s@redis:6379/", m.secrets.redis),
		"event_bus_prefix": "dev",
		"document_store": map[string]any{
			"db": "openedx", "host": "mongodb", "port": 27017, "user": nil, "password": nil,
			"connect": false, "ssl": false, "authsource": "admin", "replicaSet": nil,
		},
		"meilisearch": m.searchValues(),
		"jwt": map[string]any{
			"issuer": issuer, "audience": "openedx", "secret": m.secrets.platform,
			"private": m.secrets.jwtPrivate, "public": m.secrets.jwtPublic,
		},
		"mfe":           mfe,
		"template_dirs": templates,
		"overrides":     m.overrides(variant),
	}
	if variant == "cms" {
		values["oauth2_secret"] = m.secrets.studioOAuth
	}
	return encodeJSON(values)
}

// searchValues are where the search service is and the keys to it.
func (m *model) searchValues() map[string]any {
	if !m.on("meilisearch") {
		return map[string]any{"enabled": false}
	}
	return map[string]any{
		"enabled": true, "url": "http://meilisearch:7700", "public_url": m.searchURL, "index_prefix": "tutor_",
		"api_key": m.secrets.meiliKey, "master_key": m.secrets.meiliMaster,
	}
}

// mfeSettings tell LMS and Studio where the micro-frontends are.
func (m *model) mfeSettings(variant string) map[string]any {
	if variant == "cms" {
		return map[string]any{"COURSE_AUTHORING_MICROFRONTEND_URL": m.mfeURL + "/authoring"}
	}
	return map[string]any{
		"ENABLE_MFE_CONFIG_API":                true,
		"MFE_CONFIG_API_CACHE_TIMEOUT":         1,
		"LEARNER_HOME_MFE_REDIRECT_PERCENTAGE": 100,
		"AUTHN_MICROFRONTEND_URL":              m.mfeURL + "/authn",
		"AUTHN_MICROFRONTEND_DOMAIN":           m.base(m.mfeHost) + "/authn",
		"ACCOUNT_MICROFRONTEND_URL":            m.mfeURL + "/account/",
		"COURSE_AUTHORING_MICROFRONTEND_URL":   m.mfeURL + "/authoring",
		"DISCUSSIONS_MICROFRONTEND_URL":        m.mfeURL + "/discussions",
		"DISCUSSIONS_MFE_FEEDBACK_URL":         nil,
		"WRITABLE_GRADEBOOK_URL":               m.mfeURL + "/gradebook",
		"LEARNER_HOME_MICROFRONTEND_URL":       m.mfeURL + "/learner-dashboard/",
		"LEARNING_MICROFRONTEND_URL":           m.mfeURL + "/learning",
		"ORA_GRADING_MICROFRONTEND_URL":        m.mfeURL + "/ora-grading",
		"PROFILE_MICROFRONTEND_URL":            m.mfeURL + "/profile/u/",
		"COMMUNICATIONS_MICROFRONTEND_URL":     m.mfeURL + "/communications",
		"ADMIN_CONSOLE_MICROFRONTEND_URL":      m.mfeURL + "/admin-console",
	}
}

// mfeConfig is the dictionary that the micro-frontends ask the LMS for.
func (m *model) mfeConfig() map[string]any {
	s := m.config.Site
	logo := m.lmsURL + "/theming/asset/images/logo.png"
	config := map[string]any{
		"BASE_URL":                        m.base(m.mfeHost),
		"CSRF_TOKEN_API_PATH":             "/csrf/api/v1/token",
		"CREDENTIALS_BASE_URL":            "",
		"DISCOVERY_API_BASE_URL":          "",
		"FAVICON_URL":                     m.lmsURL + "/favicon.ico",
		"INFO_EMAIL":                      s.Contact,
		"LANGUAGE_PREFERENCE_COOKIE_NAME": "openedx-language-preference",
		"LMS_BASE_URL":                    m.lmsURL,
		"LOGIN_URL":                       m.lmsURL + "/login",
		"LOGOUT_URL":                      m.lmsURL + "/logout",
		"LOGO_URL":                        logo,
		"LOGO_WHITE_URL":                  logo,
		"LOGO_TRADEMARK_URL":              logo,
		"MARKETING_SITE_BASE_URL":         m.lmsURL,
		"PASSWORD_RESET_SUPPORT_LINK":     "mailto:" + s.Contact,
		"REFRESH_ACCESS_TOKEN_ENDPOINT":   m.lmsURL + "/login_refresh",
		"SITE_NAME":                       s.Name,
		"STUDIO_BASE_URL":                 m.cmsURL,
		"USER_INFO_COOKIE_NAME":           "user-info",
		"ACCESS_TOKEN_COOKIE_NAME":        "edx-jwt-cookie-header-payload",
		"DISABLE_ENTERPRISE_LOGIN":        true,

		"ACCOUNT_SETTINGS_URL":               m.mfeURL + "/account/",
		"ACCOUNT_PROFILE_URL":                m.mfeURL + "/profile",
		"COURSE_AUTHORING_MICROFRONTEND_URL": m.mfeURL + "/authoring",
		"ENABLE_ASSETS_PAGE":                 "true",
		"ENABLE_HOME_PAGE_COURSE_API_V2":     "true",
		"ENABLE_PROGRESS_GRAPH_SETTINGS":     "true",
		"ENABLE_TAGGING_TAXONOMY_PAGES":      "true",
		"ENABLE_UNIT_PAGE":                   "true",
		"MEILISEARCH_ENABLED":                boolText(m.on("meilisearch")),
		"DISCUSSIONS_MFE_BASE_URL":           m.mfeURL + "/discussions",
		"LEARNING_BASE_URL":                  m.mfeURL + "/learning",
		"SCHEDULE_EMAIL_SECTION":             m.on("scheduler"), // nothing sends them without it
		"ADMIN_CONSOLE_URL":                  m.mfeURL + "/admin-console",
	}
	if m.release.OpenEdX.Theme == "indigo" {
		config["INDIGO_ENABLE_DARK_TOGGLE"] = true
		config["INDIGO_FOOTER_NAV_LINKS"] = []any{}
	}
	return merge(config, m.config.MFE.Map())
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// jobJSON holds the values of the initialisation scripts.
func (m *model) jobJSON() ([]byte, error) {
	search := m.searchValues()
	if m.on("meilisearch") {
		search["key_uid"] = m.secrets.meiliUID
	}
	languages := []any{}
	for _, l := range m.config.Site.Languages {
		languages = append(languages, l)
	}
	return encodeJSON(map[string]any{
		"lms_host": m.lmsHost, "cms_host": m.cmsHost, "cms_url": m.cmsURL,
		"platform_name": m.config.Site.Name,
		"languages":     languages,
		"oauth2_secret": m.secrets.studioOAuth,
		"meilisearch":   search,
		"theme":         m.release.OpenEdX.Theme,
		"load_policies": m.release.OpenEdX.LoadPolicies,
		"mfe":           m.on(mfe),
		"mfe_flags":     mfeFlags,
	})
}

// mfeFlags are the waffle flags that the micro-frontends want on or off.
var mfeFlags = map[string]bool{
	"learner_home_mfe.enabled":                                true,
	"course_home.course_home_mfe_progress_tab":                true,
	"courseware.enable_navigation_sidebar":                    true,
	"courseware.always_open_auxiliary_sidebar":                false,
	"discussions.enable_discussions_mfe":                      true,
	"discussions.enable_learners_tab_in_discussions_mfe":      true,
	"discussions.enable_moderation_reason_codes":              true,
	"discussions.enable_reported_content_email_notifications": true,
	"discussions.enable_learners_stats":                       true,
	"discussions.enable_new_structure_discussions":            true,
	"openresponseassessment.enhanced_staff_grader":            true,
}

// encodeJSON writes sorted keys and readable characters.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return b.Bytes(), nil
}

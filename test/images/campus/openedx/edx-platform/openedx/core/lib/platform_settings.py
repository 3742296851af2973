"""What LMS and Studio have as settings before a site adds its own.

The names are those that a site's own settings module finds in the platform:
it changes some, removes others, and relies on all of them being there.
"""

import os
import urllib.parse
from collections.abc import MutableMapping

import yaml
from django.core.exceptions import ImproperlyConfigured

BASE = "/openedx/edx-platform"

# Keys of the file that are laid over the standard value in place of replacing it.
MERGED = (
    "TRACKING_BACKENDS",
    "EVENT_TRACKING_BACKENDS",
    "JWT_AUTH",
    "REST_FRAMEWORK",
    "EVENT_BUS_PRODUCER_CONFIG",
)


class FeaturesProxy(MutableMapping):
    """FEATURES["X"] as another way to write the setting X of a namespace."""

    def __init__(self, namespace=None):
        self.ns = namespace if namespace is not None else {}

    def __getitem__(self, key):
        return self.ns[key]

    def __setitem__(self, key, value):
        self.ns[key] = value

    def __delitem__(self, key):
        del self.ns[key]

    def __iter__(self):
        return iter(self.ns)

    def __len__(self):
        return len(self.ns)

    def copy(self):
        return FeaturesProxy(dict(self.ns))


def common(variant):
    """Standard values, before any file."""
    other = "cms" if variant == "lms" else "lms"
    return {
        "DEBUG": False,
        "SERVICE_VARIANT": variant,
        "ROOT_URLCONF": variant + ".urls",
        "WSGI_APPLICATION": variant + ".wsgi.application",
        "DEFAULT_AUTO_FIELD": "django.db.models.AutoField",
        "SITE_ID": 1,
        "SITE_NAME": "localhost",
        "PLATFORM_NAME": "Your Platform Name Here",
        "STUDIO_NAME": "Your Platform Studio",
        "LMS_BASE": "localhost:18000",
        "CMS_BASE": "localhost:18010",
        "LMS_ROOT_URL": "http://localhost:18000",
        "CMS_ROOT_URL": "http://localhost:18010",
        "ALLOWED_HOSTS": [],
        "CONTACT_EMAIL": "info@example.com",
        "DEFAULT_FROM_EMAIL": "registration@example.com",
        "LANGUAGE_CODE": "en",
        "LANGUAGES": [("en", "English"), ("es-419", "Español (Latinoamérica)"), ("es", "Español")],
        "LANGUAGE_COOKIE_NAME": "openedx-language-preference",
        "TIME_ZONE": "UTC",
        "USE_TZ": True,
        "USE_I18N": True,
        "STATIC_URL": "/static/",
        "STATIC_ROOT": os.environ.get("STATIC_ROOT_" + variant.upper(), "/openedx/staticfiles"),
        "MEDIA_URL": "/media/",
        "MEDIA_ROOT": "/openedx/media/",
        "DATA_DIR": "/openedx/data",
        "LOG_DIR": "/openedx/data/logs",
        "FILE_UPLOAD_PERMISSIONS": 0o644,
        "INSTALLED_APPS": [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.sites",
            "django.contrib.messages",
            "corsheaders",
            "django_celery_results",
            "oauth2_provider",
            "waffle",
            "openedx.core.djangoapps.theming.apps.ThemingConfig",
            "openedx.core.djangoapps.dark_lang.apps.DarkLangConfig",
            "openedx.core.djangoapps.oauth_dispatch.apps.OAuthDispatchConfig",
            "openedx.core.djangoapps.user_api.apps.UserAPIConfig",
            "openedx.core.djangoapps.heartbeat.apps.HeartbeatConfig",
            "campus.apps.CampusConfig",
            "lms.djangoapps.coursewarehistoryextended",
        ],
        "DATABASE_ROUTERS": [
            "openedx.core.lib.django_courseware_routers.StudentModuleHistoryExtendedRouter",
        ],
        "MIDDLEWARE": [
            "corsheaders.middleware.CorsMiddleware",
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.locale.LocaleMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [],
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                        "campus.texts.context",
                    ]
                },
            }
        ],
        "AUTHENTICATION_BACKENDS": ["django.contrib.auth.backends.ModelBackend"],
        "AUTH_PASSWORD_VALIDATORS": [
            {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
        ],
        "OAUTH2_PROVIDER": {
            "SCOPES": {
                "user_id": "Know your user identifier",
                "profile": "Read your user profile",
                "email": "Read your email address",
                "read": "Read access",
                "write": "Write access",
            },
            "PKCE_REQUIRED": False,
            "REQUEST_APPROVAL_PROMPT": "auto",
            "ACCESS_TOKEN_EXPIRE_SECONDS": 3600,
        },
        "OAUTH_ENFORCE_SECURE": True,
        "JWT_AUTH": {"JWT_ALGORITHM": "HS256", "JWT_EXPIRATION": 3600, "JWT_SIGNING_ALGORITHM": "RS512"},
        "SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https"),
        "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        "SESSION_COOKIE_NAME": "sessionid",
        "SESSION_SERIALIZER": "django.contrib.sessions.serializers.JSONSerializer",
        "LOGIN_URL": "/login",
        "LOGIN_REDIRECT_URL": "/dashboard" if variant == "lms" else "/home/",
        "LOGIN_REDIRECT_WHITELIST": [],
        "CSRF_TRUSTED_ORIGINS": [],
        "CORS_ORIGIN_WHITELIST": [],
        "IDA_LOGOUT_URI_LIST": [],
        "CACHES": {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        "MODULESTORE": {
            "default": {
                "ENGINE": "xmodule.modulestore.mixed.MixedModuleStore",
                "OPTIONS": {
                    "mappings": {},
                    "stores": [
                        {
                            "NAME": "split",
                            "ENGINE": "xmodule.modulestore.split_mongo.split_draft.DraftVersioningModuleStore",
                            "DOC_STORE_CONFIG": {},
                            "OPTIONS": {"fs_root": "/openedx/data"},
                        },
                    ],
                },
            }
        },
        "CONTENTSTORE": {},
        "DOC_STORE_CONFIG": {"host": "localhost", "port": 27017, "db": "edxapp"},
        "DATABASES": {},
        "CELERY_RESULT_BACKEND": "django-cache",
        "CELERY_CACHE_BACKEND": "celery",
        "CELERY_DEFAULT_QUEUE": "edx.{}.core.default".format(variant),
        "CELERY_DEFAULT_ROUTING_KEY": "edx.{}.core.default".format(variant),
        "CELERY_DEFAULT_EXCHANGE": "edx.{}.core".format(variant),
        "CELERY_TASK_SERIALIZER": "json",
        "CELERY_RESULT_SERIALIZER": "json",
        "CELERY_ACCEPT_CONTENT": ["json"],
        "CELERY_IMPORTS": [],
        "CELERY_CREATE_MISSING_QUEUES": True,
        "CELERYD_HIJACK_ROOT_LOGGER": False,
        "BROKER_HEARTBEAT": 60.0,
        "BROKER_POOL_LIMIT": 0,
        "ALTERNATE_QUEUE": "edx.{}.core.default".format(other),
        "HEARTBEAT_CHECKS": [
            "openedx.core.djangoapps.heartbeat.default_checks.check_modulestore",
            "openedx.core.djangoapps.heartbeat.default_checks.check_database",
        ],
        "HEARTBEAT_EXTENDED_CHECKS": (
            "openedx.core.djangoapps.heartbeat.default_checks.check_celery",
        ),
        "HEARTBEAT_CELERY_TIMEOUT": 5,
        "HEARTBEAT_CELERY_ROUTING_KEY": "edx.{}.core.default".format(variant),
        "VIDEO_IMAGE_SETTINGS": {"STORAGE_KWARGS": {"location": "/openedx/media/"}},
        "VIDEO_TRANSCRIPTS_SETTINGS": {"STORAGE_KWARGS": {"location": "/openedx/media/"}},
        "PROFILE_IMAGE_BACKEND": {
            "class": "openedx.core.storage.OverwriteStorage",
            "options": {"location": "/openedx/media/profile-images/", "base_url": "/media/profile-images/"},
        },
        "PROFILE_IMAGE_MAX_BYTES": 1024 * 1024,
        "MAX_ASSET_UPLOAD_FILE_SIZE_IN_MB": 10,
        "REGISTRATION_EXTRA_FIELDS": {"honor_code": "required", "terms_of_service": "hidden"},
        "CODE_JAIL": {"python_bin": "", "user": "sandbox", "limits": {}},
        "MFE_CONFIG": {},
        "ENABLE_MFE_CONFIG_API": False,
        "MEILISEARCH_ENABLED": False,
        "MEILISEARCH_URL": "http://meilisearch",
        "MEILISEARCH_INDEX_PREFIX": "",
        "MEILISEARCH_API_KEY": "",
        "SEARCH_ENGINE": "search.elastic.ElasticSearchEngine",
        "ENABLE_COURSE_DISCOVERY": False,
        "ENABLE_AUTHN_MICROFRONTEND": False,
        "ENABLE_COMBINED_LOGIN_REGISTRATION": True,
        "AUTHN_MICROFRONTEND_URL": None,
        "LOGGING": {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "standard": {
                    "format": "%(asctime)s %(levelname)s %(process)d [%(name)s] %(filename)s:%(lineno)d - %(message)s"
                }
            },
            "handlers": {
                "console": {"class": "logging.StreamHandler", "formatter": "standard", "level": "INFO"},
                # As in the platform: a socket that no container has. A site
                # must put files in their place.
                "local": {
                    "class": "logging.handlers.SysLogHandler",
                    "address": "/dev/log",
                    "formatter": "standard",
                    "level": "INFO",
                },
                "tracking": {
                    "class": "logging.handlers.SysLogHandler",
                    "address": "/dev/log",
                    "formatter": "standard",
                    "level": "DEBUG",
                },
            },
            "loggers": {
                "": {"handlers": ["console", "local"], "level": "INFO"},
                "tracking": {"handlers": ["tracking"], "level": "DEBUG", "propagate": False},
            },
        },
    }


def read_file(variant):
    """The file that LMS_CFG or CMS_CFG names, as a mapping."""
    name = variant.upper() + "_CFG"
    path = os.environ.get(name)
    if not path:
        raise ImproperlyConfigured("{} is not set: it must name the settings file".format(name))
    with open(path, encoding="utf-8") as file:
        tokens = yaml.safe_load(file)
    if not isinstance(tokens, dict):
        raise ImproperlyConfigured("{}: expected a mapping of settings".format(path))
    return tokens


def production(variant):
    """The namespace of VARIANT.envs.production."""
    ns = common(variant)
    tokens = read_file(variant)
    ns["ENV_TOKENS"] = ns["AUTH_TOKENS"] = tokens
    for key, value in tokens.items():
        if key == "FEATURES":
            ns.update(value or {})
        elif key in MERGED:
            ns[key] = {**ns.get(key, {}), **(value or {})}
        elif key == "CELERY_QUEUES":
            continue  # queues are made when they are named
        elif value is None and ns.get(key) is not None:
            continue  # a site says null for "set in Python"
        else:
            ns[key] = value
    if not ns.get("SECRET_KEY"):
        raise ImproperlyConfigured("SECRET_KEY is missing in the settings file")
    databases = ns["DATABASES"]
    if not isinstance(databases, dict) or "default" not in databases:
        raise ImproperlyConfigured("DATABASES.default is missing in the settings file")
    for key in ("ENGINE", "USER", "PASSWORD", "NAME", "HOST", "PORT"):
        override = os.environ.get("DB_MIGRATION_" + ("PASS" if key == "PASSWORD" else key))
        if override:
            databases["default"][key] = override
    ns["BROKER_URL"] = "{}://{}:{}@{}/{}".format(
        tokens.get("CELERY_BROKER_TRANSPORT", "amqp"),
        tokens.get("CELERY_BROKER_USER") or "",
        urllib.parse.quote(tokens.get("CELERY_BROKER_PASSWORD") or "", safe=""),
        tokens.get("CELERY_BROKER_HOSTNAME", ""),
        tokens.get("CELERY_BROKER_VHOST", ""),
    )
    ns["CELERY_BROKER_TRANSPORT"] = tokens.get("CELERY_BROKER_TRANSPORT", "amqp")
    # The task queue must not find names of its new settings beside old ones.
    for key in ("CELERY_BROKER_TRANSPORT", "CELERY_BROKER_USER", "CELERY_BROKER_PASSWORD", "CELERY_BROKER_HOSTNAME", "CELERY_BROKER_VHOST"):
        ns.pop(key, None)
    base = ns["LMS_BASE" if variant == "lms" else "CMS_BASE"]
    ns["ALLOWED_HOSTS"] = ["*"] if not base else [base]
    return ns

"""What LMS and Studio have in common of the site's settings.

No value of the site stands in this file: all of them come from site.json,
which lies beside it, so that no text of a site file can ever become code.
"""

import json
import os
import pathlib


def load():
    """The values of this site, for this variant."""
    path = pathlib.Path(__file__).with_name("site.json")
    return json.loads(path.read_text(encoding="utf-8"))


def rebind_features(ns):
    """FEATURES bound to the namespace of the module that Django reads.

    Since Ulmo, FEATURES is a view onto the namespace of the module that made
    it. That is the production module of the platform, not the one that Django
    loads, so a flag set through it alone would be seen by some readers only.
    """
    view = ns.get("FEATURES")
    if view is None:
        ns["FEATURES"] = {}
    elif type(view) is not dict:
        ns["FEATURES"] = type(view)(ns)


def set_features(ns, flags):
    """Set flags as entries of FEATURES and as settings of their own."""
    for name, value in flags.items():
        ns[name] = value
        ns["FEATURES"][name] = value


def without(values, unwanted):
    """The same collection less one entry."""
    return type(values)(value for value in values if value != unwanted)


def merge(below, above):
    """above laid over below; tables within tables are merged the same way."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(below.get(key), value)
    return merged


def apply(ns, site, variant):
    """Complete the settings in ns, which already holds the platform's own."""
    from xmodule.modulestore.modulestore_settings import update_module_store_settings
    import codejail.jail_code

    rebind_features(ns)

    # Course content: connect=False, or the connection made before uWSGI forks
    # is shared by its children.
    document_store = dict(site["document_store"])
    ns["DOC_STORE_CONFIG"] = document_store
    ns["CONTENTSTORE"] = {
        "ENGINE": "xmodule.contentstore.mongo.MongoContentStore",
        "ADDITIONAL_OPTIONS": {},
        "DOC_STORE_CONFIG": document_store,
    }
    ns["DATA_DIR"] = "/openedx/data/modulestore"
    update_module_store_settings(ns["MODULESTORE"], doc_store_settings=document_store)
    for store in ns["MODULESTORE"]["default"]["OPTIONS"]["stores"]:
        store["OPTIONS"]["fs_root"] = ns["DATA_DIR"]

    # Search.
    ns["MEILISEARCH_ENABLED"] = site["meilisearch"]["enabled"]
    if site["meilisearch"]["enabled"]:
        ns["MEILISEARCH_URL"] = site["meilisearch"]["url"]
        ns["MEILISEARCH_PUBLIC_URL"] = site["meilisearch"]["public_url"]
        ns["MEILISEARCH_INDEX_PREFIX"] = site["meilisearch"]["index_prefix"]
        ns["MEILISEARCH_API_KEY"] = site["meilisearch"]["api_key"]
        ns["MEILISEARCH_MASTER_KEY"] = site["meilisearch"]["master_key"]
        ns["SEARCH_ENGINE"] = "search.meilisearch.MeilisearchEngine"
    else:
        ns["SEARCH_ENGINE"] = None

    # Caches may be emptied at any moment; sessions have a place of their own,
    # beside the task queues, from where memory pressure does not drive them.
    def cache(name, location, **more):
        return {
            "KEY_PREFIX": name,
            "LOCATION": location,
            "BACKEND": "django_redis.cache.RedisCache",
            "OPTIONS": {"CLIENT_CLASS": "django_redis.client.DefaultClient"},
            **more,
        }

    caches = site["caches"]
    # Caches within a process, such as loc_cache, stay as the platform has them.
    inside = {
        name: settings
        for name, settings in ns.get("CACHES", {}).items()
        if settings.get("BACKEND", "").endswith(".LocMemCache")
    }
    ns["DJANGO_REDIS_IGNORE_EXCEPTIONS"] = True  # a cache that is away costs time, not pages
    ns["CACHES"] = {
        **inside,
        "default": cache("default", caches, VERSION="1"),
        "general": cache("general", caches),
        "mongo_metadata_inheritance": cache("mongo_metadata_inheritance", caches, TIMEOUT=300),
        "configuration": cache("configuration", caches),
        "celery": cache("celery", caches, TIMEOUT=7200),
        "course_structure_cache": cache("course_structure", caches, TIMEOUT=604800),
        "ora2-storage": cache("ora2-storage", caches),
        "sessions": cache("sessions", site["sessions"]),
        "staticfiles": {
            "KEY_PREFIX": "staticfiles_" + variant,
            "LOCATION": "staticfiles_" + variant,
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        },
    }
    ns["SESSION_ENGINE"] = "django.contrib.sessions.backends.cache"
    ns["SESSION_CACHE_ALIAS"] = "sessions"

    # The row of this number is given the LMS's own name by the job site-rows,
    # so that mail made outside a request never names example.com.
    ns["SITE_ID"] = site["site_id"]

    # Mail: every sender is an address of this site unless the site file says
    # otherwise.
    for name, address in site["addresses"].items():
        ns[name] = address
    ns["CONTACT_MAILING_ADDRESS"] = site["mailing_address"]
    ns["EMAIL_USE_SSL"] = site["mail_ssl"]
    ns["EMAIL_FILE_PATH"] = "/tmp/openedx/emails"
    ns["ACE_ENABLED_CHANNELS"] = ["django_email"]
    ns["ACE_CHANNEL_DEFAULT_EMAIL"] = "django_email"
    ns["ACE_CHANNEL_TRANSACTIONAL_EMAIL"] = "django_email"

    # One database is enough: the second one for student history stays away.
    if "INSTALLED_APPS" in ns:
        ns["INSTALLED_APPS"] = without(
            ns["INSTALLED_APPS"], "lms.djangoapps.coursewarehistoryextended"
        )
    if "DATABASE_ROUTERS" in ns:
        ns["DATABASE_ROUTERS"] = without(
            ns["DATABASE_ROUTERS"],
            "openedx.core.lib.django_courseware_routers.StudentModuleHistoryExtendedRouter",
        )

    # Files.
    ns["MEDIA_ROOT"] = "/openedx/media/"
    for name in ("VIDEO_IMAGE_SETTINGS", "VIDEO_TRANSCRIPTS_SETTINGS"):
        if name in ns:
            ns[name].setdefault("STORAGE_KWARGS", {})["location"] = ns["MEDIA_ROOT"]
    ns["GRADES_DOWNLOAD"] = {
        "STORAGE_TYPE": "",
        "STORAGE_KWARGS": {
            "base_url": "/media/grades/",
            "location": "/openedx/media/grades",
        },
    }
    ns["ORA2_FILEUPLOAD_BACKEND"] = "filesystem"
    ns["ORA2_FILEUPLOAD_ROOT"] = "/openedx/data/ora2"
    ns["ORA2_FILEUPLOAD_CACHE_NAME"] = "ora2-storage"
    ns["FILE_UPLOAD_STORAGE_BUCKET_NAME"] = "openedxuploads"
    learning = dict(ns.get("OPENEDX_LEARNING", {}))
    learning["MEDIA"] = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": "/openedx/media-private/openedx-learning"},
    }
    ns["OPENEDX_LEARNING"] = learning

    # Log files: the platform's own handlers want a syslog socket, which no
    # container has. WatchedFileHandler follows a file that is renamed away.
    log_dir = ns["LOG_DIR"]
    logging = ns["LOGGING"]
    for name, file, level in (("local", "all.log", "INFO"), ("tracking", "tracking.log", "DEBUG")):
        logging["handlers"][name] = {
            "class": "logging.handlers.WatchedFileHandler",
            "filename": os.path.join(log_dir, file),
            "formatter": "standard",
            "level": level,
        }
    logging["handlers"]["tracking"]["formatter"] = "standard"
    logging["loggers"].setdefault("tracking", {"level": "DEBUG", "propagate": False})
    logging["loggers"]["tracking"]["handlers"] = ["console", "local", "tracking"]

    # The micro-frontends read this cookie under the same name.
    ns["LANGUAGE_COOKIE_NAME"] = "openedx-language-preference"
    ns["X_FRAME_OPTIONS"] = "SAMEORIGIN"

    jwt = site["jwt"]
    ns["JWT_AUTH"] = {
        **ns.get("JWT_AUTH", {}),
        "JWT_ISSUER": jwt["issuer"],
        "JWT_AUDIENCE": jwt["audience"],
        "JWT_SECRET_KEY": jwt["secret"],
        "JWT_PRIVATE_SIGNING_JWK": json.dumps(jwt["private"], sort_keys=True),
        "JWT_PUBLIC_SIGNING_JWK_SET": json.dumps({"keys": [jwt["public"]]}, sort_keys=True),
        "JWT_ISSUERS": [
            {"ISSUER": jwt["issuer"], "AUDIENCE": jwt["audience"], "SECRET_KEY": jwt["secret"]}
        ],
    }

    set_features(
        ns,
        {
            "ENABLE_DISCUSSION_SERVICE": False,
            "PREVENT_CONCURRENT_LOGINS": False,
            "ENABLE_CORS_HEADERS": True,
        },
    )
    ns["CORS_ALLOW_CREDENTIALS"] = True
    ns["CORS_ORIGIN_ALLOW_ALL"] = False
    ns["CORS_ALLOW_INSECURE"] = False
    ns["CORS_ORIGIN_WHITELIST"] = list(site["cors_origins"])
    ns["CSRF_TRUSTED_ORIGINS"] = list(ns.get("CSRF_TRUSTED_ORIGINS", [])) + list(
        site["trusted_origins"]
    )
    ns["LOGIN_REDIRECT_WHITELIST"] = list(ns.get("LOGIN_REDIRECT_WHITELIST", [])) + list(
        site["login_redirects"]
    )
    ns["ALLOWED_HOSTS"] = list(site["allowed_hosts"])

    # Python written by course authors is not run: a sandbox that is not there
    # must fail, not let the code through.
    no_python = "nonexistingpythonbinary"
    codejail.jail_code.configure("python", no_python, user=None)
    ns["CODE_JAIL"] = {**ns.get("CODE_JAIL", {}), "python_bin": no_python, "user": None}

    ns["EVENT_BUS_PRODUCER"] = "edx_event_bus_redis.create_producer"
    ns["EVENT_BUS_CONSUMER"] = "edx_event_bus_redis.RedisEventConsumer"
    ns["EVENT_BUS_REDIS_CONNECTION_URL"] = site["event_bus"]
    ns["EVENT_BUS_TOPIC_PREFIX"] = site["event_bus_prefix"]

    # What the scheduler asks for is done by the ordinary workers.
    ns["CELERY_IMPORTS"] = [
        *ns.get("CELERY_IMPORTS", ()),
        "{}.envs.tutor.scheduled".format(variant),
    ]


def finish(ns, site):
    """The site file has the last word; then the folders that it names exist."""
    for name, value in site["overrides"].items():
        if name == "FEATURES" and isinstance(value, dict):
            set_features(ns, value)
        else:
            ns[name] = merge(ns.get(name), value)
    for name in ("DATA_DIR", "LOG_DIR", "MEDIA_ROOT", "STATIC_ROOT", "ORA2_FILEUPLOAD_ROOT"):
        if ns.get(name):
            os.makedirs(ns[name], exist_ok=True)

"""Loads the rendered Python settings over a small stand-in for the platform.

usage: load_settings.py VARIANT SETTINGS_FOLDER ENV_JSON proxy|dict

Prints the settings as JSON. With "proxy", FEATURES is a view onto the
namespace of the platform's production module, as it is since Ulmo; with
"dict", a dictionary, as before.
"""

import json
import os
import sys
import types
from collections.abc import MutableMapping

variant, folder, env_file, features_kind = sys.argv[1:]

made = []
os.makedirs = lambda path, **_: made.append(str(path))


class View(MutableMapping):
    def __init__(self, ns):
        self.ns = ns

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


def module(name, **names):
    made_module = types.ModuleType(name)
    made_module.__dict__.update(names)
    sys.modules[name] = made_module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, made_module)
    return made_module


class Signal:
    def __init__(self):
        self.receivers = []

    def connect(self, receiver, weak=True, dispatch_uid=None):
        assert weak is False
        self.receivers.append((dispatch_uid, receiver))


jail = {}
module("celery", shared_task=lambda **kw: lambda f: f)
signals = module("celery.signals", worker_ready=Signal(), heartbeat_sent=Signal())
module("codejail")
module("codejail.jail_code", configure=lambda command, path, user: jail.update({command: (path, user)}))
module("xmodule")
module("xmodule.modulestore")


def update_module_store_settings(setting, doc_store_settings):
    for store in setting["default"]["OPTIONS"]["stores"]:
        store["DOC_STORE_CONFIG"] = doc_store_settings


module(
    "xmodule.modulestore.modulestore_settings",
    update_module_store_settings=update_module_store_settings,
)

for name in (variant, variant + ".envs"):
    module(name).__path__ = []
production = module(variant + ".envs.production")
ns = production.__dict__
with open(env_file, encoding="utf-8") as file:
    env = json.load(file)
ns.update({key: value for key, value in env.items() if key not in ("FEATURES", "JWT_AUTH")})
ns.update(
    MODULESTORE={"default": {"OPTIONS": {"stores": [{"NAME": "split", "OPTIONS": {}}]}}},
    INSTALLED_APPS=["a", "lms.djangoapps.coursewarehistoryextended", "b"],
    DATABASE_ROUTERS=[
        "openedx.core.lib.django_courseware_routers.StudentModuleHistoryExtendedRouter",
        "other",
    ],
    VIDEO_IMAGE_SETTINGS={"STORAGE_KWARGS": {"location": "/edx"}},
    VIDEO_TRANSCRIPTS_SETTINGS={"STORAGE_KWARGS": {"location": "/edx"}},
    LOGGING={
        "handlers": {"console": {}, "local": {"class": "SysLogHandler"}, "tracking": {"class": "SysLogHandler"}},
        "loggers": {"tracking": {"handlers": ["tracking"], "level": "DEBUG", "propagate": False}},
    },
    JWT_AUTH={"JWT_ALGORITHM": "HS256"},
    CODE_JAIL={"python_bin": "/edx/bin/python", "user": "sandbox", "limits": {"CPU": 1}},
    CELERY_IMPORTS=["platform.tasks"],
    REGISTRATION_EXTRA_FIELDS={"country": "required", "honor_code": "required"},
    PROFILE_IMAGE_BACKEND={"class": "storage", "options": {"base_url": "/media/profile-images/", "location": "/edx"}},
    TEMPLATES=[{"DIRS": ["/platform/templates"]}],
    CACHES={
        "loc_cache": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "edx_location_mem_cache"},
        "default": {"BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache", "LOCATION": ["localhost:11211"]},
    },
    STATIC_ROOT="/openedx/staticfiles",
    ENABLE_DISCUSSION_SERVICE=True,
)
if features_kind == "proxy":
    ns["FEATURES"] = View(ns)
    for key, value in env["FEATURES"].items():
        ns["FEATURES"][key] = value
else:
    ns["FEATURES"] = {"ENABLE_DISCUSSION_SERVICE": True, **env["FEATURES"]}

tutor = module(variant + ".envs.tutor")
tutor.__path__ = [folder]
__import__(variant + ".envs.tutor.production")
loaded = sys.modules[variant + ".envs.tutor.production"].__dict__

out = {}
for key, value in loaded.items():
    if key.isupper() and key != "FEATURES" and not key.startswith("_"):
        out[key] = value
# What the platform asks, in its two ways.
flags = {"flat": {}, "dict": {}}
for key in (
    "ENABLE_DISCUSSION_SERVICE", "PREVENT_CONCURRENT_LOGINS", "ENABLE_CORS_HEADERS", "ENABLE_COURSE_DISCOVERY",
    "ENABLE_COURSEWARE_SEARCH", "ENABLE_DASHBOARD_SEARCH", "ENABLE_FOOTER_MOBILE_APP_LINKS",
    "ENABLE_AUTHN_MICROFRONTEND", "ENABLE_NEW_BULK_EMAIL_EXPERIENCE", "ENABLE_COURSEWARE_INDEX",
    "MILESTONES_APP", "FROM_THE_SITE_FILE",
):
    if key in loaded:
        flags["flat"][key] = loaded[key]
    if key in loaded["FEATURES"]:
        flags["dict"][key] = loaded["FEATURES"][key]
json.dump(
    {
        "settings": out,
        "flags": flags,
        "made": made,
        "jail": jail,
        "signals": sorted(uid for s in (signals.worker_ready, signals.heartbeat_sent) for uid, _ in s.receivers),
    },
    sys.stdout,
    sort_keys=True,
    default=str,
)

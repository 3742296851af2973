"""The LMS of this site in production."""

import os

from lms.envs.production import *  # noqa: F401,F403

from lms.envs.tutor import shared, workerhealth

_SITE = shared.load()
shared.apply(globals(), _SITE, "lms")
workerhealth.install()

REGISTRATION_EXTRA_FIELDS = {
    **globals().get("REGISTRATION_EXTRA_FIELDS", {}),
    "terms_of_service": "hidden",
    "honor_code": "hidden",
}
PROFILE_IMAGE_BACKEND = shared.merge(
    globals().get("PROFILE_IMAGE_BACKEND", {}),
    {"options": {"location": os.path.join(MEDIA_ROOT, "profile-images/")}},  # noqa: F405
)
COURSE_CATALOG_VISIBILITY_PERMISSION = "see_in_catalog"
COURSE_ABOUT_VISIBILITY_PERMISSION = "see_about_page"
# Studio and the workers ask for tokens by plain http inside the site.
OAUTH_ENFORCE_SECURE = False
DEFAULT_EMAIL_LOGO_URL = _SITE["lms_url"] + "/theming/asset/images/logo.png"
BULK_EMAIL_SEND_USING_EDX_ACE = True
MOBILE_STORE_ACE_URLS = {}
SOCIAL_MEDIA_FOOTER_ACE_URLS = {}
SEARCH_SKIP_SHOW_IN_CATALOG_FILTERING = False
SEARCH_SKIP_ENROLLMENT_START_DATE_FILTERING = True
shared.set_features(
    globals(),
    {
        "ENABLE_FOOTER_MOBILE_APP_LINKS": False,
        "ENABLE_COURSE_DISCOVERY": _SITE["meilisearch"]["enabled"],
        "ENABLE_COURSEWARE_SEARCH": _SITE["meilisearch"]["enabled"],
        "ENABLE_DASHBOARD_SEARCH": _SITE["meilisearch"]["enabled"],
    },
)

# The site is only ever reached by https; SameSite=None lets Studio and the
# micro-frontends send the session from their own hosts.
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
SESSION_COOKIE_SAMESITE = "None"
IDA_LOGOUT_URI_LIST = list(globals().get("IDA_LOGOUT_URI_LIST", [])) + [
    _SITE["cms_url"] + "/logout/"
]

if _SITE["mfe"]:
    for _name, _value in _SITE["mfe"]["settings"].items():
        globals()[_name] = _value
    shared.set_features(
        globals(),
        {"ENABLE_AUTHN_MICROFRONTEND": True, "ENABLE_NEW_BULK_EMAIL_EXPERIENCE": True},
    )
    MFE_CONFIG = shared.merge(globals().get("MFE_CONFIG", {}), _SITE["mfe"]["config"])

for _dir in _SITE["template_dirs"]:
    TEMPLATES[0]["DIRS"].insert(0, _dir)  # noqa: F405

shared.finish(globals(), _SITE)

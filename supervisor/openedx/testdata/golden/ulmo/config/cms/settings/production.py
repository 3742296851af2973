"""Studio of this site in production."""

from cms.envs.production import *  # noqa: F401,F403

from cms.envs.tutor import shared, workerhealth

_SITE = shared.load()
shared.apply(globals(), _SITE, "cms")
workerhealth.install()

STUDIO_NAME = _SITE["studio_name"]

# Log-in goes through the LMS: between the servers inside the site, and for
# the browser by the public name.
SOCIAL_AUTH_EDX_OAUTH2_KEY = "cms-sso"
SOCIAL_AUTH_EDX_OAUTH2_SECRET = _SITE["oauth2_secret"]
SOCIAL_AUTH_EDX_OAUTH2_URL_ROOT = "http://lms:8000"
SOCIAL_AUTH_EDX_OAUTH2_PUBLIC_URL_ROOT = _SITE["lms_url"]
SOCIAL_AUTH_REDIRECT_IS_HTTPS = False  # the scheme is right as it comes from the proxy
SESSION_COOKIE_NAME = "studio_session_id"
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
FRONTEND_LOGIN_URL = _SITE["lms_url"] + "/login"
FRONTEND_REGISTER_URL = _SITE["lms_url"] + "/register"

MAX_ASSET_UPLOAD_FILE_SIZE_IN_MB = 100
shared.set_features(globals(), {"ENABLE_COURSEWARE_INDEX": _SITE["meilisearch"]["enabled"]})

if _SITE["mfe"]:
    for _name, _value in _SITE["mfe"]["settings"].items():
        globals()[_name] = _value

shared.finish(globals(), _SITE)

"""Addresses of both variants."""

from django.conf import settings
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt
from oauth2_provider.views import AuthorizationView, RevokeTokenView
from openedx.core.djangoapps.heartbeat.views import heartbeat

from campus.views import accounts, api, control, pages, studio

COURSE = r"(?P<key>course-v1:[^/+]+\+[^/+]+\+[^/+]+)"

both = [
    path("heartbeat", heartbeat),
    path("theming/asset/images/<str:name>", pages.picture),
    path("favicon.ico", pages.picture, {"name": "favicon.ico"}),
    path("csrf/api/v1/token", accounts.csrf_token),
    path("language/<str:code>", pages.language),
    re_path(r"^asset-v1:(?P<course>[^/]+?)\+(?P<name>type@asset\+block@[^/]+)$", pages.asset),
    path("_campus/state", control.state),
    path("_campus/switches", control.switch),
    path("_campus/count/<slug:name>", control.count),
]

lms = [
    path("", pages.home),
    path("dashboard", pages.dashboard),
    path("courses", pages.home),
    re_path("^courses/" + COURSE + "/(?:about|course/?)$", pages.course),
    re_path("^courses/" + COURSE + "/enroll$", pages.enroll),
    path("login", accounts.sign_in),
    path("register", accounts.register),
    path("logout", accounts.sign_out),
    path("login_refresh", accounts.login_refresh),
    path("activate/<str:key>", accounts.activate),
    path("account/password", accounts.password_reset),
    path("api/mfe_config/v1", pages.mfe_config),
    path("api/user/v1/me", accounts.me),
    path("api/user/v1/accounts/<str:username>", accounts.account),
    path("api/user/v1/validation/registration", accounts.validate_registration),
    path("api/user/v2/account/registration/", accounts.registration),
    path("api/user/v2/account/login_session/", accounts.login_session),
    path("api/profile_images/v1/<str:username>/upload", accounts.profile_image),
    path("api/courses/v1/courses/", api.courses),
    re_path("^api/courses/v1/courses/" + COURSE + "/?$", api.course),
    path("search/course_discovery/", api.search),
    re_path("^api/enrollment/v1/course/" + COURSE + "$", api.course_enrollment),
    path("api/enrollment/v1/enrollment", api.enrollment),
    re_path("^api/enrollment/v1/enrollment/(?P<username>[^,/]+)," + COURSE + "$", api.one_enrollment),
    path("oauth2/authorize", AuthorizationView.as_view()),
    path("oauth2/authorize/", AuthorizationView.as_view()),
    path("oauth2/access_token", csrf_exempt(accounts.AccessTokenView.as_view())),
    path("oauth2/access_token/", csrf_exempt(accounts.AccessTokenView.as_view())),
    path("oauth2/revoke_token/", csrf_exempt(RevokeTokenView.as_view())),
]

cms = [
    path("", pages.home),
    path("home/", studio.home),
    path("signin", studio.sign_in),
    path("login", studio.sign_in),
    path("login/", studio.sign_in),
    path("logout/", accounts.sign_out),
    path("logout", accounts.sign_out),
    path("complete/edx-oauth2/", studio.complete),
    path("api/v1/course_runs/", studio.course_runs),
    re_path("^api/v1/course_runs/" + COURSE + "/$", studio.course_runs),
    re_path("^import/" + COURSE + "$", studio.import_course),
    re_path("^import_status/" + COURSE + "/[^/]+$", studio.import_status),
    re_path("^assets/" + COURSE + "/$", studio.assets),
]

urlpatterns = both + (lms if settings.SERVICE_VARIANT == "lms" else cms)

"""Accounts: sign in and out, registration, profile, tokens."""

import json
import os
import re
import secrets

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.contrib.auth.tokens import default_token_generator
from django.core.exceptions import ValidationError
from django.core.files.storage import FileSystemStorage
from django.core.validators import validate_email
from django.db import transaction
from django.http import HttpResponse, HttpResponseBadRequest, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from oauth2_provider.views import TokenView

from campus import tasks, tokens
from campus.models import UserProfile
from campus.texts import texts

NAME = re.compile(r"[A-Za-z0-9_-]{2,30}")


def csrf_token(request):
    return JsonResponse({"csrfToken": get_token(request)})


def next_page(request):
    """Where to after signing in: only to this site's own hosts."""
    wanted = request.POST.get("next") or request.GET.get("next") or settings.LOGIN_REDIRECT_URL
    allowed = {request.get_host(), *settings.LOGIN_REDIRECT_WHITELIST}
    if url_has_allowed_host_and_scheme(wanted, allowed, require_https=request.is_secure()):
        return wanted
    return settings.LOGIN_REDIRECT_URL


def find_user(name):
    return User.objects.filter(email__iexact=name).first() if "@" in name else User.objects.filter(username=name).first()


def sign_in(request):
    """GET shows the form, or the micro-frontend that has one; POST signs in."""
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(next_page(request))
        if settings.ENABLE_AUTHN_MICROFRONTEND and settings.AUTHN_MICROFRONTEND_URL:
            query = "?" + urlencode({"next": request.GET["next"]}) if "next" in request.GET else ""
            return redirect(settings.AUTHN_MICROFRONTEND_URL + request.path.rstrip("/") + query)
        return render(request, "campus/sign_in.html", {"next": request.GET.get("next", "")})
    user = find_user(request.POST.get("email_or_username", ""))
    user = user and authenticate(request, username=user.username, password=request.POST.get("password", ""))
    if user is None:
        return render(request, "campus/sign_in.html", {"wrong": True, "next": request.POST.get("next", "")}, status=403)
    login(request, user)
    return redirect(next_page(request))


@csrf_exempt
@require_POST
def login_session(request):
    """Sign in for the micro-frontend: JSON in place of pages."""
    user = find_user(request.POST.get("email_or_username") or request.POST.get("email", ""))
    user = user and authenticate(request, username=user.username, password=request.POST.get("password", ""))
    if user is None:
        return JsonResponse(
            {"success": False, "value": "Email or password is incorrect.", "error_code": "incorrect-email-or-password"},
            status=400,
        )
    login(request, user)
    answer = JsonResponse({"success": True, "redirect_url": settings.LMS_ROOT_URL + "/dashboard"})
    header, payload, signature = tokens.make_jwt(user, ["user_id", "email", "profile"]).split(".")
    common = {"secure": settings.SESSION_COOKIE_SECURE, "samesite": settings.SESSION_COOKIE_SAMESITE}
    answer.set_cookie("edxloggedin", "true", **common)
    answer.set_cookie("edx-jwt-cookie-header-payload", header + "." + payload, **common)
    answer.set_cookie("edx-jwt-cookie-signature", signature, httponly=True, **common)
    return answer


def sign_out(request):
    logout(request)
    answer = redirect("/")
    for name in ("edxloggedin", "edx-jwt-cookie-header-payload", "edx-jwt-cookie-signature"):
        answer.delete_cookie(name)
    return answer


@csrf_exempt
def login_refresh(request):
    """New token cookies for a session that is there."""
    if not request.user.is_authenticated:
        return JsonResponse({}, status=401)
    return JsonResponse({"user_id": request.user.id, "response_epoch_seconds": 0})


def problems(form):
    """What is wrong with a registration: field to text."""
    found = {}
    name, email = form.get("username", ""), form.get("email", "")
    if "username" in form:
        if not NAME.fullmatch(name):
            found["username"] = "Usernames can only contain letters, numerals, underscores and hyphens (2 to 30)."
        elif User.objects.filter(username__iexact=name).exists():
            found["username"] = "It looks like this username is already taken"
    if "email" in form:
        try:
            validate_email(email)
            if User.objects.filter(email__iexact=email).exists():
                found["email"] = "This email is already associated with an existing or previous account"
        except ValidationError:
            found["email"] = "Enter a valid email address."
    if "password" in form:
        try:
            validate_password(form["password"])
        except ValidationError as error:
            found["password"] = " ".join(error.messages)
    if "name" in form and not form["name"].strip():
        found["name"] = "Enter your full name"
    return found


@csrf_exempt
@require_POST
def validate_registration(request):
    form = request.POST.dict() or _json(request)
    found = problems(form)
    return JsonResponse({"validation_decisions": {name: found.get(name, "") for name in form}})


def _json(request):
    try:
        value = json.loads(request.body or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def create_account(form, language):
    """A new account whose owner gets a mail; raises ValidationError."""
    form = {"username": "", "email": "", "password": "", "name": "", **form}
    found = problems(form)
    if found:
        raise ValidationError({name: [text] for name, text in found.items()})
    key = secrets.token_hex(16)
    with transaction.atomic():
        user = User.objects.create(
            username=form["username"], email=form["email"], password=make_password(form["password"]), first_name=form["name"][:150]
        )
        UserProfile.objects.create(user=user, name=form["name"], language=language, activation_key=key)
    t = texts(language)
    body = "{}: {}/activate/{}".format(t["mail_activate_body"], settings.LMS_ROOT_URL, key)
    # After the transaction: a worker is quicker than a commit.
    transaction.on_commit(lambda: tasks.mail.delay("{}: {}".format(settings.PLATFORM_NAME, t["mail_activate"]), body, user.email))
    return user


@csrf_exempt
@require_POST
def registration(request):
    try:
        user = create_account(request.POST.dict() or _json(request), request.LANGUAGE_CODE)
    except ValidationError as error:
        answer = {name: [{"user_message": text} for text in each] for name, each in error.message_dict.items()}
        return JsonResponse({"success": False, **answer}, status=400)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return JsonResponse({"success": True, "redirect_url": settings.LMS_ROOT_URL + "/dashboard"})


def register(request):
    if request.method != "POST":
        if settings.ENABLE_AUTHN_MICROFRONTEND and settings.AUTHN_MICROFRONTEND_URL:
            return redirect(settings.AUTHN_MICROFRONTEND_URL + "/register")
        return render(request, "campus/register.html")
    try:
        user = create_account(request.POST.dict(), request.LANGUAGE_CODE)
    except ValidationError as error:
        return render(request, "campus/register.html", {"errors": error.messages, "form": request.POST}, status=400)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("/dashboard")


def activate(request, key):
    profile = UserProfile.objects.filter(activation_key=key).first()
    if profile is None:
        return render(request, "campus/message.html", {"message": texts()["bad_link"]}, status=404)
    profile.activation_key = ""
    profile.save()
    return render(request, "campus/message.html", {"message": texts()["activated"]})


@csrf_exempt
@require_POST
def password_reset(request):
    """Always the same answer, so that nobody learns who has an account."""
    user = User.objects.filter(email__iexact=request.POST.get("email", "")).first()
    if user is not None:
        t = texts()
        link = "{}/password_reset_confirm/{}-{}/".format(settings.LMS_ROOT_URL, user.id, default_token_generator.make_token(user))
        tasks.mail.delay("{}: {}".format(settings.PLATFORM_NAME, t["mail_reset"]), "{}: {}".format(t["mail_reset_body"], link), user.email)
    return HttpResponse(status=200)


@tokens.signed_in
def me(request):
    return JsonResponse({"username": request.asker.username})


def account_fields(user):
    profile = getattr(user, "profile", None)
    return {
        "username": user.username,
        "name": profile.name if profile else "",
        "email": user.email,
        "is_active": user.is_active,
        "date_joined": user.date_joined.isoformat(),
        "profile_image": {"has_image": bool(profile and profile.image), "image_url_full": profile.image if profile else ""},
    }


@tokens.signed_in
def account(request, username):
    user = User.objects.filter(username=username).first()
    if user is None or (user != request.asker and not request.asker.is_staff):
        return JsonResponse({}, status=404)
    return JsonResponse(account_fields(user))


SIGNATURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif"}


@csrf_exempt
@tokens.signed_in
def profile_image(request, username):
    """Save the picture among the public media files."""
    if username != request.asker.username:
        return JsonResponse({}, status=404)
    file = request.FILES.get("file")
    if request.method != "POST" or file is None:
        return JsonResponse({"user_message": "No file provided for profile image"}, status=400)
    if file.size > settings.PROFILE_IMAGE_MAX_BYTES:
        return JsonResponse({"user_message": "The file must be smaller than 1 MB in size."}, status=400)
    data = file.read()
    suffix = next((s for head, s in SIGNATURES.items() if data.startswith(head)), None)
    if suffix is None:
        return JsonResponse({"user_message": "The file must be one of the following types: .gif, .png, .jpeg, .jpg."}, status=400)
    options = settings.PROFILE_IMAGE_BACKEND["options"]
    storage = FileSystemStorage(location=options["location"], base_url=options.get("base_url", "/media/profile-images/"))
    file.seek(0)
    profile, _ = UserProfile.objects.get_or_create(user=request.asker)
    old = os.path.basename(profile.image)
    profile.image = storage.url(storage.save(secrets.token_hex(16) + suffix, file))
    profile.save()
    if old:
        storage.delete(old)
    return JsonResponse({"image_url": profile.image})


class AccessTokenView(TokenView):
    """OAuth tokens; with token_type=jwt a signed statement takes the token's place."""

    def post(self, request, *args, **kwargs):
        answer = super().post(request, *args, **kwargs)
        if answer.status_code != 200 or request.POST.get("token_type", "").lower() != "jwt":
            return answer
        body = json.loads(answer.content)
        user = tokens.user_of(_Bearer(body["access_token"]))
        if user is None:
            return HttpResponseBadRequest()
        body["access_token"] = tokens.make_jwt(user, body.get("scope", "").split(), body["expires_in"])
        body["token_type"] = "JWT"
        return JsonResponse(body)


class _Bearer:
    def __init__(self, token):
        self.headers = {"Authorization": "Bearer " + token}


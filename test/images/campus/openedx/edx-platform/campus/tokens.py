"""Tokens: made by the LMS, understood by both variants."""

import functools
import json
import time

import jwt
from django.conf import settings
from django.contrib.auth.models import User
from django.http import JsonResponse
from django.middleware.csrf import CsrfViewMiddleware
from oauth2_provider.models import get_access_token_model


def make_jwt(user, scopes, seconds=3600, asymmetric=True):
    """A signed statement of who the user is."""
    auth = settings.JWT_AUTH
    now = int(time.time())
    claims = {
        "aud": auth.get("JWT_AUDIENCE"),
        "iss": auth.get("JWT_ISSUER"),
        "exp": now + seconds,
        "iat": now,
        "grant_type": "password",
        "preferred_username": user.username,
        "scopes": scopes,
        "version": "1.2.0",
        "sub": str(user.id),
        "user_id": user.id,
        "email": user.email,
        "name": user.get_full_name(),
        "administrator": user.is_staff,
        "superuser": user.is_superuser,
    }
    private = auth.get("JWT_PRIVATE_SIGNING_JWK")
    if asymmetric and private:
        jwk = json.loads(private)
        key = jwt.PyJWK.from_dict({"alg": "RS512", **jwk}).key
        return jwt.encode(claims, key, algorithm="RS512", headers={"kid": jwk.get("kid")})
    return jwt.encode(claims, auth["JWT_SECRET_KEY"], algorithm="HS256")


def read_jwt(token):
    """The claims of a valid token, else None."""
    auth = settings.JWT_AUTH
    keys = [(auth.get("JWT_SECRET_KEY"), "HS256")]
    if auth.get("JWT_PUBLIC_SIGNING_JWK_SET"):
        for jwk in json.loads(auth["JWT_PUBLIC_SIGNING_JWK_SET"])["keys"]:
            keys.append((jwt.PyJWK.from_dict({"alg": "RS512", **jwk}).key, "RS512"))
    for key, algorithm in keys:
        try:
            return jwt.decode(
                token, key, algorithms=[algorithm], audience=auth.get("JWT_AUDIENCE"), issuer=auth.get("JWT_ISSUER")
            )
        except jwt.InvalidTokenError:
            continue
    return None


def user_of(request):
    """Who asks: by session, JWT, or OAuth token. None when nobody or not valid."""
    head = request.headers.get("Authorization", "")
    kind, _, token = head.partition(" ")
    if kind == "JWT":
        claims = read_jwt(token)
        if claims:
            return User.objects.filter(username=claims.get("preferred_username"), is_active=True).first()
        return None
    if kind == "Bearer":
        found = get_access_token_model().objects.select_related("user", "application__user").filter(token=token).first()
        if found and found.is_valid():
            return found.user or found.application.user
        return None
    return request.user if request.user.is_authenticated else None


class _CSRF(CsrfViewMiddleware):
    def _reject(self, request, reason):
        return reason


def forged(request):
    """Why a request with a session may come from another site's page; else None."""
    check = _CSRF(lambda _: None)
    check.process_request(request)
    return check.process_view(request, None, (), {})


def signed_in(view):
    """The view with request.asker, or 401.

    The view may be exempt from Django's own check of forged requests, which
    tokens need not pass; sessions are checked here.
    """

    @functools.wraps(view)
    def inner(request, *args, **kwargs):
        request.asker = user_of(request)
        if request.asker is None:
            return JsonResponse({"detail": "Authentication credentials were not provided."}, status=401)
        if not request.headers.get("Authorization"):
            reason = forged(request)
            if reason:
                return JsonResponse({"detail": "CSRF Failed: {}".format(reason)}, status=403)
        return view(request, *args, **kwargs)

    return inner

"""Studio: sign-in by the LMS, courses, import, files."""

import base64
import json
import secrets
import uuid

import requests
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.http import urlencode
from django.views.decorators.csrf import csrf_exempt

from campus import courses, olx, tasks, tokens
from campus.models import CourseOverview, StudioTask
from campus.texts import texts

BACKEND = "django.contrib.auth.backends.ModelBackend"


def callback(request):
    return request.build_absolute_uri("/complete/edx-oauth2/")


def sign_in(request):
    """To the LMS, which knows who the visitor is."""
    state = secrets.token_urlsafe(24)
    request.session["oauth_state"] = state
    request.session["oauth_next"] = request.GET.get("next", "/home/")
    return redirect(
        "{}/oauth2/authorize?{}".format(
            settings.SOCIAL_AUTH_EDX_OAUTH2_PUBLIC_URL_ROOT,
            urlencode(
                {
                    "client_id": settings.SOCIAL_AUTH_EDX_OAUTH2_KEY,
                    "redirect_uri": callback(request),
                    "response_type": "code",
                    "state": state,
                    "scope": "user_id profile email",
                }
            ),
        )
    )


def complete(request):
    """Back from the LMS with a code, which is changed for a token."""
    if not request.GET.get("state") or request.GET["state"] != request.session.pop("oauth_state", None):
        return HttpResponse("state does not match", status=403)
    answer = requests.post(
        settings.SOCIAL_AUTH_EDX_OAUTH2_URL_ROOT + "/oauth2/access_token",
        data={
            "grant_type": "authorization_code",
            "client_id": settings.SOCIAL_AUTH_EDX_OAUTH2_KEY,
            "client_secret": settings.SOCIAL_AUTH_EDX_OAUTH2_SECRET,
            "redirect_uri": callback(request),
            "code": request.GET.get("code", ""),
            "token_type": "jwt",
        },
        timeout=20,
    )
    claims = tokens.read_jwt(answer.json().get("access_token", "")) if answer.status_code == 200 else None
    user = claims and User.objects.filter(username=claims["preferred_username"], is_active=True).first()
    if not user:
        return HttpResponse("the LMS did not confirm the sign-in", status=403)
    after = request.session.pop("oauth_next", "/home/")
    login(request, user, backend=BACKEND)
    return redirect(after if after.startswith("/") and not after.startswith("//") else "/home/")


def author(user):
    return user.is_staff or user.is_superuser


def home(request):
    if not request.user.is_authenticated:
        return redirect("/login?" + urlencode({"next": request.path}))
    if not author(request.user):
        return render(request, "campus/message.html", {"message": texts()["no_rights"]}, status=403)
    return render(request, "campus/studio.html", {"courses": CourseOverview.objects.order_by("display_name")})


@csrf_exempt
@tokens.signed_in
def course_runs(request, key=None):
    """GET lists courses or shows one, POST makes one."""
    if not author(request.asker):
        return JsonResponse({"detail": "You do not have permission to perform this action."}, status=403)
    if request.method == "POST":
        try:
            body = json.loads(request.body)
            made = courses.publish(
                body["org"], body["number"], body["run"], {"display_name": body["title"]}, [], [], request.asker.username
            )
        except (ValueError, KeyError, TypeError):
            return JsonResponse({"detail": "title, org, number and run are required"}, status=400)
        except olx.BadCourse as error:
            return JsonResponse({"detail": str(error)}, status=400)
        return JsonResponse(run_fields(CourseOverview.objects.get(id=made)), status=201)
    if key:
        found = CourseOverview.objects.filter(id=key).first()
        return JsonResponse(run_fields(found)) if found else JsonResponse({"detail": "Not found."}, status=404)
    results = [run_fields(c) for c in CourseOverview.objects.order_by("id")]
    return JsonResponse({"count": len(results), "results": results})


def run_fields(course):
    return {"id": course.id, "title": course.display_name, "org": course.org, "number": course.number, "run": course.run}


@csrf_exempt
@tokens.signed_in
def import_course(request, key):
    """Take an archive; a worker imports it."""
    if not author(request.asker):
        return JsonResponse({}, status=403)
    file = request.FILES.get("course-data") or request.FILES.get("course_data")
    if request.method != "POST" or file is None or not file.name.endswith((".tar.gz", ".tgz")):
        return JsonResponse({"ErrMsg": "We only support uploading a .tar.gz file.", "Stage": -1}, status=415)
    job = StudioTask.objects.create(uuid=str(uuid.uuid4()), course_id=key)
    data = base64.b64encode(file.read()).decode()
    transaction.on_commit(lambda: tasks.import_course.delay(job.uuid, key, data, request.asker.username))
    return JsonResponse({"ImportStatus": 1, "task_id": job.uuid})


@tokens.signed_in
def import_status(request, key):
    job = StudioTask.objects.filter(course_id=key).order_by("-id").first()
    if job is None:
        return JsonResponse({"ImportStatus": 0})
    status = {"pending": 1, "done": 4, "failed": -1}[job.state]
    return JsonResponse({"ImportStatus": status, "Message": job.message, "task_id": job.uuid})


@csrf_exempt
@tokens.signed_in
def assets(request, key):
    """Save a file with a course."""
    from xmodule.contentstore.mongo import contentstore

    if not author(request.asker):
        return JsonResponse({}, status=403)
    file = request.FILES.get("file")
    if request.method != "POST" or file is None or not CourseOverview.objects.filter(id=key).exists():
        return JsonResponse({"error": "no such course or no file"}, status=400)
    if file.size > settings.MAX_ASSET_UPLOAD_FILE_SIZE_IN_MB << 20:
        return JsonResponse({"error": "File is too large"}, status=413)
    saved = contentstore().save(key, "type@asset+block@" + file.name, file.read(), file.content_type)
    return JsonResponse({"asset": {"id": saved, "url": "/" + saved, "external_url": settings.LMS_ROOT_URL + "/" + saved}})

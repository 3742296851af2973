"""Pages for people, and what they need: pictures and the settings of micro-frontends."""

import struct
import zlib

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import FileResponse, Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from campus.models import CourseEnrollment, CourseOverview

TONES = 6  # colours of the style sheet


def home(request):
    if settings.SERVICE_VARIANT == "cms":
        return redirect("/home/")
    courses = list(CourseOverview.objects.order_by("display_name"))
    for course in courses:
        course.tone = zlib.crc32(course.number.encode()) % TONES
    return render(request, "campus/home.html", {"courses": courses})


@login_required
def dashboard(request):
    found = CourseEnrollment.objects.filter(user=request.user, is_active=True).select_related("course")
    return render(request, "campus/dashboard.html", {"enrollments": found})


def course(request, key):
    from xmodule.modulestore.django import modulestore

    overview = get_object_or_404(CourseOverview, id=key)
    overview.tone = zlib.crc32(overview.number.encode()) % TONES
    enrolled = request.user.is_authenticated and CourseEnrollment.objects.filter(
        user=request.user, course=overview, is_active=True
    ).exists()
    structure = modulestore().course(key) or {"blocks": []}
    blocks = [b for b in structure["blocks"] if b["type"] != "course"]
    asset = "/asset-v1:{}+type@asset+block@".format(key.partition(":")[2])
    for block in blocks:
        block["html"] = block.get("data", "").replace("/static/", asset) if enrolled else ""
        block["level"] = {"chapter": 2, "sequential": 3}.get(block["type"], 4)
    if not enrolled:
        blocks = [b for b in blocks if b["level"] < 4]
    return render(request, "campus/course.html", {"course": overview, "enrolled": enrolled, "blocks": blocks})


@require_POST
@login_required
def enroll(request, key):
    overview = get_object_or_404(CourseOverview, id=key)
    CourseEnrollment.objects.update_or_create(user=request.user, course=overview, defaults={"is_active": True})
    return redirect("/courses/{}/about".format(key))


def asset(request, course, name):
    """A file of a course."""
    from xmodule.contentstore.mongo import contentstore

    found = contentstore().find("asset-v1:{}+{}".format(course, name))
    if found is None:
        raise Http404
    return FileResponse(found, content_type=found.content_type or "application/octet-stream")


def language(request, code):
    answer = redirect(request.headers.get("Referer") or "/")
    if code in dict(settings.LANGUAGES):
        answer.set_cookie(settings.LANGUAGE_COOKIE_NAME, code, max_age=31536000)
    return answer


def mfe_config(request):
    if not settings.ENABLE_MFE_CONFIG_API:
        raise Http404
    app = request.GET.get("mfe", "")
    overrides = getattr(settings, "MFE_CONFIG_OVERRIDES", {})
    return JsonResponse({**settings.MFE_CONFIG, **overrides.get(app, {})})


def picture(request, name):
    """The logo and its small form, drawn here: a platform to stand on."""
    size = 32 if name == "favicon.ico" else 96
    return HttpResponse(png(size), content_type="image/png", headers={"Cache-Control": "max-age=86400"})


def png(size):
    rows = []
    for y in range(size):
        row = bytearray([0])
        for x in range(size):
            u, v = x / size, y / size
            beam = 0.56 < v < 0.7 and 0.12 < u < 0.88
            leg = 0.7 <= v < 0.86 and (0.18 < u < 0.28 or 0.72 < u < 0.82)
            head = (u - 0.5) ** 2 + (v - 0.32) ** 2 < 0.028
            row += bytes((255, 255, 255) if beam or leg or head else (11, 110, 105))
        rows.append(bytes(row))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")

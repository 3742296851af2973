"""Courses and enrolment for programs."""

import json

from django.conf import settings
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt

from campus import tokens
from campus.models import CourseEnrollment, CourseOverview


def fields(course):
    return {
        "id": course.id,
        "course_id": course.id,
        "name": course.display_name,
        "org": course.org,
        "number": course.number,
        "short_description": course.short_description,
        "start": course.start.isoformat() if course.start else None,
        "blocks_url": "{}/api/courses/v2/blocks/?course_id={}".format(settings.LMS_ROOT_URL, course.id),
    }


def positive(text, otherwise):
    return int(text) if text and text.isdigit() and int(text) > 0 else otherwise


def courses(request):
    size = min(positive(request.GET.get("page_size"), 10), 100)
    page = positive(request.GET.get("page"), 1)
    found = CourseOverview.objects.order_by("id")
    count = found.count()
    pages = max(1, (count + size - 1) // size)
    if page > pages:
        return JsonResponse({"detail": "Invalid page."}, status=404)
    results = [fields(c) for c in found[(page - 1) * size : page * size]]
    return JsonResponse({"results": results, "pagination": {"next": None, "previous": None, "count": count, "num_pages": pages}})


def course(request, key):
    found = CourseOverview.objects.filter(id=key).first()
    if found is None:
        return JsonResponse({"developer_message": "Course not found."}, status=404)
    return JsonResponse(fields(found))


def search(request):
    """Courses whose words match, asked of the search service."""
    from search.meilisearch import MeilisearchEngine

    hits = MeilisearchEngine("course_info").search(request.POST.get("search_string") or request.GET.get("q", ""), limit=20)
    return JsonResponse({"total": len(hits), "results": [{"_id": hit["id"], "data": hit} for hit in hits]})


search.csrf_exempt = True


def enrollment_fields(e):
    return {
        "user": e.user.username,
        "mode": getattr(e, CourseEnrollment.MODE),
        "is_active": e.is_active,
        "created": e.created.isoformat(),
        "course_details": {"course_id": e.course_id, "course_name": e.course.display_name},
    }


def course_enrollment(request, key):
    found = CourseOverview.objects.filter(id=key).first()
    if found is None:
        return JsonResponse({"message": "No course found for course ID '{}'".format(key)}, status=404)
    return JsonResponse(
        {"course_id": found.id, "course_name": found.display_name, "course_modes": [{"slug": "audit", "name": "Audit"}], "invite_only": False}
    )


@csrf_exempt
@tokens.signed_in
def enrollment(request):
    if request.method == "GET":
        mine = CourseEnrollment.objects.filter(user=request.asker, is_active=True).select_related("course", "user")
        return JsonResponse([enrollment_fields(e) for e in mine], safe=False)
    if request.method != "POST":
        return JsonResponse({}, status=405)
    try:
        body = json.loads(request.body)
        key = body["course_details"]["course_id"]
    except (ValueError, KeyError, TypeError):
        return JsonResponse({"message": "Course ID must be specified to create a new enrollment."}, status=400)
    user = request.asker
    if body.get("user") and body["user"] != user.username:
        if not user.is_staff:
            return JsonResponse({}, status=404)
        user = type(user).objects.filter(username=body["user"]).first()
    found = CourseOverview.objects.filter(id=key).first()
    if found is None or user is None:
        return JsonResponse({"message": "No course '{}' found for enrollment".format(key)}, status=400)
    e, _ = CourseEnrollment.objects.update_or_create(
        user=user,
        course=found,
        defaults={"is_active": body.get("is_active", True), CourseEnrollment.MODE: body.get("mode") or "audit"},
    )
    return JsonResponse(enrollment_fields(e))


@tokens.signed_in
def one_enrollment(request, username, key):
    e = CourseEnrollment.objects.filter(user__username=username, course_id=key).select_related("course", "user").first()
    if e is None or (username != request.asker.username and not request.asker.is_staff):
        return JsonResponse({}, status=404)
    return JsonResponse(enrollment_fields(e))

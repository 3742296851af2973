"""Courses in their three places: course store, catalogue, search."""

import datetime
import logging
import re

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from campus import olx
from campus.models import CourseOverview

log = logging.getLogger(__name__)
tracking = logging.getLogger("tracking")


def publish(org, number, run, fields, blocks, files, user="system"):
    """Save a course and put it into the catalogue; returns its key."""
    from xmodule.contentstore.mongo import contentstore
    from xmodule.modulestore.django import modulestore

    key = olx.course_key(org, number, run)
    modulestore().save(key, blocks, user, fields)
    for name, data, kind in files:
        contentstore().save(key, name, data, kind)
    with transaction.atomic():
        CourseOverview.objects.update_or_create(
            id=key,
            defaults={
                "org": org,
                "number": number,
                "run": run,
                "display_name": fields.get("display_name") or number,
                "short_description": fields.get("short_description", ""),
                "language": fields.get("language", ""),
                "start": _start(fields.get("start")),
            },
        )
    tracking.info("course published %s", key)
    return key


def _start(text):
    if not text:
        return timezone.now()
    try:
        start = datetime.datetime.fromisoformat(text.strip('"').replace("Z", "+00:00"))
    except ValueError:
        return timezone.now()
    return start if start.tzinfo else start.replace(tzinfo=datetime.timezone.utc)


def remove(key):
    """Take a course out of all three places."""
    from xmodule.contentstore.mongo import contentstore
    from xmodule.modulestore.django import modulestore

    CourseOverview.objects.filter(id=key).delete()
    modulestore().delete(key)
    contentstore().delete_course(key)
    if settings.MEILISEARCH_ENABLED:
        from search.meilisearch import MeilisearchEngine

        MeilisearchEngine("course_info").remove([key])


def index(keys):
    """Put courses into the search indexes; returns how many."""
    from search.meilisearch import MeilisearchEngine, create_indexes
    from xmodule.modulestore.django import modulestore

    create_indexes(["courseware_content", "course_info"])
    count = 0
    for course in CourseOverview.objects.filter(id__in=keys):
        MeilisearchEngine("course_info").put(
            [
                {
                    "id": course.id,
                    "course": course.id,
                    "org": course.org,
                    "language": course.language,
                    "content": {"display_name": course.display_name, "overview": course.short_description},
                }
            ]
        )
        structure = modulestore().course(course.id) or {"blocks": []}
        documents = [
            {
                "id": course.id + "/" + block["name"],
                "course": course.id,
                "org": course.org,
                "content_type": block["type"],
                "content": {"display_name": block["display_name"], "text": re.sub("<[^>]+>", " ", block.get("data", ""))},
            }
            for block in structure["blocks"]
        ]
        if documents:
            MeilisearchEngine("courseware_content").put(documents)
        count += 1
    return count

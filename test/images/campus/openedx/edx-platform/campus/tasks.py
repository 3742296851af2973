"""What workers do."""

import base64
import logging

from celery import shared_task
from django.conf import settings
from django.core.cache import caches
from django.core.mail import send_mail

log = logging.getLogger(__name__)


@shared_task(autoretry_for=(OSError,), retry_backoff=2, max_retries=8)
def mail(subject, body, recipient):
    """Send one mail; the relay may be away for a while."""
    send_mail(subject, body, settings.DEFAULT_FROM_EMAIL, [recipient])
    log.info("mail for %s handed to the relay", recipient)


@shared_task
def import_course(uuid, key, data, user):
    """Import an archive (base64) as the course that key names."""
    from campus import courses, olx
    from campus.models import StudioTask

    job = StudioTask.objects.filter(uuid=uuid)
    try:
        course = olx.read_archive(base64.b64decode(data))
        org, number, run = key.partition(":")[2].split("+")
        courses.publish(org, number, run, course["fields"], course["blocks"], course["files"], user)
        if settings.MEILISEARCH_ENABLED:
            courses.index([key])
        job.update(state="done", message="")
    except Exception as error:
        log.exception("import of %s", key)
        job.update(state="failed", message=str(error))


@shared_task
def reindex_studio():
    """All blocks of all courses, for the search in Studio."""
    from search.meilisearch import MeilisearchEngine, create_indexes
    from xmodule.modulestore.django import modulestore

    create_indexes(["studio_content"])
    engine = MeilisearchEngine("studio_content")
    count = 0
    for key in modulestore().course_ids():
        documents = [
            {
                "id": key + "/" + block["name"],
                "context_key": key,
                "type": block["type"],
                "tags": [],
                "display_name": block["display_name"],
            }
            for block in (modulestore().course(key) or {"blocks": []})["blocks"]
        ]
        if documents:
            engine.put(documents)
            count += len(documents)
    log.info("studio index: %d blocks", count)
    return count


@shared_task
def count(name):
    """Add one to a counter: proof for tests that a task was done once."""
    try:
        return caches["default"].incr(name)
    except ValueError:
        caches["default"].add(name, 0, timeout=None)
        return caches["default"].incr(name)

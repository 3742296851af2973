"""The questions that /heartbeat asks. Each returns name, whether it went well, and a message."""

import logging
import time

from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.db.utils import DatabaseError

log = logging.getLogger(__name__)


def check_modulestore():
    from xmodule.modulestore.django import modulestore

    try:
        modulestore().heartbeat()
        return "modulestore", True, "OK"
    except Exception as fail:
        log.exception("modulestore")
        return "modulestore", False, str(fail)


def check_database():
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        return "sql", True, "OK"
    except DatabaseError as fail:
        log.exception("sql")
        return "sql", False, str(fail)


def check_cache_set():
    try:
        cache.set("heartbeat-test", "Hello", timeout=2)
        return "cache_set", True, "OK"
    except Exception as fail:
        return "cache_set", False, str(fail)


def check_cache_get():
    try:
        ok = cache.get("heartbeat-test") == "Hello"
        return "cache_get", ok, "OK" if ok else "value was not there"
    except Exception as fail:
        return "cache_get", False, str(fail)


def check_celery():
    from .tasks import sample_task

    before = time.monotonic()
    try:
        task = sample_task.apply_async(routing_key=settings.HEARTBEAT_CELERY_ROUTING_KEY)
        while time.monotonic() - before < settings.HEARTBEAT_CELERY_TIMEOUT:
            if task.ready():
                return "celery", True, str(time.monotonic() - before)
            time.sleep(0.25)
        return "celery", False, "expired"
    except Exception as fail:
        log.exception("celery")
        return "celery", False, str(fail)

"""The course store of this process, made once."""

from django.conf import settings

from xmodule.modulestore.mongo_store import CourseStore

_store = None


def modulestore():
    global _store
    if _store is None:
        _store = CourseStore(settings.MODULESTORE["default"]["OPTIONS"]["stores"][0]["DOC_STORE_CONFIG"])
    return _store

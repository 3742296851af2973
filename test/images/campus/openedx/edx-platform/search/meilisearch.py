"""Search by Meilisearch: the indexes of courses and of their contents."""

import hashlib

import meilisearch
from django.conf import settings
from meilisearch.errors import MeilisearchApiError

PRIMARY_KEY = "_pk"
INDEXES = {
    "courseware_content": ["course", "org", "content_type"],
    "course_info": ["course", "org", "language", "modes"],
    "studio_content": ["context_key", "type", "tags"],
}


def client():
    return meilisearch.Client(settings.MEILISEARCH_URL, settings.MEILISEARCH_API_KEY, timeout=20)


def index_name(name):
    return settings.MEILISEARCH_INDEX_PREFIX + name


def key_of(identifier):
    """A primary key, which may hold only letters, digits and hyphens."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:40]


def wait(server, task):
    done = server.wait_for_task(task.task_uid, timeout_in_ms=20000)
    if done.status != "succeeded":
        raise RuntimeError("search: {}".format(done.error))


def create_indexes(names=INDEXES):
    """Make what is not there and set what may be filtered by."""
    server = client()
    for name in names:
        try:
            index = server.get_index(index_name(name))
        except MeilisearchApiError as error:
            if error.code != "index_not_found":
                raise
            wait(server, server.create_index(index_name(name), {"primaryKey": PRIMARY_KEY}))
            index = server.get_index(index_name(name))
        wait(server, index.update_filterable_attributes(INDEXES[name]))


class MeilisearchEngine:
    """What SEARCH_ENGINE names."""

    def __init__(self, index="course_info"):
        self.index = client().index(index_name(index))

    def put(self, documents):
        documents = [{PRIMARY_KEY: key_of(d["id"]), **d} for d in documents]
        wait(client(), self.index.add_documents(documents))

    def search(self, text, **options):
        return self.index.search(text, options)["hits"]

    def remove(self, identifiers):
        wait(client(), self.index.delete_documents([key_of(i) for i in identifiers]))

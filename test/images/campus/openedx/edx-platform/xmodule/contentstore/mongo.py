"""Files of courses, in GridFS."""

import gridfs
from django.conf import settings

from xmodule.modulestore.mongo_store import connect

_bucket = None


class MongoContentStore:
    """Files by course and name; a new file takes the old one's place."""

    def __init__(self, db):
        self.fs = gridfs.GridFS(db)

    def save(self, course_id, name, data, content_type):
        key = "asset-v1:{}+{}".format(course_id.partition(":")[2], name)
        older = [old._id for old in self.fs.find({"filename": key})]
        self.fs.put(data, filename=key, contentType=content_type)
        for old in older:
            self.fs.delete(old)
        return key

    def find(self, key):
        return self.fs.find_one({"filename": key})

    def delete_course(self, course_id):
        prefix = "asset-v1:{}+".format(course_id.partition(":")[2])
        for file in self.fs.find({}):
            if file.filename.startswith(prefix):
                self.fs.delete(file._id)


def contentstore():
    global _bucket
    if _bucket is None:
        _bucket = MongoContentStore(connect(settings.CONTENTSTORE["DOC_STORE_CONFIG"]))
    return _bucket

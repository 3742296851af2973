"""Courses in MongoDB: structures that are never changed, and pointers to the
newest of each course."""

import datetime

import pymongo
from bson import ObjectId

# Keys of DOC_STORE_CONFIG that are not for the client.
OWN = {"db", "host", "port", "user", "password", "collection", "read_preference", "proxy", "retry_wait_time"}


def connect(config):
    """The database that a DOC_STORE_CONFIG names."""
    options = {k: v for k, v in config.items() if k not in OWN and v is not None}
    if options.pop("authsource", None) and config.get("user"):
        options["authSource"] = config["authsource"]
    if config.get("user"):
        options["username"], options["password"] = config["user"], config.get("password")
    client = pymongo.MongoClient(config["host"], int(config.get("port") or 27017), tz_aware=True, **options)
    return client[config["db"]]


class CourseStore:
    """Structures, definitions and pointers of all courses."""

    def __init__(self, config):
        self.db = connect(config)
        self.pointers = self.db["modulestore.active_versions"]
        self.structures = self.db["modulestore.structures"]

    def heartbeat(self):
        """Raise when the server does not answer."""
        self.db.client.admin.command("ping")

    def save(self, course_id, blocks, user, fields=None):
        """Make blocks the course's newest structure; returns its id."""
        pointer = self.pointers.find_one({"course_id": course_id})
        structure = {
            "_id": ObjectId(),
            "course_id": course_id,
            "previous_version": pointer["versions"]["published"] if pointer else None,
            "edited_by": user,
            "edited_on": datetime.datetime.now(datetime.timezone.utc),
            "fields": fields or {},
            "blocks": blocks,
        }
        self.structures.insert_one(structure)
        self.pointers.update_one(
            {"course_id": course_id},
            {"$set": {"versions": {"published": structure["_id"]}, "last_update": structure["edited_on"]}},
            upsert=True,
        )
        return structure["_id"]

    def course(self, course_id):
        """The newest structure of a course, or None."""
        pointer = self.pointers.find_one({"course_id": course_id})
        if pointer is None:
            return None
        return self.structures.find_one({"_id": pointer["versions"]["published"]})

    def course_ids(self):
        return sorted(pointer["course_id"] for pointer in self.pointers.find({}))

    def delete(self, course_id):
        self.pointers.delete_many({"course_id": course_id})
        self.structures.delete_many({"course_id": course_id})

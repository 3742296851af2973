from django.core.management.base import BaseCommand, CommandError

from campus import courses
from campus.models import CourseOverview


class Command(BaseCommand):
    help = "Deletes a course after two questions."

    def add_arguments(self, parser):
        parser.add_argument("course_key")
        parser.add_argument("--keep-instructors", action="store_true")

    def handle(self, course_key, **options):
        if not CourseOverview.objects.filter(id=course_key).exists():
            raise CommandError("Course not found: {}".format(course_key))
        for question in ("Are you sure you want to delete {}? (y/n) ", "Really? (y/n) "):
            try:
                answer = input(question.format(course_key))
            except EOFError:
                answer = ""
            if answer.lower() not in ("y", "yes"):
                raise CommandError("nothing was deleted")
        courses.remove(course_key)
        self.stdout.write("Deleted course {}".format(course_key))

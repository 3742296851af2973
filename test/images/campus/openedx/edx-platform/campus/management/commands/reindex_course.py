from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q
from django.utils import timezone

from campus import courses
from campus.models import CourseOverview


class Command(BaseCommand):
    help = "Puts courses into the search index."

    def add_arguments(self, parser):
        parser.add_argument("course_ids", nargs="*")
        parser.add_argument("--all", action="store_true")
        parser.add_argument("--active", action="store_true")
        parser.add_argument("--setup", action="store_true")

    def handle(self, course_ids, **options):
        if not settings.SEARCH_ENGINE:
            raise CommandError("no SEARCH_ENGINE is set")
        if options["all"] or options["setup"]:
            found = CourseOverview.objects.all()
        elif options["active"]:
            found = CourseOverview.objects.filter(Q(start=None) | Q(start__lte=timezone.now()))
        elif course_ids:
            found = CourseOverview.objects.filter(id__in=course_ids)
        else:
            raise CommandError("reindex_course requires one or more <course_id>s, --all or --active")
        self.stdout.write("{} courses indexed".format(courses.index([course.id for course in found])))

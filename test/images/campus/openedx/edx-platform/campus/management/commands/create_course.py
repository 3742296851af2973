from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from campus import courses, olx


class Command(BaseCommand):
    help = "Creates an empty course."

    def add_arguments(self, parser):
        parser.add_argument("modulestore", choices=["split"])
        parser.add_argument("user")
        parser.add_argument("org")
        parser.add_argument("number")
        parser.add_argument("run")
        parser.add_argument("name", nargs="?")

    def handle(self, modulestore, user, org, number, run, name=None, **options):
        if not User.objects.filter(Q(username=user) | Q(email=user)).exists():
            raise CommandError("No user {} found".format(user))
        try:
            key = courses.publish(org, number, run, {"display_name": name or number}, [], [], user)
        except olx.BadCourse as error:
            raise CommandError(str(error)) from error
        self.stdout.write("Created {}".format(key))

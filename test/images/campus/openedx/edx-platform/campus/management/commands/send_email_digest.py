from django.contrib.auth.models import User
from django.core.management.base import BaseCommand

from campus import tasks
from campus.models import CourseEnrollment


class Command(BaseCommand):
    help = "Sends everyone a summary of their courses."

    def add_arguments(self, parser):
        parser.add_argument("cadence_type", choices=["Daily", "Weekly"])

    def handle(self, cadence_type, **options):
        count = 0
        for user in User.objects.filter(is_active=True).exclude(email=""):
            names = [e.course.display_name for e in CourseEnrollment.objects.filter(user=user, is_active=True)]
            if names:
                tasks.mail.delay("{} digest".format(cadence_type), "\n".join(names), user.email)
                count += 1
        self.stdout.write("{} digests".format(count))

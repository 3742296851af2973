from django.core.management.base import BaseCommand

from campus import tasks


class Command(BaseCommand):
    help = "Hands due tasks of instructors to the workers."

    def handle(self, **options):
        tasks.count.delay("scheduled-instructor-tasks")
